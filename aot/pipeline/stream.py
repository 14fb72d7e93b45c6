"""Decode and encode a video of any length in constant memory, a chunk of frames at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from aot.compression.in_tower.stc import ReferenceSchedule
from aot.compression.ops.clips import neighbor_similarity
from aot.compression.ops.read_later import Download
from aot.compression.ops.uploads import uploaded
from aot.config.schema import SamplingConfig
from aot.errors import ConfigError
from aot.models.base import VideoModel
from aot.pipeline.frame_selection import FrameSelection, check_questions, select_frames
from aot.runtime.memory import explained_memory
from aot.runtime.stages import StageClock, StageProgress, silent
from aot.types import Needs, VideoFrames, VideoInfo, VisualTokens

if TYPE_CHECKING:
    from aot.video import OpenVideo, VideoSource

__all__ = ["EncodedVideo", "VideoEncoder", "begun_video"]


@dataclass(frozen=True, slots=True)
class EncodedVideo:
    """Describe a video whose chunks have all been encoded.

    Attributes:
        source: the video.
        frames: F, the number of frames that the model encoded.
        similarity: float [F - 1], the cosine similarities of adjacent frames, from the frame
            embeddings or, if none were recorded, from the mean features.
        clock: has the times of the stages "decode" and "encode".
        selection: the frames chosen by the questions, or None.
        notices: sentences for the user.
        references: the number of frames whose work in the vision tower the others reused, or None.
        left: the number of frames that are left after merges inside the vision tower, or None.
    """

    source: VideoInfo
    frames: int
    similarity: Download
    clock: StageClock
    selection: FrameSelection | None
    notices: tuple[str, ...]
    references: int | None = None
    left: int | None = None

    @property
    def facts(self) -> dict[str, int | str]:
        """Return the choice of frames, and the tower's work on them, as named values."""
        selected = self.selection.facts if self.selection else {}
        counts = {"reference_frames": self.references, "tower_frames": self.left}
        return {**selected, **{name: count for name, count in counts.items() if count is not None}}


@contextmanager
def begun_video(
    source: str, model: VideoModel, sampling: SamplingConfig, on_bytes: Callable[[int, int], None] | None = None
) -> Iterator[OpenVideo]:
    """Open a video and begin to decode its first chunk in a thread, while `model` does other work.

    Args:
        source: a file, or an http or https address.
        model: the model that will encode the frames.
        sampling: the settings of sampling.
        on_bytes: receives (done, total) while an address is downloaded.

    Raises:
        VideoError: See `aot.video.open_video`.
    """
    from aot.video import open_file, open_video

    with open_file(source, sampling, on_bytes) as file, open_video(file, sampling) as video:
        size = model.frame_size(video.index.info, len(video.plan.positions))
        with video.begun(size=size, ahead=sampling.segment_frames) as begun:
            yield begun


