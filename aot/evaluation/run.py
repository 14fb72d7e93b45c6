"""Answer a data set under several conditions; decode and encode each video once if possible."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from aot.errors import AOTError, VideoError
from aot.evaluation.conditions import Condition
from aot.evaluation.dataset import Item, by_video
from aot.evaluation.fidelity import Reference
from aot.evaluation.journal import Journal
from aot.evaluation.journal_reader import Answered
from aot.evaluation.reference import full_pipeline, measure, read_references
from aot.evaluation.results import Results, summarize
from aot.evaluation.scoring import score
from aot.models import VideoModel
from aot.pipeline.frame_selection import check_questions
from aot.pipeline.replies import Reply, write_reply
from aot.pipeline.run import REFUSALS, Compression, Pipeline, Refusal, compress_each
from aot.reports.retention import language_model_load, versions
from aot.runtime.atomic_writes import make_folder
from aot.runtime.folder_lock import locked
from aot.runtime.memory import explained_memory
from aot.runtime.peak_memory import PeakMemory, peak_memory
from aot.types import CompressedTokens
from aot.video import VideoFile, open_file

__all__ = ["Outcome", "Task", "answer_video", "evaluate"]

_MOST_PROBLEMS = 10

Progress = Callable[[int, int], None]  # (done, total), in videos times conditions


def evaluate(
    items: Sequence[Item],
    model: VideoModel,
    conditions: Sequence[Condition],
    folder: Path,
    *,
    with_reference: bool = False,
    restart: bool = False,
    on_progress: Progress = lambda done, total: None,
    on_notice: Callable[[str], None] = lambda notice: None,
) -> Results:
    """Answer every item under every condition and summarize the answers.

    Answers that `folder` already has are reused; with `restart`, they are deleted when the first
    new answer is written. A condition is left out, with a notice, if its method rejects the budget
    or the model, raises an error, or breaks its contract (`aot.compression.contract`).

    Args:
        items: the questions.
        model: the model that answers.
        conditions: configurations with the same frames, model and generation settings.
        folder: folder of the results; it is created if missing, and locked during the run.
        with_reference: whether to compare with the full-token model (`aot.evaluation.fidelity`).
        restart: whether to discard earlier answers.
        on_progress: called with (done, total), which count pairs of a video and a condition.
        on_notice: called with sentences for the user.

    Raises:
        ConfigError: If `folder` has answers of a different run, or `sampling.select_frames` is
            set (frames cannot follow a question, because all questions share one encoding).
        BudgetError, UnsupportedError, MethodError: If every condition is left out.
        VideoError: If a video cannot be opened (checked before the first answer) or decoded.
        MemoryLimitError, NumericsError: If a video needs too much memory or gives invalid values.
        OutputError: If `folder` cannot be written to, or another run writes to it.
    """
    check_questions(conditions[0].config.sampling, ())
    make_folder(folder)
    with locked(folder):
        reference = "full" if with_reference else None
        description = {**_description(model, conditions), "reference": reference}
        journal = Journal(folder, description, restart=restart)
        met = _answer_missing(items, model, conditions, journal, with_reference, on_progress, on_notice)
    found = {each.key: [row for item in items if (row := journal.answer(each.key, item))] for each in met}
    return summarize(items, met, found)


def _answer_missing(
    items: Sequence[Item],
    model: VideoModel,
    conditions: Sequence[Condition],
    journal: Journal,
    with_reference: bool,
    on_progress: Progress,
    on_notice: Callable[[str], None],
) -> list[Condition]:
    """Answer the questions that `journal` lacks; return the conditions that were not refused."""
    # 1. Missing questions by video and condition.
    videos = by_video(items)
    tasks = [Task(each, Pipeline(model, each.config)) for each in conditions]
    missing = {
        video: [replace(task, items=left) for task in tasks if (left := journal.missing(task.condition.key, asked))]
        for video, asked in videos.items()
    }
    opened = _open_videos([video for video, left in missing.items() if left])
    total = len(videos) * len(conditions)
    # 2. Answer video by video; after a refusal, skip the condition for further videos.
    refused: dict[str, AOTError] = {}
    for number, (video, undone) in enumerate(missing.items(), 1):
        done = number * len(conditions) - len(undone)
        on_progress(done, total)
        wanted = [task for task in undone if task.condition.key not in refused]
        outcomes = answer_video(opened[video], wanted, on_notice, with_reference=with_reference) if wanted else ()
        ended = set[str]()
        for outcome in outcomes:
            key = outcome.condition.key
            if not outcome.refusal:
                journal.add(outcome.answered)
            elif key not in refused:
                refused[key] = outcome.refusal.error
                on_notice(f"{key} is left out: {outcome.refusal.error}")
            ended.add(key)
            on_progress(done + len(ended), total)
    met = [each for each in conditions if each.key not in refused]
    if not met:
        raise next(iter(refused.values()))
    return met


def _open_videos(videos: Sequence[Path]) -> dict[Path, VideoFile]:
    """Index the frames of `videos`; raise one error that lists all files that cannot be opened."""
    opened, problems = dict[Path, VideoFile](), list[str]()
    for video in videos:
        try:
            with open_file(video) as opened[video]:
                pass
        except VideoError as error:
            problems.append(str(error))
    if problems:
        more = f"; and {len(problems) - _MOST_PROBLEMS} more" if len(problems) > _MOST_PROBLEMS else ""
        raise VideoError("; ".join(problems[:_MOST_PROBLEMS]) + more)
    return opened


def _description(model: VideoModel, conditions: Sequence[Condition]) -> dict[str, object]:
    """Return what affects answers: settings and versions that all runs into a folder share."""
    shared = conditions[0].config.to_dict()
    # These two settings do not affect the answers.
    del shared["model"]["offline"]
    del shared["sampling"]["max_input_mb"]
    return {
        "model": {"name": model.identity.name, "fingerprint": model.identity.fingerprint},
        "config": {part: shared[part] for part in ("sampling", "model", "generation")},
        "versions": versions(),
        "conditions": {
            each.key: {
                part: each.config.to_dict()[part] for part in ("method", "ratio", "aot", "methods", "inner", "tower")
            }
            for each in conditions
        },
    }


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
    with_reference: bool = False,
    measure_memory: bool = False,
    traced: bool = False,
) -> Iterator[Outcome]:
    """Yield the outcome of each task on one video, as soon as the outcome is available.

    A task whose method reads the question has an outcome for each of its questions.

    Args:
        video: the video, with its frame index.
        tasks: tasks with the same model and frames.
        on_notice: called with sentences for the user.
        with_reference: whether to compare with the full-token model (`aot.evaluation.fidelity`).
        measure_memory: whether to measure the peak memory of answering, which takes time.
        traced: whether to record pictures of the frames and the source patches of kept tokens.

    Raises:
        VideoError, MemoryLimitError, NumericsError: See `aot.errors`.
    """
    of_pipeline = {id(task.pipeline): task for each in tasks for task in _by_question(each)}
    items = list({item.fingerprint: item for task in tasks for item in task.items}.values())
    # The full-token model comes first, and shares the encoding of the methods.
    full = full_pipeline(tasks[0].pipeline) if with_reference else None
    references: dict[str, Reference] | None = None
    results = compress_each(
        [*([full] if full else []), *(task.pipeline for task in of_pipeline.values())],
        video,
        list(dict.fromkeys(item.prompt for item in items)),
        traced=traced,
        on_notice=lambda notice: on_notice(f"{video.name}: {notice}"),
    )
    for pipeline, result in results:
        if pipeline is full:
            if isinstance(result, Refusal):
                raise result.error
            references = read_references(full, result.tokens, items)
            continue
        task = of_pipeline[id(pipeline)]
        if isinstance(result, Refusal):
            yield Outcome(task.condition, refusal=result)
            continue
        try:
            answered = _answer(task, result, references, measure_memory, on_notice)
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
    pipeline, items, tokens, report = task.pipeline, task.items, compression.tokens, compression.report
    with explained_memory():
        first, peak_bytes = _first_reply(pipeline, tokens, items[0], measure_memory)
        for notice in first.notices:
            on_notice(notice)
        reading = pipeline.model.read(tokens, pipeline.inner)
        others = reading.answers([item.prompt for item in items[1:]], pipeline.config.generation)
        measured = [None] * len(items) if references is None else measure(pipeline, reading, items, references)
    return [
        Answered(
            item=item.fingerprint,
            video=item.video.name,
            question=item.question,
            answer=item.answer,
            condition=task.condition.key,
            predicted=text,
            score=score(item, text),
            kept_tokens=report.kept_tokens,
            visual_tokens=report.visual_tokens,
            budget_tokens=report.budget_tokens,
            language_model_load=language_model_load(first.layer_tokens, report.visual_tokens),
            decode_ms=report.stage_ms["decode"],
            encode_ms=report.stage_ms["encode"],
            compress_ms=report.stage_ms["compress"],
            first_token_ms=first.answer_ms if first.first_token_ms is None else first.first_token_ms,
            answer_ms=first.answer_ms,
            answer_bytes=peak_bytes,
            fidelity=fidelity,
        )
        for item, text, fidelity in zip(items, [first.text, *others], measured, strict=True)
    ]


def _first_reply(
    pipeline: Pipeline, tokens: CompressedTokens, item: Item, measure_memory: bool
) -> tuple[Reply, int | None]:
    """Answer `item` alone; return the reply and, if measured, the peak memory in bytes, or None."""
    device = torch.device(pipeline.model.placement["device"])
    with peak_memory(device) if measure_memory else nullcontext(PeakMemory()) as peak:
        reply = write_reply(lambda: pipeline.answer(tokens, item.prompt))
    return reply, peak.device if device.type == "cuda" else peak.host
