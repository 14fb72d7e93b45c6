"""Run the stages of `aot.compression.aot` as Triton kernels; the host does not wait for the GPU.

Counts that depend on the content stay on the device. So tensors have room for all patches or cells
of a frame, and kernels read from the device how many are used. Each kernel is tested against the
torch version of the same stage.

1. `method`: the order of the stages, and the conditions for using the kernels.
2. `layout`: the tables that the host uploads first.
3. `anchors`: anchors, kept cells and the share of each frame in the budget.
4. `intra_frame`: Phase I, with its kernels `intra_cost` and `intra_sinkhorn`.
5. `inter_frame`: Phase II.
6. `token_order`: the order of the kept tokens.
"""
