"""Keep the tokens of videos in memory and on disk; the least recently used go first."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal

import torch

from aot.errors import OutputError, TokensFileError
from aot.reports.retention import Compression
from aot.storage.tokens_file import load_tokens, save_tokens

__all__ = ["Found", "TokenCache"]

Found = Literal["memory", "disk", "miss"]
_MEGABYTE = 10**6
_SUFFIX = ".safetensors"


class TokenCache:
    """Tokens by key, from several threads.

    Two requests with one key make the tokens once: the second one waits for the first.

    Args:
        memory_mb: the most to keep in memory.
        folder: an existing folder for tokens files, or None. Several servers may share it.
        disk_mb: the most to keep on disk.
    """

    def __init__(self, memory_mb: int, folder: Path | None = None, disk_mb: int = 0) -> None:
        self._limit, self._folder, self._disk_limit = memory_mb * _MEGABYTE, folder, disk_mb * _MEGABYTE
        self._kept: OrderedDict[str, Compression] = OrderedDict()
        self._lock, self._disk_lock = threading.Lock(), threading.Lock()
        self._being_made: dict[str, _Turnstile] = {}
        self.memory_bytes = self.disk_bytes = 0
        if folder is not None:
            self._shrink_folder()

    def get(
        self, key: str, make: Callable[[], Compression], check: Callable[[], None] = lambda: None
    ) -> tuple[Compression, Found]:
        """Return the tokens of `key` and where they were; `make` makes them if they are nowhere.

        `check` is called while another thread makes them, and may raise to stop waiting.
        """
        with self._turn_of(key, check):
            if (kept := self._from_memory(key)) is not None:
                return kept, "memory"
            kept, found = self._from_disk(key), "disk"
            if kept is None:
                kept, found = on_host(make()), "miss"
                self._to_disk(key, kept)
            self._to_memory(key, kept)
            return kept, found  # type: ignore[return-value]

    @contextmanager
    def _turn_of(self, key: str, check: Callable[[], None]) -> Iterator[None]:
        with self._lock:
            turnstile = self._being_made.setdefault(key, _Turnstile())
            turnstile.users += 1
        try:
            while not turnstile.lock.acquire(timeout=0.1):
                check()
            try:
                yield
            finally:
                turnstile.lock.release()
        finally:
            with self._lock:
                turnstile.users -= 1
                if not turnstile.users:
                    del self._being_made[key]

    # --- Memory

    def _from_memory(self, key: str) -> Compression | None:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def _to_memory(self, key: str, kept: Compression) -> None:
        size = _size_of(kept)
        if size > self._limit:
            return  # it would only push the others out
        with self._lock:
            self._kept[key] = kept
            self.memory_bytes += size
            while self.memory_bytes > self._limit:
                self.memory_bytes -= _size_of(self._kept.popitem(last=False)[1])

    # --- Disk

    def _from_disk(self, key: str) -> Compression | None:
        """Return the tokens in the folder; a damaged file is as good as none."""
        if self._folder is None:
            return None
        path = self._folder / (key + _SUFFIX)
        try:
            os.utime(path)  # the time of use
            return load_tokens(path)
        except (OSError, TokensFileError):
            return None

    def _to_disk(self, key: str, kept: Compression) -> None:
        """Write the tokens to the folder; a full disk is no reason to refuse a request."""
        if self._folder is not None:
            with suppress(OutputError):
                save_tokens(self._folder / (key + _SUFFIX), kept.tokens, kept.report, overwrite=True)
            self._shrink_folder()

    def _shrink_folder(self) -> None:
        """Remove the files used longest ago until the rest is within the limit."""
        assert self._folder is not None
        with self._disk_lock:
            files = sorted(self._files(self._folder), key=lambda file: file[1].st_mtime_ns)
            total = sum(status.st_size for _, status in files)
            for path, status in files:
                if total <= self._disk_limit:
                    break
                path.unlink(missing_ok=True)
                total -= status.st_size
            self.disk_bytes = total

    def _files(self, folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
        for path in folder.glob("*" + _SUFFIX):
            with suppress(OSError):  # another server removed it
                yield path, path.stat()


class _Turnstile:
    """Lets one thread after the other work on a key."""

    def __init__(self) -> None:
        self.lock, self.users = threading.Lock(), 0


def on_host(kept: Compression) -> Compression:
    """Return the tokens in host memory, checked and without what only pictures need."""
    report = kept.report  # waits for the device, and raises if values are wrong
    tensors: dict[str, Any] = {
        field.name: value.cpu()
        for field in fields(kept.tokens)
        if isinstance(value := getattr(kept.tokens, field.name), torch.Tensor)
    }
    tokens = replace(kept.tokens, **tensors, clips=tuple(kept.tokens.clips), sources=None, unread=None)
    return Compression(tokens, report)


def _size_of(kept: Compression) -> int:
    """Return about how many bytes the tokens take."""
    values = (getattr(kept.tokens, field.name) for field in fields(kept.tokens))
    tensors = sum(value.nbytes for value in values if isinstance(value, torch.Tensor))
    return tensors + 2000 * len(kept.report.frames)
