"""What this process does that its work has no need of: files it changes elsewhere, programs, connections."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Sentry"]

_CHANGES = {
    "os.chmod", "os.chown", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate",
    "os.utime", "shutil.rmtree",
}  # fmt: skip
_TWO_PATHS = {"os.link", "os.rename", "os.symlink"}
_PROGRAMS = {"os.exec", "os.posix_spawn", "os.spawn", "os.startfile", "os.system", "pty.spawn", "subprocess.Popen"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# How Python's `platform` learns the processor's name, and aot does what may end its process.
_PARTS = ("uname", sys.executable)
_HARMLESS = ("/dev/null", "/proc/self/clear_refs")


@dataclass
class Sentry:
    """An audit hook of Python (PEP 578). It sees what Python code does and the libraries that use Python's functions,
    not what a C library does by itself.

    allowed: folders in which anything may be done. changed, started, connected: what was done elsewhere, in words.
    """

    allowed: tuple[Path, ...]
    changed: list[str] = field(default_factory=list)
    started: list[str] = field(default_factory=list)
    connected: list[str] = field(default_factory=list)
    is_watching: bool = False

    def install(self) -> None:
        """Begin to see, for the rest of the process's life; only what happens while `is_watching` is noted."""
        sys.addaudithook(self._see)

    def clear(self) -> None:
        for seen in (self.changed, self.started, self.connected):
            seen.clear()

    def _see(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.is_watching:
            return
        if event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & _WRITING:
                self._note_change(event, path)
        elif event in _CHANGES:
            for path in arguments[: 2 if event in _TWO_PATHS else 1]:
                self._note_change(event, path)
        elif event in _PROGRAMS:
            if arguments[0] not in _PARTS:
                self.started.append(f"{event} {arguments[0]!r:.200}")
        elif event == "socket.connect":
            self.connected.append(repr(arguments[1]))

    def _note_change(self, event: str, path: Any) -> None:
        if isinstance(path, int) or path is None:
            return  # an open descriptor, which was noted when it was opened
        whole = os.path.abspath(os.fsdecode(path))  # noqa: PTH100
        if whole not in _HARMLESS and not any(Path(whole).is_relative_to(folder) for folder in self.allowed):
            self.changed.append(f"{event} {whole}")
