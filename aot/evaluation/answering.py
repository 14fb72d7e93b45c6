"""Answer questions about one video under several conditions."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from aot.evaluation.conditions import Condition
from aot.evaluation.dataset import Item
from aot.evaluation.fidelity import Reference
from aot.evaluation.journal_reader import Answered
from aot.evaluation.reference import full_pipeline, measure, read_references
from aot.evaluation.scoring import score
from aot.pipeline.recording import Recordings
from aot.pipeline.replies import Reply, write_reply
from aot.pipeline.run import REFUSALS, Compression, Pipeline, Refusal, compress_each
from aot.reports.retention import language_model_load
from aot.runtime.memory import explained_memory
from aot.runtime.peak_memory import PeakMemory, peak_memory
from aot.types import CompressedTokens
from aot.video import VideoFile

Replies = Literal["timed", "together", "none"]

__all__ = ["Outcome", "Task", "answer_video"]


@dataclass(frozen=True, slots=True)
class Task:
    """Questions to answer under one condition."""

    condition: Condition
    pipeline: Pipeline
    items: Sequence[Item] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of one condition on one video: `answered` and `compression`, or a `refusal`."""

    condition: Condition
    answered: Sequence[Answered] = ()
    compression: Compression | None = None
    refusal: Refusal | None = None


def answer_video(
    video: VideoFile,
    tasks: Sequence[Task],
    on_notice: Callable[[str], None],
    *,
    references: dict[str, Reference] | None = None,
    replies: Replies = "timed",
    measure_memory: bool = False,
    traced: bool = False,
    recordings: Recordings | None = None,
) -> Iterator[Outcome]:
    """Yield the outcome of each task on one video, as soon as the outcome is available.

    A task whose method reads the question has an outcome for each of its questions.

    Args:
        video: the video, with its frame index.
        tasks: tasks with the same model and frames.
        on_notice: called with sentences for the user.
        references: if given, compare with the full-token model (`aot.evaluation.fidelity`). Its
            answers to questions that are not in `references` yet are added, by fingerprint.
        replies: "timed" generates the first answer alone and times it; "together" generates all
            answers together, which is faster; "none" generates none, and needs `references`.
        measure_memory: whether to measure the peak memory of answering, which takes time.
        traced: whether to record pictures of the frames and the source patches of kept tokens.
        recordings: keeps the encoded video for later calls.

    Raises:
        VideoError, MemoryLimitError, NumericsError: See `aot.errors`.
    """
    of_pipeline = {id(task.pipeline): task for each in tasks for task in _by_question(each)}
    items = list({item.fingerprint: item for task in tasks for item in task.items}.values())
    # The full-token model comes first, and shares the encoding of the methods.
    unread = [item for item in items if references is not None and item.fingerprint not in references]
    full = full_pipeline(tasks[0].pipeline) if unread else None
    results = compress_each(
        [*([full] if full else []), *(task.pipeline for task in of_pipeline.values())],
        video,
        list(dict.fromkeys(item.prompt for item in items)),
        traced=traced,
        on_notice=lambda notice: on_notice(f"{video.name}: {notice}"),
        recordings=recordings,
    )
    for pipeline, result in results:
        if pipeline is full:
            if isinstance(result, Refusal):
                raise result.error
            assert references is not None
            references |= read_references(full, result.tokens, unread)
            continue
        task = of_pipeline[id(pipeline)]
        if isinstance(result, Refusal):
            yield Outcome(task.condition, refusal=result)
            continue
        try:
            if replies == "timed":
                answered = _answer(task, result, references, measure_memory, on_notice)
            else:
                answered = _answer_untimed(task, result, references, with_answers=replies == "together")
        except REFUSALS as error:  # raised by a reduction inside the language model
            yield Outcome(task.condition, refusal=Refusal(error))
        else:
            yield Outcome(task.condition, answered, result)