class VideoEncoder:
    """Encode one video while a thread decodes the next chunk.

    Args:
        model: encodes the frames.
        sampling: the settings of sampling.
        needs: the encoder outputs to record.
        clock: measures the stages "decode" and "encode".
        questions: the texts by which frames are chosen if `sampling.select_frames` is set.
        on_progress: receives the progress of each stage, including "compress".
        on_frames: receives every chunk of frames at the size that the model reads.

    Raises:
        ConfigError: If `sampling.select_frames` is set and `questions` is empty.
    """

    def __init__(
        self,
        model: VideoModel,
        sampling: SamplingConfig,
        needs: Needs,
        clock: StageClock,
        *,
        questions: Sequence[str] = (),
        on_progress: StageProgress = silent,
        on_frames: Callable[[VideoFrames], None] | None = None,
    ) -> None:
        check_questions(sampling, questions)
        self._model, self._sampling, self._needs, self._clock = model, sampling, needs, clock
        self._questions, self._on_progress, self._on_frames = questions, on_progress, on_frames
        self._sampled, self._planned = 0, 0

    def run(self, source: VideoSource, on_chunk: Callable[[VisualTokens], None]) -> EncodedVideo:
        """Encode every chunk and pass it to `on_chunk`; hold one encoded chunk at a time.

        Raises:
            ConfigError: If a chunk would end between frames that the model reads together.
            VideoError, NumericsError, MemoryLimitError: See `aot.errors`.
        """
        from aot.video import open_video  # imported here, because a tokens file needs no decoder

        with explained_memory(), open_video(source, self._sampling) as video:
            _check_uncut(len(video.plan.positions), self._sampling, self._model.temporal_patch)
            selection = select_frames(
                video,
                self._model,
                self._sampling,
                self._questions,
                self._clock,
                lambda done, planned: self._on_progress("select", done, planned),
                reuse=self._needs.reuse,
            )
            return self._encode(video, selection, on_chunk)

    def _encode(
        self, video: OpenVideo, selection: FrameSelection | None, on_chunk: Callable[[VisualTokens], None]
    ) -> EncodedVideo:
        length = self._sampling.segment_frames
        times = selection.timestamps_s if selection else None
        self._sampled, self._planned = 0, len(times or video.plan.positions)
        size = self._model.frame_size(video.index.info, self._planned)
        similarity, notices = _AdjacentSimilarity(), list[str]()
        reuse = self._needs.reuse
        schedule = ReferenceSchedule(reuse, self._model.temporal_patch) if reuse else None
        with video.frames(size=size, ahead=length, times_s=times) as stream:
            for frames in stream.segments(length, self._on_decoded, self._model.temporal_patch):
                visual = self._encode_chunk(schedule.mark(frames) if schedule else frames)
                notices += visual.notices
                similarity.add(visual)
                on_chunk(visual)
                self._on_progress("compress", self._sampled, self._planned)
                del visual, frames  # free the memory before the next chunk
            first = (*selection.notices, selection.sentence) if selection else self._unselected()
            self._clock.add("decode", stream.decode_ms)
            return EncodedVideo(
                source=stream.source,
                frames=similarity.frames,
                similarity=similarity.download(),
                clock=self._clock,
                selection=selection,
                notices=tuple(dict.fromkeys((*first, *stream.notices, *notices))),
                references=schedule.count if schedule else None,
                left=similarity.left if self._needs.frame_merging else None,
            )

    def _encode_chunk(self, frames: VideoFrames) -> VisualTokens:
        with self._clock.stage("encode"):
            visual = self._model.encode(frames, self._needs, on_frame=self._on_encoded)
        if self._on_frames is not None:
            self._on_frames(frames)
        self._sampled += len(frames.timestamps_s)
        return visual

    def _on_decoded(self, done: int, planned: int) -> None:
        self._on_progress("decode", done, planned)

    def _on_encoded(self, done: int, total: int) -> None:
        self._on_progress("encode", self._sampled + done, self._planned)

    def _unselected(self) -> tuple[str, ...]:
        """Return a notice if `select_frames` is set but not below the number of sampled frames."""
        asked = self._sampling.select_frames
        return () if asked is None else (f"--select-frames {asked} is not fewer than the {self._planned} sampled",)


class _AdjacentSimilarity:
    """Collect the cosine similarity of adjacent frames, also across chunks, on the device."""

    def __init__(self) -> None:
        self.frames, self.left = 0, 0
        self._last: Tensor | None = None
        self._found: list[Tensor] = []

    def add(self, visual: VisualTokens) -> None:
        """Add the similarities of the frames in the next chunk."""
        embeddings = visual.features.mean(1) if visual.frame_embeddings is None else visual.frame_embeddings
        self.left += len(visual.timestamps_s)
        if visual.merged_frames is not None:
            # Merged frames are alike.
            embeddings = embeddings[uploaded(torch.tensor(visual.merged_frames.left), embeddings.device)]
        self.frames += len(embeddings)
        joined = embeddings if self._last is None else torch.cat([self._last, embeddings])
        self._found.append(neighbor_similarity(joined))
        self._last = embeddings[-1:]

    def download(self) -> Download:
        """Queue a copy of all F - 1 similarities to the host."""
        return Download(torch.cat(self._found))


def _check_uncut(frames: int, sampling: SamplingConfig, together: int) -> None:
    length = sampling.segment_frames
    if frames > length and length % together:
        raise ConfigError(
            f"this model reads {together} frames as one, and segments of {length} frames would part them; "
            f"use --segment-frames {max(length - length % together, together)}"
        )
