"""The terminal: results on stdout, all else on stderr, errors as one line and an exit code."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import typer

from aot.errors import AOTError, ConfigError, MemoryLimitError, ModelError, VideoError

__all__ = [
    "StageBars",
    "explained_errors",
    "notify",
    "prepare_libraries",
    "print_json",
    "quiet_libraries",
    "usage_line",
]

_EXIT_CODES: tuple[tuple[type[AOTError], int], ...] = (
    (ConfigError, 2),
    (VideoError, 3),
    (ModelError, 4),
    (MemoryLimitError, 5),
    (AOTError, 1),
)


@contextmanager
def explained_errors(*, debug: bool) -> Iterator[None]:
    """Errors become one line on stderr and an exit code; `debug` shows the traceback first."""
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        if hasattr(error, "exit_code"):  # typer's own way of leaving
            raise
        if debug:
            traceback.print_exc()
        raise typer.Exit(_explain(error)) from None


def _explain(error: BaseException) -> int:
    """Say on stderr what went wrong; the exit code for it."""
    if isinstance(error, AOTError):
        _say(str(error))
        return next(code for kind, code in _EXIT_CODES if isinstance(error, kind))
    if isinstance(error, KeyboardInterrupt):
        _say("interrupted")
        if any(thread.name == "aot-answer" for thread in threading.enumerate()):
            os._exit(130)  # its forward pass cannot be interrupted; do not wait for it
        return 130
    if isinstance(error, BrokenPipeError):
        # Whoever read our output has left; nothing more can be said to them.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    line = " ".join(str(error).split())[:300]
    _say(f"internal error ({type(error).__name__}: {line}); run again with --debug for the traceback")
    return 1


def _say(message: str) -> None:
    """One line on stderr; control characters, which a file may bring along, are not passed on."""
    print("aot: " + "".join(c if c.isprintable() else " " for c in message), file=sys.stderr, flush=True)


def notify(notices: Iterable[str]) -> None:
    """One line on stderr for each thing the user should know."""
    for notice in notices:
        _say(f"note: {notice}")


def print_json(value: Any) -> None:
    """The one JSON object of `--json`."""
    utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    print(json.dumps(value, indent=2, ensure_ascii=not utf8))


def usage_line(report: Mapping[str, Any], stage_ms: Mapping[str, float]) -> str:
    """What a run kept and how long its stages took, in one line."""
    times = "".join(f"; {name} {ms / 1e3:.2f} s" for name, ms in stage_ms.items())
    return f"kept {report['kept_tokens']} of {report['visual_tokens']} tokens ({report['retention']:.2%}){times}"


def quiet_libraries(offline: bool) -> None:
    """Before the hub's library is imported: keep it quiet, and offline if asked (it reads this on import)."""
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def prepare_libraries(offline: bool) -> None:
    """Before transformers is used: as `quiet_libraries`, for it and what it imports."""
    quiet_libraries(offline)
    for library in ("accelerate", "bitsandbytes"):
        logging.getLogger(library).setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", module=library)
    from huggingface_hub import constants
    from huggingface_hub.utils import enable_progress_bars
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # also the hub's, which show how far a fetch is
    if not constants.HF_HUB_DISABLE_PROGRESS_BARS:
        enable_progress_bars()


class StageBars:
    """Progress bars on stderr, one per stage; silent when stderr is no terminal."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description:<10}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not sys.stderr.isatty(),
        )
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> StageBars:
        if not self._progress.disable:  # some versions of rich print an empty line even when disabled
            self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if not self._progress.disable:
            self._progress.stop()

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage not in self._tasks:
            self._tasks[stage] = self._progress.add_task(stage, total=total)
        self._progress.update(self._tasks[stage], completed=done, total=total)

    def megabytes(self, stage: str) -> Callable[[int, int], None]:
        """Return a function that takes how many bytes are done, and of how many."""
        return lambda done, whole: self(stage, done // 10**6, whole // 10**6)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """A stage whose length is not known beforehand."""
        task = self._progress.add_task(name, total=None)
        yield
        self._progress.update(task, total=1, completed=1)