def _by_question(task: Task) -> Sequence[Task]:
    """Return a task for each question if the method reads it, else `task` alone."""
    try:
        reads = task.pipeline.needs.question
    except REFUSALS:  # `compress_each` reports it
        reads = False
    if not reads:
        return [task]
    return [replace(task, pipeline=task.pipeline.about(item.prompt), items=[item]) for item in task.items]


def _answer(
    task: Task,
    compression: Compression,
    references: Mapping[str, Reference] | None,
    measure_memory: bool,
    on_notice: Callable[[str], None],
) -> list[Answered]:
    """Answer the items of `task` from the kept tokens: the first alone and timed, then the rest."""
    pipeline, items, tokens = task.pipeline, task.items, compression.tokens
    with explained_memory():
        first, answer_bytes = _first_reply(pipeline, tokens, items[0], measure_memory)
        for notice in first.notices:
            on_notice(notice)
        reading = pipeline.model.read(tokens, pipeline.inner)
        others = reading.answers([item.prompt for item in items[1:]], pipeline.config.generation)
        measured = [None] * len(items) if references is None else measure(pipeline, reading, items, references)
    costs = {
        "language_model_load": language_model_load(first.layer_tokens, compression.report.visual_tokens),
        "first_token_ms": first.answer_ms if first.first_token_ms is None else first.first_token_ms,
        "answer_ms": first.answer_ms,
        "answer_bytes": answer_bytes,
    }
    return [
        _answered(task, item, compression, costs, predicted=text, score=score(item, text), fidelity=fidelity)
        for item, text, fidelity in zip(items, [first.text, *others], measured, strict=True)
    ]


def _answer_untimed(
    task: Task, compression: Compression, references: Mapping[str, Reference] | None, *, with_answers: bool
) -> list[Answered]:
    """Answer the items of `task` together, or only compare their predictions with `references`.

    The time of an answer is the mean over the items.
    """
    items, start_s = task.items, time.perf_counter()
    with explained_memory():
        reading = task.pipeline.model.read(compression.tokens, task.pipeline.inner)
        prompts = [item.prompt for item in items] if with_answers else []
        texts = reading.answers(prompts, task.pipeline.config.generation) if with_answers else [""] * len(items)
        near = [None] * len(items) if references is None else measure(task.pipeline, reading, items, references)
    mean_ms = (time.perf_counter() - start_s) * 1e3 / len(items)
    load = compression.report.retention
    costs = {"language_model_load": load, "first_token_ms": mean_ms, "answer_ms": mean_ms}
    return [
        _answered(
            task, item, compression, costs, predicted=text, score=score(item, text) if with_answers else None,
            fidelity=fidelity,
        )
        for item, text, fidelity in zip(items, texts, near, strict=True)
    ]  # fmt: skip


def _answered(task: Task, item: Item, compression: Compression, costs: Mapping[str, Any], **found: Any) -> Answered:
    """Return the record of one question; `costs` and `found` are further fields of `Answered`."""
    report = compression.report
    return Answered(
        item=item.fingerprint,
        video=item.video.name,
        question=item.question,
        answer=item.answer,
        condition=task.condition.key,
        kept_tokens=report.kept_tokens,
        visual_tokens=report.visual_tokens,
        budget_tokens=report.budget_tokens,
        decode_ms=report.stage_ms["decode"],
        encode_ms=report.stage_ms["encode"],
        compress_ms=report.stage_ms["compress"],
        **costs,
        **found,
    )


def _first_reply(
    pipeline: Pipeline, tokens: CompressedTokens, item: Item, measure_memory: bool
) -> tuple[Reply, int | None]:
    """Answer `item` alone; return the reply and, if measured, the peak memory in bytes, or None."""
    device = torch.device(pipeline.model.placement["device"])
    with peak_memory(device) if measure_memory else nullcontext(PeakMemory()) as peak:
        reply = write_reply(lambda: pipeline.answer(tokens, item.prompt))
    return reply, peak.device if device.type == "cuda" else peak.host
