"""The contract between a method and everything else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

from aot.types import CompressedTokens, Needs, VisualTokens

__all__ = ["Method", "MethodCard"]


@dataclass(frozen=True, slots=True)
class MethodCard:
    """What a method says of itself in `aot methods`.

    acts: where, for instance "after pooling". source: the paper; empty for a baseline. exact: whether any budget
    is met to the token. remark: what a user must know, for instance the least ratio.
    """

    acts: str
    source: str = ""
    exact: bool = True
    remark: str = ""


class Method(Protocol):
    """Turns the visual tokens of a video into `budget` tokens. The fields of its dataclass are its settings."""

    card: ClassVar[MethodCard]

    @property
    def needs(self) -> Needs: ...

    def compress(self, tokens: VisualTokens, budget: int) -> CompressedTokens: ...
