"""The contract between a reduction inside the language model and everything else."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeVar

import torch
from torch import Tensor

from aot.plugins import Card
from aot.types import CompressedTokens

__all__ = ["PUBLISHED_LAYERS", "AttentionRows", "InnerReduction", "Place", "Reduction", "State"]

PUBLISHED_LAYERS = 28  # of Qwen2-7B, which the published layer numbers refer to


@dataclass(frozen=True, slots=True)
class Place:
    """Where a reduction acts: before layer `layer` (from 0), or within it between attention and MLP."""

    layer: int
    after_attention: bool = False


class AttentionRows(Protocol):
    """Post-softmax attention [H, R, T], float32, of `rows` [R] to all T rows of the sequence.

    Of the layer that attended last, or of the `upcoming` one. Without `rotary`, positions take no part; without
    `causal`, a row sees those behind it too.
    """

    def __call__(self, rows: Tensor, *, upcoming: bool = False, rotary: bool = True, causal: bool = True) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class State:
    """A prompt on its way through the language model, T rows of it left.

    layer: the one about to run, or that has just attended, of `layers`. hidden: [1, T, D]. visual: [V] rows of the
    visual tokens, ascending; token: [V] which of `tokens` each is. newline: [L] rows of the learned newlines,
    ascending; line: [L] the line of the pooled grid that each ends, -1 for one that ends the whole video. question: [Q]
    rows of the text that follows. notes: what the reduction left for itself the last time.
    """

    layer: int
    layers: int
    hidden: Tensor
    visual: Tensor
    token: Tensor
    newline: Tensor
    line: Tensor
    question: Tensor
    tokens: CompressedTokens
    attention: AttentionRows
    notes: tuple[float, ...] = ()

    @property
    def frame(self) -> Tensor:
        """[V] int64."""
        return self._of_each(self.tokens.frame).to(torch.int64)

    @property
    def cell(self) -> Tensor:
        """[V] int64, places in the pooled grid in raster order."""
        row, col = self._of_each(self.tokens.row), self._of_each(self.tokens.col)
        return row.to(torch.int64) * self.tokens.grid[1] + col

    @property
    def patches(self) -> Tensor:
        """[R] rows of the visual tokens and of the newlines that end a line, ascending: all that LLaVA-Video counts as
        visual. A newline that ends the whole video, as LLaVA-OneVision's, counts as text.
        """
        return torch.cat([self.visual, self.newline[self.line >= 0]]).sort().values

    @property
    def patch_type(self) -> Tensor:
        """[R] int64, which of a frame's patches each of `patches` is: its cell, or the newline of a line."""
        ends_line = self.line >= 0
        of_newlines = self.line[ends_line] + self.tokens.grid[0] * self.tokens.grid[1]
        order = torch.cat([self.visual, self.newline[ends_line]]).argsort()
        return torch.cat([self.cell, of_newlines])[order]

    @property
    def mass(self) -> Tensor:
        """[V] float32, for how many pooled tokens each stands."""
        return self._of_each(self.tokens.mass)

    def from_last(self, *, upcoming: bool = False) -> Tensor:
        """[T] float32, how much the last prompt token looks at each row, mean over heads."""
        last = torch.tensor([self.hidden.shape[1] - 1], device=self.hidden.device)
        return self.attention(last, upcoming=upcoming).mean(0)[0]

    def _of_each(self, values: Tensor) -> Tensor:
        return values.to(self.token.device)[self.token]


@dataclass(frozen=True, slots=True)
class Reduction:
    """Which rows go on. dropped: rows that do not, never text. hidden: [1, T, D], where kept rows change (None: no).

    packed: the rest is numbered anew, without gaps; otherwise every row keeps its position.
    forgotten: the layers run so far forget the dropped rows too, once the prompt is read.
    notes: for the next time. done: there is none.
    """

    dropped: Tensor
    hidden: Tensor | None = None
    packed: bool = False
    forgotten: bool = False
    notes: tuple[float, ...] = ()
    done: bool = False


R = TypeVar("R", bound="InnerReduction")


class InnerReduction(Protocol):
    """Drops visual tokens while the language model reads the prompt. The fields of its dataclass are its settings.

    load: the mean over `layers` layers of the share of visual tokens in each. with_load: the same reduction with
    another share; raises `BudgetError` where there is none, with a message that goes on from "--inner NAME". places:
    where `reduce` is called.
    """

    card: ClassVar[Card]

    def load(self, layers: int) -> float: ...

    def with_load(self: R, load: float, layers: int) -> R: ...

    def places(self, layers: int) -> Collection[Place]: ...

    def reduce(self, state: State) -> Reduction: ...
