"""Answer the questions of lmms-eval; each video is encoded once, and decoded ahead of time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from aot.errors import VideoError
from aot.models.base import Answer
from aot.pipeline.replies import Reply, write_reply
from aot.pipeline.run import Pipeline
from aot.reports.retention import Compression, RetentionReport
from aot.runtime.memory import explained_memory
from aot.serving.ahead import Ahead
from aot.serving.lmms.questions import Asked
from aot.types import CompressedTokens

__all__ = ["Answered", "answer_all", "check_videos"]

_MOST_NAMED = 10


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer, up to the first stop.

    Attributes:
        index: the index of the question.
        text: the answer.
        reply: the whole answer with its costs.
        report: what was kept of the video.
    """

    index: int
    text: str
    reply: Reply
    report: RetentionReport


@dataclass(frozen=True, slots=True)
class _Job:
    """A video and questions about it, by their indices."""

    video: str
    asked: Mapping[int, Asked]


def check_videos(asked: Sequence[Asked]) -> None:
    """Check that all videos that are files exist, before hours of work.

    Raises:
        VideoError: If files are missing; the message names up to ten.
    """
    files = dict.fromkeys(each.video for each in asked if "://" not in each.video)
    missing = [file for file in files if not Path(file).is_file()]
    if missing:
        more = f" and {len(missing) - _MOST_NAMED} more" if len(missing) > _MOST_NAMED else ""
        raise VideoError(f"there is no {', '.join(missing[:_MOST_NAMED])}{more}; fetch the videos of the task")


def answer_all(pipeline: Pipeline, asked: Sequence[Asked]) -> Iterator[Answered]:
    """Yield the answer to each question, in the order of the videos.

    Equal questions at a temperature above 0 are answered with different seeds.

    Raises:
        AOTError: If a video cannot be read or a question cannot be answered.
    """
    for each, jobs in _divided(pipeline, asked):
        with closing(Ahead[_Job](each)) as ahead:
            for job, opened in ahead.videos(jobs):
                questions = list(dict.fromkeys(question.question for question in job.asked.values()))
                with closing(opened.result()) as begun, explained_memory():
                    compression = each.compress(begun.video, questions)
                yield from _answered(each, job, compression)


def _divided(pipeline: Pipeline, asked: Sequence[Asked]) -> Iterator[tuple[Pipeline, list[_Job]]]:
    """Yield each pipeline that the questions need, and for it the videos with their questions."""
    # Then what is kept depends on the question, and questions about one video share nothing.
    depends = pipeline.config.sampling.select_frames is not None or pipeline.needs.question
    seen = Counter[Asked]()
    groups: dict[tuple[Any, ...], dict[tuple[str, int], dict[int, Asked]]] = {}
    for index, each in enumerate(asked):
        options = each.options
        if options.temperature:
            options = replace(options, seed=options.seed + seen[each])
            seen[each] += 1
        videos = groups.setdefault((options, each.start_s, each.end_s), {})
        videos.setdefault((each.video, index if depends else 0), {})[index] = each
    for (options, start_s, end_s), videos in groups.items():
        sampling = pipeline.config.sampling
        sampling = replace(
            sampling,
            start_s=sampling.start_s if start_s is None else start_s,
            end_s=sampling.end_s if end_s is None else end_s,
        )
        config = replace(pipeline.config, sampling=sampling, generation=options)
        yield Pipeline(pipeline.model, config), [_Job(video, items) for (video, _), items in videos.items()]


def _answered(pipeline: Pipeline, job: _Job, compression: Compression) -> Iterator[Answered]:
    """Yield the answers about one video; those without earlier turns share one reading of it."""
    first = pipeline.answers(compression.tokens, [each.question for each in job.asked.values() if not each.turns])
    for index, each in job.asked.items():
        begin = partial(_later_answer, pipeline, compression.tokens, each) if each.turns else partial(next, first)
        with explained_memory():
            reply = write_reply(begin)
        yield Answered(index, each.stops.cut(reply.text), reply, compression.report)


def _later_answer(pipeline: Pipeline, tokens: CompressedTokens, asked: Asked) -> Answer:
    conversation = pipeline.converse(tokens)
    conversation.turns = list(asked.turns)
    return conversation.ask(asked.question)
