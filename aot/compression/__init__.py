"""Compression: visual tokens in, kept tokens out.

`aot/` implements the AOT paper; `methods/` has one file per other paper. `in_tower/` reduces tokens
inside the vision tower, `in_llm/` inside the language model. `ops/` is shared mathematics.
"""
