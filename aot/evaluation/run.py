"""Answer a data set under several conditions; decode and encode each video once if possible."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from aot.errors import AOTError
from aot.evaluation.answering import Task, answer_video
from aot.evaluation.conditions import Condition
from aot.evaluation.dataset import Item, by_video
from aot.evaluation.fidelity import Reference
from aot.evaluation.journal import Journal
from aot.evaluation.results import Results, summarize
from aot.models import VideoModel
from aot.pipeline.frame_selection import check_questions
from aot.pipeline.run import Pipeline
from aot.reports.retention import versions
from aot.runtime.atomic_writes import make_folder
from aot.runtime.folder_lock import locked
from aot.video import open_videos

__all__ = ["describe_run", "evaluate"]

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
        description = describe_run(model, conditions, "full" if with_reference else None)
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
    opened = open_videos([video for video, left in missing.items() if left])
    total = len(videos) * len(conditions)
    # 2. Answer video by video; after a refusal, skip the condition for further videos.
    refused: dict[str, AOTError] = {}
    for number, (video, undone) in enumerate(missing.items(), 1):
        done = number * len(conditions) - len(undone)
        on_progress(done, total)
        wanted = [task for task in undone if task.condition.key not in refused]
        references: dict[str, Reference] | None = {} if with_reference else None
        outcomes = answer_video(opened[video], wanted, on_notice, references=references) if wanted else ()
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


def describe_run(model: VideoModel, conditions: Sequence[Condition], reference: str | None) -> dict[str, object]:
    """Return what affects answers: settings and versions that all runs into a folder share.

    `reference` names what was measured: None (answers), "full" (answers and fidelity to the
    full-token model), or what `aot.tuning` needs: "together" (answers, without times) or "forced"
    (fidelity alone).
    """
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
        "reference": reference,
    }
