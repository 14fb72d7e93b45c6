"""Measure the accuracy of compression methods on a data set, with confidence intervals."""

from __future__ import annotations

from aot.evaluation.answering import Outcome, Task, answer_video
from aot.evaluation.conditions import Condition, build_conditions, off_budget
from aot.evaluation.dataset import Item, load_dataset
from aot.evaluation.journal_reader import Answered
from aot.evaluation.results import Results, summarize
from aot.evaluation.run import evaluate
from aot.runtime.folder_lock import locked

__all__ = [
    "Answered",
    "Condition",
    "Item",
    "Outcome",
    "Results",
    "Task",
    "answer_video",
    "build_conditions",
    "evaluate",
    "load_dataset",
    "locked",
    "off_budget",
    "summarize",
]
