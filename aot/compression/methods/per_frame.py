"""Provide shared steps of methods that compress frames separately: equal shares, and joining."""

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
    """Hold the kept tokens of f consecutive frames, S tokens for each frame.

    Attributes:
        features: [f, S, D].
        cell: int64 [f, S], the index of each token's cell in the pooled grid.
        mass: [f, S], the mass of each token.
        weights: [f, S, n], the weight of each pooled token of the frame in each kept token. Only
            proportions within a kept token matter. May be None if the video is not traced.
    """

    features: Tensor
    cell: Tensor
    mass: Tensor
    weights: Tensor | None

    def ordered(self, order: Tensor) -> FrameTokens:
        """Return the tokens rearranged: new token k of frame i is the old token order[i, k]."""
        wide = order[..., None].expand(-1, -1, self.features.shape[-1])
        return FrameTokens(
            self.features.gather(1, wide),
            self.cell.gather(1, order),
            self.mass.gather(1, order),
            None if self.weights is None else take_rows(self.weights, order),
        )


def equal_shares(frames: int, per_frame: int, budget: int) -> tuple[tuple[Clip, int], ...]:
    """Divide `budget` equally among the frames; return runs of frames with the same share.

    The share is the number of tokens that each frame of the run keeps, at least 1. If `budget` is
    not a multiple of `frames`, the first frames keep one token more. If `budget` is below `frames`,
    the last frames keep no token and are left out.
    """
    runs, first = [], 0
    # Frames with the same share form one run, which methods can process as a batch.
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
        parts: the runs of frames, each with the kept tokens of its frames.
        facts: plain values for the report.

    Raises:
        BudgetError: If nothing is kept.
    """
    per_frame = pooled_cells(tokens)[1]
    # Convert cells within frames to indices into all F * n.
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
    """Return the frame indices of `run`."""
    return torch.arange(run.first, run.stop, device=device)
