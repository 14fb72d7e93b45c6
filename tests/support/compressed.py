"""Compress a video, or frames without a file, with one line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from aot.config.schema import Config
from aot.pipeline.chunk_compressor import ChunkCompressor
from aot.pipeline.run import Compression, Pipeline
from aot.runtime.stages import StageClock
from aot.types import CompressedTokens, VideoFrames

CPU = torch.device("cpu")


def compress_frames(
    model: Any, frames: VideoFrames | Sequence[VideoFrames], config: Config, method: Any = None, *, traced: bool = False
) -> CompressedTokens:
    """Return the tokens that `config` (or `method`) keeps of one chunk of frames, or of several."""
    pipeline = Pipeline(model, config, lambda outer: method) if method else Pipeline(model, config)
    question = pipeline.embedded(["what happens?"])
    compressor = ChunkCompressor(pipeline.method, pipeline.outer, StageClock(CPU), traced=traced, question=question)
    for chunk in [frames] if isinstance(frames, VideoFrames) else frames:
        compressor.add(model.encode(chunk, pipeline.needs))
    return compressor.tokens()


def compress_video(
    video: Any, model: Any, config: Config, questions: Sequence[str] = (), **options: Any
) -> Compression:
    """Compress a video with a pipeline for it alone."""
    return Pipeline(model, config).compress(video, questions, **options)
