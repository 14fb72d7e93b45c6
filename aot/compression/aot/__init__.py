"""Implement AOT (arXiv 2603.01400), the paper of this project.

Read the modules in this order, next to docs/algorithm.md:

1. `method`: the whole method, stage by stage.
2. `anchors`: the patches that become anchors (section 1).
3. `intra_frame`: Phase I, transport within a frame (section 2).
4. `sinkhorn`: the solver of both phases; `sinkhorn_kernel`: the same solver in Triton.
5. `cells`: the cells that are kept after pooling (section 3).
6. `inter_frame`: Phase II, transport within a clip (section 4).
7. `token_order`: the order of the kept tokens (section 4).
8. `budget`: the numbers of anchors and distinct tokens that give an exact budget (section 6).
9. `token_weights`: the source weights of the kept tokens, for reports.

`on_device` has the same stages as Triton kernels, which the host queues without waiting.
"""
