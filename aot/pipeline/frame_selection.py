"""Choose the sampled frames that match the questions; only chosen frames are compressed.

All sampled frames are encoded once for their scores, a chunk at a time. Only the embedding and a
few numbers of each frame are kept. The chosen frames are then decoded and encoded again, with
everything that a method needs. Features are not kept, because every frame is a candidate until the
end, and memory would grow with the video. For instance, a skipped duplicate becomes a candidate
again if a better frame replaces the chosen frame that it resembles.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from aot.compression.contract import check_encoded
from aot.compression.in_tower.stc import ReferenceSchedule
from aot.compression.ops.frame_choice import choose_frames
from aot.config.schema import SamplingConfig
from aot.errors import ConfigError, NumericsError
from aot.models.base import FrameScorer, ScoresFrames, VideoModel
from aot.runtime.stages import StageClock
from aot.text import check_question_text
from aot.types import FrameReuse, Needs

if TYPE_CHECKING:
    from aot.video import OpenVideo

__all__ = ["FrameSelection", "OnFrames", "check_questions", "select_frames"]

OnFrames = Callable[[int, int], None]  # (done, planned)


@dataclass(frozen=True, slots=True)
class FrameSelection:
    """Record the chosen frames.

    Attributes:
        timestamps_s: times of the chosen frames, ascending.
        frames: indices of the chosen frames among the sampled frames.
        sampled: the number of sampled frames.
        by: the criterion of the choice, for messages.
        notices: sentences for the user about the sampled frames.
    """

    timestamps_s: tuple[float, ...]
    frames: tuple[int, ...]
    sampled: int
    by: str
    notices: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """Return a sentence for the user about the choice."""
        return f"{len(self.frames)} of {self.sampled} sampled frames were chosen, by {self.by}"

    @property
    def facts(self) -> dict[str, int | str]:
        """Return the choice as named values for the report."""
        selected = " ".join(map(str, self.frames))
        return {"sampled_frames": self.sampled, "selected_frames": selected, "selected_by": self.by}


def check_questions(sampling: SamplingConfig, questions: Sequence[str]) -> None:
    """Check that `questions` are valid text, and not empty if frames are chosen by questions.

    Raises:
        ConfigError: If a question is not valid UTF-8, or if `sampling.select_frames` is set and
            `questions` is empty.
    """
    for question in questions:
        check_question_text(question)
    if sampling.select_frames is not None and not questions:
        raise ConfigError(
            "--select-frames chooses frames by the question, and there is none here; "
            "use it with aot ask or aot compare, or leave it out"
        )


def select_frames(
    video: OpenVideo,
    model: VideoModel,
    sampling: SamplingConfig,
    questions: Sequence[str],
    clock: StageClock,
    on_frames: OnFrames,
    reuse: FrameReuse | None = None,
) -> FrameSelection | None:
    """Choose `sampling.select_frames` frames by their mean score over the questions.

    Frames that the model reads together are chosen together, so the number of chosen frames is
    rounded down to whole groups, but at least one group is chosen. With `reuse`, the vision tower
    does less work on the sampled frames.

    Returns:
        The selection, or None if `select_frames` is None or at least the number of sampled frames.

    Raises:
        ConfigError: If the model cannot score frames.
        VideoError, ModelError, NumericsError, MemoryLimitError: See `aot.errors`.
    """
    times, count = video.plan.timestamps_s, sampling.select_frames
    if count is None or count >= len(times):
        return None
    if not isinstance(model, ScoresFrames):
        raise ConfigError(f"{model.identity.name} cannot score frames; leave --select-frames out")
    scorer = model.frame_scorer(questions)
    # Without a word to search for, spread the frames evenly; no frame needs to be encoded.
    if scorer is None:
        from aot.video import spread

        together = _together([times], model.temporal_patch)
        even = spread(len(together), max(count // model.temporal_patch, 1))
        return _of_groups(together, even, "an even spread, because no word of the question names something to look for")
    if len(questions) > 1:
        scorer.by += f", the mean over {len(questions)} questions"
    return _best(video, model, sampling, count, scorer, clock, on_frames, reuse)


def _best(
    video: OpenVideo,
    model: VideoModel,
    sampling: SamplingConfig,
    count: int,
    scorer: FrameScorer,
    clock: StageClock,
    on_frames: OnFrames,
    reuse: FrameReuse | None,
) -> FrameSelection:
    """Score all sampled frames and return the selection of the best ones."""
    # 1. Encode a chunk at a time; keep embeddings and running scores only.
    embeddings: list[torch.Tensor] = []
    times: list[tuple[float, ...]] = []
    notices: dict[str, None] = {}
    size = model.frame_size(video.index.info, len(video.plan.positions))
    schedule = ReferenceSchedule(reuse, model.temporal_patch) if reuse else None
    with video.frames(size=size, ahead=sampling.segment_frames) as stream:
        for frames in stream.segments(sampling.segment_frames, together=model.temporal_patch):
            with clock.stage("encode"):
                marked = schedule.mark(frames) if schedule else frames
                visual = model.encode(marked, Needs(frame_embeddings=True, reuse=reuse))
                check_encoded(visual.finite)
                scorer.add(visual)
            assert visual.frame_embeddings is not None
            embeddings.append(visual.frame_embeddings)
            times.append(frames.timestamps_s)
            notices |= dict.fromkeys(visual.notices)
            del visual, marked, frames  # frees the memory before the next chunk is decoded
            on_frames(sum(map(len, times)), stream.planned)
        clock.add("decode", stream.decode_ms)
        sentences = (*stream.notices, *notices)
    # 2. Choose by score.
    scores, joined = scorer.scores(), torch.cat(embeddings)
    if not (scores.isfinite().all() and joined.isfinite().all()):
        raise NumericsError("the frames' scores are not finite; try --dtype bfloat16 or --dtype float32")
    chosen = choose_frames(scores, joined, max(count // model.temporal_patch, 1), sampling.duplicate_similarity)
    return _of_groups(_together(times, model.temporal_patch), chosen, scorer.by, sentences)


def _together(segments: Sequence[Sequence[float]], count: int) -> list[list[tuple[int, float]]]:
    """Divide each segment of times into groups of up to `count` frames, as pairs (index, time)."""
    indices = itertools.count()
    return [
        [(next(indices), time) for time in times[first : first + count]]
        for times in segments
        for first in range(0, len(times), count)
    ]


def _of_groups(
    groups: Sequence[Sequence[tuple[int, float]]], chosen: Sequence[int], by: str, notices: tuple[str, ...] = ()
) -> FrameSelection:
    """Return the selection of the frames in the chosen groups."""
    frames = [pair for group in chosen for pair in groups[group]]
    sampled = sum(map(len, groups))
    return FrameSelection(tuple(time for _, time in frames), tuple(index for index, _ in frames), sampled, by, notices)
