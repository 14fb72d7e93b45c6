"""Which of the sampled frames are compressed: those that questions are about.

All sampled frames are encoded once for their scores, a segment at a time, and of each only its embedding and a few
numbers are kept; the chosen ones are then decoded and encoded again, with all that a method needs. Keeping the features
of frames that may still be chosen would not do in constant memory: a frame that gave way to one like it comes back when
a better one takes that one's place, so until the end every frame may still be chosen.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from aot.compression.contract import check_encoded
from aot.compression.ops.frame_choice import choose_frames
from aot.config.schema import SamplingConfig
from aot.errors import ConfigError, NumericsError
from aot.models.base import FrameScorer, ScoresFrames, VideoModel
from aot.runtime.stages import StageClock
from aot.runtime.text import check_question_text
from aot.types import Needs

if TYPE_CHECKING:
    from aot.video import OpenVideo

__all__ = ["FrameSelection", "OnFrames", "check_questions", "select_frames"]

OnFrames = Callable[[int, int], None]  # (done, planned)


@dataclass(frozen=True, slots=True)
class FrameSelection:
    """timestamps_s: the chosen frames', ascending; frames: their places among the `sampled`. by: what they were
    chosen by. notices: about all sampled frames.
    """

    timestamps_s: tuple[float, ...]
    frames: tuple[int, ...]
    sampled: int
    by: str
    notices: tuple[str, ...] = ()

    @property
    def told(self) -> str:
        """One sentence for the user."""
        return f"{len(self.frames)} of {self.sampled} sampled frames were chosen, by {self.by}"

    @property
    def facts(self) -> dict[str, int | str]:
        """For a report."""
        places = " ".join(map(str, self.frames))
        return {"sampled_frames": self.sampled, "selected_frames": places, "selected_by": self.by}


def check_questions(sampling: SamplingConfig, questions: Sequence[str]) -> None:
    """
    Raises:
        ConfigError: frames are to be chosen, and there is no question, or one is not UTF-8.
    """
    for question in questions:
        check_question_text(question)
    if sampling.select_frames is not None and not questions:
        raise ConfigError(
            "--select-frames chooses frames by the one question asked, which there is not here; "
            "use it with aot ask or aot compare, or leave it out"
        )


def select_frames(
    video: OpenVideo,
    model: VideoModel,
    sampling: SamplingConfig,
    questions: Sequence[str],
    clock: StageClock,
    on_frames: OnFrames,
) -> FrameSelection | None:
    """Choose `sampling.select_frames` frames by the mean of their scores for the questions; None if there are no more.
    Frames that the model reads together are chosen together, as many as fit.

    Raises:
        ConfigError: the model cannot score frames.
        VideoError, ModelError, NumericsError, MemoryLimitError: see `aot.errors`.
    """
    times, count = video.plan.timestamps_s, sampling.select_frames
    if count is None or count >= len(times):
        return None
    if not isinstance(model, ScoresFrames):
        raise ConfigError(f"{model.identity.name} cannot score frames; leave --select-frames out")
    scorer = model.frame_scorer(questions)
    if scorer is None:
        from aot.video import spread

        together = _together([times], model.temporal_patch)
        even = spread(len(together), max(count // model.temporal_patch, 1))
        return _of_groups(together, even, "an even spread, as no word of the question says what to look for")
    if len(questions) > 1:
        scorer.by += f", the mean over {len(questions)} questions"
    return _best(video, model, sampling, count, scorer, clock, on_frames)


def _best(
    video: OpenVideo,
    model: VideoModel,
    sampling: SamplingConfig,
    count: int,
    scorer: FrameScorer,
    clock: StageClock,
    on_frames: OnFrames,
) -> FrameSelection:
    embeddings: list[torch.Tensor] = []
    times: list[tuple[float, ...]] = []
    notices: dict[str, None] = {}
    size = model.frame_size(video.index.info, len(video.plan.positions))
    with video.frames(size=size, ahead=sampling.segment_frames) as stream:
        for frames in stream.segments(sampling.segment_frames, together=model.temporal_patch):
            with clock.stage("encode"):
                visual = model.encode(frames, Needs(frame_embeddings=True))
                check_encoded(visual.finite)
                scorer.add(visual)
            assert visual.frame_embeddings is not None
            embeddings.append(visual.frame_embeddings)
            times.append(frames.timestamps_s)
            notices |= dict.fromkeys(visual.notices)
            del visual, frames  # before the next are made
            on_frames(sum(map(len, times)), stream.planned)
        clock.add("decode", stream.decode_ms)
        told = (*stream.notices, *notices)
    scores, joined = scorer.scores(), torch.cat(embeddings)
    if not (scores.isfinite().all() and joined.isfinite().all()):
        raise NumericsError("the frames' scores are not finite; try --dtype bfloat16 or --dtype float32")
    chosen = choose_frames(scores, joined, max(count // model.temporal_patch, 1), sampling.duplicate_similarity)
    return _of_groups(_together(times, model.temporal_patch), chosen, scorer.by, told)


def _together(segments: Sequence[Sequence[float]], count: int) -> list[list[tuple[int, float]]]:
    """Places and times of frames that are read together, up to `count` of each segment."""
    places = itertools.count()
    return [
        [(next(places), time) for time in times[first : first + count]]
        for times in segments
        for first in range(0, len(times), count)
    ]


def _of_groups(
    groups: Sequence[Sequence[tuple[int, float]]], chosen: Sequence[int], by: str, told: tuple[str, ...] = ()
) -> FrameSelection:
    frames = [pair for group in chosen for pair in groups[group]]
    sampled = sum(map(len, groups))
    return FrameSelection(tuple(time for _, time in frames), tuple(place for place, _ in frames), sampled, by, told)
