"""Print results on stdout, everything else on stderr, and errors as one line."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from aot.errors import AOTError, ConfigError, MemoryLimitError, ModelError, VideoError, interruption
from aot.runtime.memory import is_out_of_memory
from aot_cli.output.screen import drop_unwritten, escaped, print_text
from aot_cli.session import Session, begin, current, print_line
from aot_cli.signals import Terminated

if TYPE_CHECKING:
    from rich.progress import TaskID

    from aot.reports.retention import RetentionReport

__all__ = [
    "StageBars",
    "explain",
    "explained_errors",
    "json_object",
    "json_text",
    "log",
    "notify",
    "prepare_libraries",
    "print_failure",
    "print_json",
    "print_usage",
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
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


@contextmanager
def explained_errors(session: Session) -> Iterator[None]:
    """Print an error of a command as one line (with --json also as JSON) and end the command."""
    try:
        with begin(session):
            yield
            sys.stdout.flush()  # a full disk raises here, where the error is handled
    except (Exception, KeyboardInterrupt) as error:
        if hasattr(error, "exit_code"):  # typer's own exit
            raise
        if session.debug:
            print_text(traceback.format_exc(), end="", to_stderr=True)
        raise typer.Exit(explain(error, session)) from None


def explain(error: BaseException, session: Session) -> int:
    """Print `error` on stderr (with --json also on stdout) and return the exit code."""
    error = interruption(error) or error
    message, code = _message(error)
    if message:
        print_line(message)
    try:
        if session.as_json:
            print_failure(message, code, session)
    except OSError:  # the disk is full, or the reader has closed the pipe
        pass
    drop_unwritten(sys.stdout)
    is_answering = any(thread.name == "aot-answer" for thread in threading.enumerate())
    if isinstance(error, KeyboardInterrupt) and is_answering:
        os._exit(code)  # do not wait for the thread's forward pass, which cannot be interrupted
    return code


def _message(error: BaseException) -> tuple[str, int]:
    """Return the message and the exit code of an error; the message is "" for a closed pipe."""
    if isinstance(error, AOTError):
        return str(error), next(code for kind, code in _EXIT_CODES if isinstance(error, kind))
    if isinstance(error, Terminated):
        return "terminated", 143
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", 130
    if isinstance(error, BrokenPipeError):
        return "", 1
    line = " ".join(str(error).split())[:300]
    if is_out_of_memory(error):
        cause = f" ({line})" if line else ""
        return f"out of memory{cause}; give this process more (ulimit -v, or its container's limit)", 5
    if isinstance(error, OSError) and error.errno in _FULL and error.filename is None:
        return f"the output cannot be written: {os.strerror(error.errno).lower()}", 1
    return f"internal error ({type(error).__name__}: {line}); run again with --debug for the traceback", 1


def notify(notices: Iterable[str]) -> None:
    """Print each note on one line, and record it for the command's JSON."""
    for notice in notices:
        current().notify(notice)


def log(message: str) -> None:
    """Log a step or a decision, which `--verbose` prints."""
    logging.getLogger("aot").info(message)


def print_json(schema: str, value: Mapping[str, object]) -> None:
    """Print `value` as the object of `--json`; `schema` is a name in `aot_cli.output.schemas`."""
    utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    print_text(json_text(json_object(schema, value), ascii_only=not utf8, indent=current().json_indent))


def print_failure(message: str, code: int, session: Session) -> None:
    """Print the object of `--json` for a failed command."""
    notices = list(session.notices)
    found = {"schema": "aot.error/1", "error": message, "exit_code": code, "notices": notices}
    print_text(json_text(found, indent=session.json_indent))


def json_object(schema: str, value: Mapping[str, object]) -> dict[str, object]:
    """Return the result `value` of a command with the name of the schema and all notes so far."""
    return {"schema": schema, **value, "notices": list(current().notices)}


def json_text(value: Mapping[str, object], *, ascii_only: bool = True, indent: int | None = 2) -> str:
    """Return `value` as valid JSON; infinite numbers and NaN become null, paths become strings."""
    return escaped(json.dumps(_plain(value), indent=indent, ensure_ascii=ascii_only, allow_nan=False))


def _plain(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value


def print_usage(report: RetentionReport, stage_ms: Mapping[str, float]) -> None:
    """Print `usage_line` on stderr if stderr is a terminal (without --quiet), or with --verbose."""
    if current().shows_progress or current().verbose:
        print_text(usage_line(report, stage_ms), to_stderr=True)


def usage_line(report: RetentionReport, stage_ms: Mapping[str, float]) -> str:
    """Return one line with the kept tokens and the times of the stages."""
    times = "".join(f"; {name} {ms / 1e3:.2f} s" for name, ms in stage_ms.items())
    reuse = f"; {report.reuse}" if report.reuse else ""
    return f"kept {report.kept_tokens} of {report.visual_tokens} tokens ({report.retention:.2%}){times}{reuse}"


def quiet_libraries(offline: bool) -> None:
    """Silence huggingface_hub and, if `offline`, forbid requests; call this before its import."""
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    if not current().shows_progress:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def prepare_libraries(offline: bool) -> None:
    """Silence huggingface_hub and transformers; call this before the first use of a model."""
    quiet_libraries(offline)
    for library in ("accelerate", "bitsandbytes"):
        logging.getLogger(library).setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", module=library)
    from huggingface_hub import constants
    from huggingface_hub.utils import enable_progress_bars
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # this also hides the download bars of the hub, which are shown again below
    if not constants.HF_HUB_DISABLE_PROGRESS_BARS:
        enable_progress_bars()


class StageBars:
    """Show one progress bar per stage on a terminal; record the current stage in the session."""

    def __init__(self) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        from aot_cli.output.safe_console import SafeConsole

        self._progress = Progress(
            TextColumn("{task.description:<10}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=SafeConsole(stderr=True),
            transient=True,
            disable=not current().shows_progress,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> StageBars:
        if not self._progress.disable:  # some versions of rich print an empty line even when disabled
            self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if not self._progress.disable:
            self._progress.stop()

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Show that `done` of `total` steps of a stage are done; `note` follows its name."""
        if stage not in self._tasks:
            self._tasks[stage] = self._progress.add_task(stage, total=total)
        described = f"{stage}, {note}" if note else stage
        self._progress.update(self._tasks[stage], completed=done, total=total, description=described)
        current().stage = f"{stage}, {done} of {total}" if done < total else f"{stage} is done"

    def megabytes(self, stage: str) -> Callable[[int, int], None]:
        """Return a callback that takes (bytes done, bytes in total) and shows megabytes."""
        return lambda done, whole: self(stage, done // 10**6, whole // 10**6)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Show a stage of unknown length while the context is open, and log the stage's time."""
        task, start = self._progress.add_task(name, total=None), time.perf_counter()
        current().stage = name
        yield
        self._progress.update(task, total=1, completed=1)
        log(f"{name}: {time.perf_counter() - start:.2f} s")
