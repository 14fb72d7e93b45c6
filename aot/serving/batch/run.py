"""Store the rows of a batch, and describe what they depend on."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import closing
from typing import Any

from aot.config.schema import Config
from aot.models import ModelIdentity
from aot.reports.retention import versions
from aot.serving.batch.results import Results, Row, Summary
from aot.serving.batch.worker import Outputs
from aot.serving.engines.options import TRANSFORMERS, EngineOptions

__all__ = ["describe_batch", "run_batch"]


def run_batch(
    results: Results,
    rows_by_video: Generator[list[Row], None, None],
    *,
    max_failures: int | None = None,
    on_rows: Callable[[list[Row], int, float], None] = lambda rows, done, elapsed_s: None,
) -> Summary:
    """Store the rows of each video when they arrive, and summarize all rows.

    Args:
        results: the rows so far.
        rows_by_video: the rows of each of `results.todo`, in any order.
        max_failures: the batch stops when more videos than this have failed in this run.
        on_rows: receives the rows of each video, the number of videos done, and the seconds so far.

    Raises:
        OutputError: If the results cannot be written.
    """
    failed, start_s = 0, time.perf_counter()
    with closing(rows_by_video):
        for done, rows in enumerate(rows_by_video, 1):
            results.add(rows)
            failed += any(row.error for row in rows)
            on_rows(rows, done, time.perf_counter() - start_s)
            if max_failures is not None and failed > max_failures:
                break
    return results.summary(time.perf_counter() - start_s)


def describe_batch(
    model: ModelIdentity, config: Config, outputs: Outputs, engine: EngineOptions = TRANSFORMERS
) -> dict[str, Any]:
    """Return what affects the rows: model, settings, versions, outputs and engine."""
    settings = config.to_dict()
    # These two settings do not affect the rows.
    del settings["model"]["offline"]
    del settings["sampling"]["max_input_mb"]
    return {
        "model": {"name": model.name, "fingerprint": model.fingerprint},
        "config": settings,
        "versions": versions(),
        "outputs": {"tokens": outputs.tokens, "reports": outputs.reports},
        **({} if engine == TRANSFORMERS else {"engine": engine.name}),
    }
