"""One command in a process forked from this one, which has imported everything: seconds sooner than a new Python."""

from __future__ import annotations

import _thread
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.commands import set_streams

__all__ = ["Forked", "run_forked"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_FILE_EVENTS = ("open", "os.chmod", "os.link", "os.mkdir", "os.remove", "os.rename")


@dataclass(frozen=True)
class Forked:
    """How a command ended. code: its exit code, below zero the signal that ended it. file_events: how often it opened,
    moved or removed a file of its folder, where it came to its end.
    """

    code: int
    out: str
    err: str
    seconds: float
    file_events: int = 0


def run_forked(
    arguments: Sequence[str],
    folder: Path,
    logs: Path,
    *,
    stdin: Path = Path(os.devnull),
    signal_number: int = 0,
    after_s: float | None = None,
    at_file_event: int | None = None,
    delay_s: float = 0.0,
    without: str = "",
) -> Forked:
    """Run `aot ARGUMENTS` in a folder, which is that of its temporary files too, and send it a signal after some
    seconds, or `delay_s` after it begins to touch a file of the folder for the n-th time. logs: a folder for what it
    prints. without: a module that is not installed, as far as the command can see.
    """
    start = time.monotonic()
    # A signal must not reach the copy of this program that the process is until it has become the command.
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    process = os.fork()
    if process:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    else:
        if without:
            sys.modules[without] = None  # type: ignore[assignment]
        _be_command(arguments, folder, logs, stdin, _Counter(folder, signal_number, at_file_event, delay_s))
    if after_s is not None:
        time.sleep(max(0.0, start + after_s - time.monotonic()))
        os.kill(process, signal_number)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    seconds, events = time.monotonic() - start, logs / "events"
    out, err = ((logs / name).read_text("utf-8", "replace") for name in ("out", "err"))
    return Forked(code, out, err, seconds, int(events.read_text() or 0) if events.exists() else 0)


def _be_command(arguments: Sequence[str], folder: Path, logs: Path, stdin: Path, counter: _Counter) -> None:
    """Be the process of a command, to its end."""
    code = 1
    try:
        (logs / "events").unlink(missing_ok=True)
        opened = [os.open(stdin, os.O_RDONLY), *(os.open(logs / name, _NEW, 0o600) for name in ("out", "err"))]
        set_streams(*opened)
        os.chdir(folder)
        tempfile.tempdir = str(folder)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
        sys.argv = ["aot", *arguments]
        sys.addaudithook(counter.see)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        code = _exit_code()
        counter.is_counting = False
        (logs / "events").write_text(str(counter.seen))
    except KeyboardInterrupt:  # before the command began, or after its end
        signal.signal(counter.signal_number, signal.SIG_DFL)
        os.kill(os.getpid(), counter.signal_number)
    finally:
        os._exit(code)


def _exit_code() -> int:
    from aot_cli.entry import main

    try:
        main()
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else 1
    except KeyboardInterrupt:  # Python would print it as well
        traceback.print_exc()
        raise
    return 0


_NEW = os.O_WRONLY | os.O_CREAT | os.O_TRUNC


@dataclass
class _Counter:
    """An audit hook that counts what is done to files of a folder, and sends the process a signal at one of them."""

    folder: Path
    signal_number: int
    at: int | None
    delay_s: float
    seen: int = 0
    is_counting: bool = True

    def see(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in _FILE_EVENTS or not self.is_counting or isinstance(arguments[0], int):
            return
        path = os.path.abspath(os.fsdecode(arguments[0]))  # noqa: PTH100
        if path.startswith(str(self.folder)):
            self.seen += 1
            if self.seen == self.at:
                self._send()

    def _send(self) -> None:
        """From a thread that is not waited for: the signal's exception, raised here, would keep what is audited from
        happening.
        """
        _thread.start_new_thread(self._send_later, ())

    def _send_later(self) -> None:
        time.sleep(self.delay_s)
        os.kill(os.getpid(), self.signal_number)
