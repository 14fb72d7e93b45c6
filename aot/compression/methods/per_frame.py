"""Shared steps of methods that treat every frame on its own: equal budgets, and joining."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from aot.compression.methods.subset import kept_tokens, pooled_cells
from aot.compression.ops.budget import spread
from aot.compression.ops.products import take_rows
from aot.compression.ops.source_weights import joined, of_frames
from aot.types import Clip, CompressedTokens, VisualTokens

__all__ = ["FrameTokens", "equal_shares", "joined_frames"]


@dataclass(frozen=True, slots=True)
class FrameTokens:
    """The kept tokens of f consecutive frames, S per frame, in order.

    Attributes:
        features: [f, S, D].
        cell: int64 [f, S], the index of each token in the pooled grid of its frame.
        mass: [f, S].
        weights: [f, S, n], of every pooled token of the frame in each kept token, up to a factor;
            it may be None if the video is not traced.
    """

    features: Tensor
    cell: Tensor
    mass: Tensor
    weights: Tensor | None

    def ordered(self, order: Tensor) -> FrameTokens:
        """Return the same tokens in the order int64 [f, S]."""
        wide = order[..., None].expand(-1, -1, self.features.shape[-1])
        return FrameTokens(
            self.features.gather(1, wide),
            self.cell.gather(1, order),
            self.mass.gather(1, order),
            None if self.weights is None else take_rows(self.weights, order),
        )


def equal_shares(frames: int, per_frame: int, budget: int) -> tuple[tuple[Clip, int], ...]:
    """Return runs of frames, each with the number of tokens (at least 1) that its frames keep.

    All frames together keep `budget` tokens, by largest remainder: the first frames keep one more.
    If the budget is below one token per frame, the last frames keep none and are left out.
    """
    runs, first = [], 0
    # Frames with the same share are one run, so that methods can treat them as a batch.
    for share, run in groupby(spread(budget, [per_frame] * frames)):
        stop = first + len(list(run))
        runs.append((Clip(first, stop), share))
        first = stop
    # Frames without a token come last.
    return tuple((run, share) for run, share in runs if share)


def joined_frames(
    tokens: VisualTokens,
    parts: Sequence[tuple[Clip, FrameTokens]],
    facts: Mapping[str, int | float | str | bool | None] | None = None,
) -> CompressedTokens:
    """Return the tokens of all runs of frames as the compressed tokens of the video.

    Args:
        tokens: the visual tokens of the video.
        parts: the runs of frames, each with the tokens that its frames keep.
        facts: plain values for the report.

    Raises:
        BudgetError: If nothing is kept.
    """
    per_frame = pooled_cells(tokens)[1]
    # Cells of frames become indices into all F * n.
    index = [part.cell + per_frame * _numbers(run, part.cell.device)[:, None] for run, part in parts]
    sources = None
    if tokens.traced:
        sources = joined([of_frames(part.weights, run.first) for run, part in parts if part.weights is not None])
    return kept_tokens(
        tokens,
        torch.cat([part.features.flatten(0, 1) for _, part in parts]),
        torch.cat([each.flatten() for each in index]),
        mass=torch.cat([part.mass.flatten() for _, part in parts]),
        facts=facts,
        sources=sources,
    )


def _numbers(run: Clip, device: torch.device) -> Tensor:
    """Return the frame indices of a run."""
    return torch.arange(run.first, run.stop, device=device)
