"""The pipeline: `run` is compress and answer, `stream` is decode, encode and compress, a chunk at a time."""
