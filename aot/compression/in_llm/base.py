"""Define the protocol of reductions inside the language model, with its input and output types."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeVar

import torch
from torch import Tensor

from aot.plugins import Card
from aot.types import CompressedTokens

__all__ = ["PUBLISHED_LAYERS", "AttentionRows", "InnerReduction", "LayerPoint", "Reduction", "State"]

PUBLISHED_LAYERS = 28  # number of layers of Qwen2-7B; published layer numbers refer to this model


@dataclass(frozen=True, slots=True)
class LayerPoint:
    """Hold where a reduction acts: before a layer, or between the layer's attention and MLP."""

    layer: int
    after_attention: bool = False


class AttentionRows(Protocol):
    """Return the attention weights from `rows` [R] to all T rows, after softmax: float32 [H, R, T].

    The weights are from the last layer that has attended or, with `upcoming`, from the next layer.
    Without `rotary`, positions have no effect. Without `causal`, a row also attends to later rows.
    """

    def __call__(self, rows: Tensor, *, upcoming: bool = False, rotary: bool = True, causal: bool = True) -> Tensor:
        """Return the attention weights of `rows`, an int64 tensor of row indices."""
        ...


@dataclass(frozen=True, slots=True)
class State:
    """Hold a prompt at one `LayerPoint` of the language model, with T rows left.

    Attributes:
        layer: the layer that runs next, or, after attention, the layer that has just attended.
        layers: the number of layers.
        hidden: [1, T, D], the hidden states.
        visual: [V], the rows of visual tokens, ascending.
        token: [V], for each row in `visual`, the index of its token in `tokens`.
        newline: [L], the rows of learned newlines, ascending.
        line: [L], the line of the pooled grid that each newline ends; -1 for a newline that ends
            the video.
        ends_video: whether the prompt has one newline that ends the video, and none that end lines.
        question: [Q], the rows of the text after the video.
        tokens: the compressed tokens of the video.
        attention: a function that returns attention weights between rows.
        notes: the `notes` of the previous `Reduction` for this prompt; empty at first.
    """

    layer: int
    layers: int
    hidden: Tensor
    visual: Tensor
    token: Tensor
    newline: Tensor
    line: Tensor
    ends_video: bool
    question: Tensor
    tokens: CompressedTokens
    attention: AttentionRows
    notes: tuple[float, ...] = ()

    @property
    def frame(self) -> Tensor:
        """Return the frame index of each visual token: int64 [V]."""
        return self._of_each(self.tokens.frame).to(torch.int64)

    @property
    def cell_in_frame(self) -> Tensor:
        """Return the index of each visual token's cell in the pooled grid: int64 [V]."""
        row, col = self._of_each(self.tokens.row), self._of_each(self.tokens.col)
        return row.to(torch.int64) * self.tokens.grid[1] + col

    @property
    def patches(self) -> Tensor:
        """Return the rows [R] of visual tokens and of newlines that end a line, ascending.

        LLaVA-Video counts both as visual. A newline that ends the whole video, as in
        LLaVA-OneVision, counts as text and is excluded.
        """
        return torch.cat([self.visual, *self._line_ends(self.newline)]).sort().values

    @property
    def patch_type(self) -> Tensor:
        """Return the type of each row in `patches`, int64 [R].

        The type of a visual token is its cell; the type of a newline is rows * cols + its line.
        """
        # Types of newlines follow the types of the rows * cols cells.
        of_newlines = self._line_ends(self.line + self.tokens.grid[0] * self.tokens.grid[1])
        # Sort by row, as `patches` does.
        order = torch.cat([self.visual, *self._line_ends(self.newline)]).argsort()
        return torch.cat([self.cell_in_frame, *of_newlines])[order]

    def _line_ends(self, values: Tensor) -> tuple[Tensor, ...]:
        """Return `values` [L] of the newlines if they end lines, else nothing."""
        return () if self.ends_video else (values,)

    @property
    def mass(self) -> Tensor:
        """Return the mass of each visual token, its number of pooled tokens: float32 [V]."""
        return self._of_each(self.tokens.mass)

    def from_last(self, *, upcoming: bool = False) -> Tensor:
        """Return the last prompt token's attention to each row: float32 [T], mean over heads."""
        # One row of attention is enough; the full matrix is never computed.
        rows = self.hidden.shape[1]
        last = torch.arange(rows - 1, rows, device=self.hidden.device)
        return self.attention(last, upcoming=upcoming).mean(0)[0]

    def _of_each(self, values: Tensor) -> Tensor:
        """Return the entries of `values` for the remaining visual tokens."""
        return values.to(self.token.device)[self.token]


@dataclass(frozen=True, slots=True)
class Reduction:
    """Hold the rows that a reduction drops, and the changes to the kept rows.

    Attributes:
        dropped: int64 [R], the rows to drop; text rows are not allowed.
        hidden: [1, T, D], new hidden states of all rows; None if the kept rows do not change.
        packed: whether the kept rows get new position ids without gaps; if not, they keep theirs.
        forgotten: whether the KV caches of earlier layers also lose the dropped rows after prefill.
        notes: numbers that the reduction receives in the next `State`.
        done: whether the reduction must not be called again.
    """

    dropped: Tensor
    hidden: Tensor | None = None
    packed: bool = False
    forgotten: bool = False
    notes: tuple[float, ...] = ()
    done: bool = False


R = TypeVar("R", bound="InnerReduction")


class InnerReduction(Protocol):
    """Drop visual tokens inside the language model during prefill.

    The fields of a reduction's dataclass are its settings.
    """

    card: ClassVar[Card]

    def load(self, layers: int) -> float:
        """Return the share of visual tokens that a layer processes, averaged over all `layers`."""
        ...

    def with_load(self: R, load: float, layers: int) -> R:
        """Return a copy of the reduction whose mean load is `load`.

        Raises:
            BudgetError: If `load` cannot be reached. The message is put after "--inner NAME".
        """
        ...

    def points(self, layers: int) -> Collection[LayerPoint]:
        """Return the points at which `reduce` is called."""
        ...

    def reduce(self, state: State) -> Reduction:
        """Return the rows to drop at one of the `points`."""
        ...
