"""Compression: visual tokens in, kept tokens out. `aot/` is the paper, `methods/` has one file per other paper."""
