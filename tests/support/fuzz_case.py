"""What the kinds of cases have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Protocol

__all__ = ["Kind", "Step"]


@dataclass(frozen=True)
class Step:
    """One command of a case. stdin: the file it is given there. inputs: files that it must leave as they are.
    may_fetch: it is told which model to fetch. needs_success: it is left out where a command before it failed.
    """

    arguments: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    stdin: str = ""
    inputs: tuple[Path, ...] = ()
    may_fetch: bool = False
    needs_success: bool = False


class Kind(Protocol):
    """Cases of one kind, each drawn by a generator of its own."""

    name: str

    def make(self, folder: Path) -> None:
        """Write what all cases begin with, in a process of its own."""

    def read(self, folder: Path) -> None:
        """Take what `make` wrote."""

    def steps(self, random: Random, folder: Path, hub: str) -> list[Step]:
        """Write a case's files into an empty folder, in which its commands will run; hub: the stand-in's address."""
