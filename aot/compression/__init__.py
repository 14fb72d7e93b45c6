"""Compression: visual tokens in, kept tokens out.

`aot/` is the paper, `methods/` has one file per other paper, `in_tower/` and `in_llm/` act inside
the model, and `ops/` is shared mathematics.
"""
