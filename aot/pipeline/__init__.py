"""One run for every command; read `run` first.

`stream` decodes and encodes a video chunk by chunk, `chunk_compressor` compresses each chunk,
`report` describes the result, `replies` writes answers, and `checks` refuses what cannot work
before any weights are loaded.
"""
