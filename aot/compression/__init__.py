"""Compress video: a method receives all visual tokens and returns the kept tokens.

`aot/` implements the AOT paper; `methods/` has one file for each other paper. `in_tower/` reduces
tokens inside the vision tower, `in_llm/` inside the language model. `ops/` has shared mathematics.
"""
