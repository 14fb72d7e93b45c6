"""Run AOT on a GPU without waits: the stages of `aot.compression.aot` as Triton kernels.

Counts that depend on the content stay on the device. Tensors have room for all patches or cells of
a frame; kernels read the used sizes from the device. Each kernel is tested against the torch
version of the same stage.

1. `method`: the stages, and the conditions for using them.
2. `layout`: the tables that the host uploads first.
3. `anchors`: anchors, kept cells and shares of the budget.
4. `intra_frame`: Phase I, with its kernels `intra_cost` and `intra_sinkhorn`.
5. `inter_frame`: Phase II.
6. `token_order`: the order of the kept tokens.
"""
