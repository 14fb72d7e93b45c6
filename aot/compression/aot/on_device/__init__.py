"""AOT on a GPU without waiting for it: the steps of `aot.compression.aot` as Triton kernels.

Counts that depend on the content stay on the device: tensors have room for all patches, and kernels go no further than
the counts say. Each kernel is the twin of a torch step one folder up, and is tested against it.
"""
