"""Compress videos and answer questions; read `run` first.

`stream` decodes and encodes a video chunk by chunk, `chunk_compressor` compresses each chunk,
`report` describes the result, `replies` generates answers, and `checks` finds invalid
configurations before any weights are loaded.
"""
