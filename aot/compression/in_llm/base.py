"""The protocol of reductions inside the language model, and what they receive and return."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeVar

import torch
from torch import Tensor

from aot.plugins import Card
from aot.types import CompressedTokens

__all__ = ["PUBLISHED_LAYERS", "AttentionRows", "InnerReduction", "LayerPoint", "Reduction", "State"]

PUBLISHED_LAYERS = 28  # of Qwen2-7B, to which published layer numbers refer


@dataclass(frozen=True, slots=True)
class LayerPoint:
    """Where a reduction acts: before layer `layer` (from 0), or in it between attention and MLP."""

    layer: int
    after_attention: bool = False


class AttentionRows(Protocol):
    """Return the attention [H, R, T] that `rows` [R] pay to all T rows: post-softmax, float32.

    It is that of the layer that attended last or, with `upcoming`, of the next layer. Without
    `rotary`, positions have no effect. Without `causal`, a row also attends to later rows.
    """

    def __call__(self, rows: Tensor, *, upcoming: bool = False, rotary: bool = True, causal: bool = True) -> Tensor:
        """Return the attention of `rows`, an int64 tensor of row indices."""
        ...


@dataclass(frozen=True, slots=True)
class State:
    """A prompt between two steps of the language model, with T rows left.

    Attributes:
        layer: the layer that runs next, or that has just attended.
        layers: the number of layers.
        hidden: [1, T, D].
        visual: [V], the rows of visual tokens, ascending.
        token: [V], the index into `tokens` of each of them.
        newline: [L], the rows of learned newlines, ascending.
        line: [L], the line of the pooled grid that each newline ends, -1 for one that ends the
            video.
        question: [Q], the rows of the text after the video.
        tokens: the compressed tokens of the video.
        attention: returns attention between rows.
        notes: the notes of the last `Reduction`.
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
        """Return the frames of the visual tokens: [V] int64."""
        return self._of_each(self.tokens.frame).to(torch.int64)

    @property
    def cell_in_frame(self) -> Tensor:
        """Return the cells of the visual tokens, indices into the pooled grid: [V] int64."""
        row, col = self._of_each(self.tokens.row), self._of_each(self.tokens.col)
        return row.to(torch.int64) * self.tokens.grid[1] + col

    @property
    def patches(self) -> Tensor:
        """Return the rows [R] of visual tokens and of newlines that end a line, ascending.

        LLaVA-Video counts all of these as visual. A newline that ends the whole video, as in
        LLaVA-OneVision, counts as text.
        """
        return torch.cat([self.visual, self.newline[self.line >= 0]]).sort().values

    @property
    def patch_type(self) -> Tensor:
        """Return the type of each of `patches`, [R] int64: its cell, or the newline of a line.

        Newlines have the numbers after those of the cells.
        """
        # Newlines are numbered after the rows * cols cells.
        ends_line = self.line >= 0
        of_newlines = self.line[ends_line] + self.tokens.grid[0] * self.tokens.grid[1]
        # The order of `patches`, which are sorted by row.
        order = torch.cat([self.visual, self.newline[ends_line]]).argsort()
        return torch.cat([self.cell_in_frame, of_newlines])[order]

    @property
    def mass(self) -> Tensor:
        """Return how many pooled tokens each visual token was merged from: [V] float32."""
        return self._of_each(self.tokens.mass)

    def from_last(self, *, upcoming: bool = False) -> Tensor:
        """Return the last prompt token's attention to each row: [T] float32, mean over heads."""
        # One row of attention is enough; the full matrix is never computed.
        last = torch.tensor([self.hidden.shape[1] - 1], device=self.hidden.device)
        return self.attention(last, upcoming=upcoming).mean(0)[0]

    def _of_each(self, values: Tensor) -> Tensor:
        """Return the values of the visual tokens that are left."""
        return values.to(self.token.device)[self.token]


@dataclass(frozen=True, slots=True)
class Reduction:
    """The rows that a reduction drops, and what changes for the others.

    Attributes:
        dropped: the rows to drop, never text.
        hidden: [1, T, D] if kept rows change, else None.
        packed: whether the kept rows get new positions without gaps; otherwise they keep theirs.
        forgotten: whether the layers that have run drop the rows from their KV caches as well, once
            the prompt is read.
        notes: numbers that the next `State` passes on to the reduction.
        done: whether the reduction is not called again.
    """

    dropped: Tensor
    hidden: Tensor | None = None
    packed: bool = False
    forgotten: bool = False
    notes: tuple[float, ...] = ()
    done: bool = False


R = TypeVar("R", bound="InnerReduction")


class InnerReduction(Protocol):
    """Drop visual tokens while the language model reads the prompt.

    The fields of a reduction's dataclass are its settings.
    """

    card: ClassVar[Card]

    def load(self, layers: int) -> float:
        """Return the mean over `layers` layers of the share of visual tokens in each."""
        ...

    def with_load(self: R, load: float, layers: int) -> R:
        """Return the same reduction with another load.

        Raises:
            BudgetError: If it cannot reach the load; the message continues "--inner NAME".
        """
        ...

    def points(self, layers: int) -> Collection[LayerPoint]:
        """Return where `reduce` is called."""
        ...

    def reduce(self, state: State) -> Reduction:
        """Return which rows to drop at one of the points."""
        ...
