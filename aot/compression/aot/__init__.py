"""AOT (arXiv 2603.01400), the paper of this project, and nothing else.

Read in this order: `method` (the whole), `anchors` (Phase I, selection), `intra_frame` (Phase I, transport),
`inter_frame` (Phase II), `sinkhorn` and its kernel (the transport plan), `token_order` (what leaves, in which order).
"""
