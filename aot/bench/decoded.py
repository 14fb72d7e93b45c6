"""Hold the decoded frames of a video, so that runs can be measured from frames on."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from aot.config.schema import SamplingConfig
from aot.models.base import VideoModel
from aot.runtime.memory import explained_memory
from aot.types import VideoFrames
from aot.video import OpenVideo, open_video
from aot.video.decode import FrameStream, OnFrame

__all__ = ["DecodedVideo"]


@dataclass(frozen=True, slots=True)
class DecodedVideo(OpenVideo):
    """A video that is decoded already: to read its frames takes no time.

    Attributes:
        chunks: the frames, as the pipeline would decode them.
        decode_ms: the time that decoding took.
    """

    chunks: tuple[VideoFrames, ...] = ()
    decode_ms: float = 0.0

    @classmethod
    def decode(cls, clip: Path, sampling: SamplingConfig, model: VideoModel) -> DecodedVideo:
        """Decode the sampled frames of `clip` at the size that `model` reads.

        Raises:
            VideoError, MemoryLimitError: See `aot.errors`.
        """
        start_s, length = time.perf_counter(), sampling.segment_frames
        with explained_memory(), open_video(clip, sampling) as video:
            size = model.frame_size(video.index.info, len(video.plan.positions))
            with video.frames(size=size, ahead=length) as stream:
                chunks = tuple(stream.segments(length, together=model.temporal_patch))
        decode_ms = (time.perf_counter() - start_s) * 1e3
        known = {field.name: getattr(video, field.name) for field in fields(OpenVideo)}
        return cls(**known, chunks=chunks, decode_ms=decode_ms)

    @property
    def whole(self) -> VideoFrames:
        """Return the frames of all chunks together."""
        return replace(
            self.chunks[0],
            pixels=torch.cat([chunk.pixels for chunk in self.chunks]),
            timestamps_s=tuple(time_s for chunk in self.chunks for time_s in chunk.timestamps_s),
        )

    @contextmanager
    def frames(
        self, *, size: tuple[int, int] | None = None, ahead: int = 0, times_s: Collection[float] | None = None
    ) -> Iterator[FrameStream]:
        """Yield the chunks; they have the size that the model reads, and no frame is left out."""
        yield _HeldFrames(self)


class _HeldFrames(FrameStream):
    """The chunks of a decoded video, in place of a stream that decodes them."""

    def __init__(self, video: DecodedVideo) -> None:
        self.source, self.decode_ms = video.index.info, 0.0
        self.planned = sum(len(chunk.pixels) for chunk in video.chunks)
        self._chunks = video.chunks

    def segments(self, most: int, on_frame: OnFrame | None = None, together: int = 1) -> Iterator[VideoFrames]:
        """Yield the chunks as they are."""
        done = 0
        for chunk in self._chunks:
            done += len(chunk.pixels)
            if on_frame is not None:
                on_frame(done, self.planned)
            yield chunk

    @property
    def notices(self) -> Any:
        """Return nothing: notices about the video were given when it was decoded."""
        return ()
