"""AOT on a GPU without waiting for it: the stages of `aot.compression.aot` as Triton kernels.

Counts that depend on the content stay on the device. Tensors have room for all patches or cells of
a frame, and kernels read from the device how much of them is used. Each kernel is tested against
the torch version of its stage.

1. `method`: the stages, and when they can be used.
2. `layout`: the tables that the host uploads before.
3. `anchors`: anchors, kept cells and shares of the budget.
4. `intra_frame`: Phase I, with its kernels `intra_cost` and `intra_sinkhorn`.
5. `inter_frame`: Phase II.
6. `token_order`: the order of the kept tokens.
"""
