"""What methods share that treat every frame on its own: equal budgets, and the frames put together again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from aot.compression.methods.subset import kept_tokens, pooled_cells
from aot.compression.ops.budget import spread
from aot.compression.ops.products import take_rows
from aot.compression.ops.shares import Shares
from aot.types import Clip, CompressedTokens, Provenance, VisualTokens

__all__ = ["FrameTokens", "equal_shares", "joined_frames"]


@dataclass(frozen=True, slots=True)
class FrameTokens:
    """What each of f frames in a row keeps, in order: features [f, S, D], the place of each token in its frame's pooled
    grid, cell int64 [f, S], and its mass [f, S]. weights: works out what each takes of its frame's pooled tokens, up to
    a factor, [f, S, n].
    """

    features: Tensor
    cell: Tensor
    mass: Tensor
    weights: Callable[[], Tensor]

    def ordered(self, order: Tensor) -> FrameTokens:
        """The same tokens in the order int64 [f, S]."""
        wide = order[..., None].expand(-1, -1, self.features.shape[-1])
        weights = self.weights
        return FrameTokens(
            self.features.gather(1, wide),
            self.cell.gather(1, order),
            self.mass.gather(1, order),
            lambda: take_rows(weights(), order),
        )


def equal_shares(frames: int, per_frame: int, budget: int) -> tuple[tuple[Clip, int], ...]:
    """Frames in a row and how many tokens each of them keeps, at least one, so that all keep `budget`.

    By largest remainder: the first frames keep one more, and the last keep none (and are left out) where the budget is
    below one token per frame.
    """
    runs, first = [], 0
    for share, run in groupby(spread(budget, [per_frame] * frames)):
        stop = first + len(list(run))
        runs.append((Clip(first, stop), share))
        first = stop
    return tuple((run, share) for run, share in runs if share)


def joined_frames(
    tokens: VisualTokens,
    parts: Sequence[tuple[Clip, FrameTokens]],
    facts: Mapping[str, int | float | str | bool | None] | None = None,
) -> CompressedTokens:
    """The tokens of frames in a row, each run with what its frames keep, as those of the video.

    Raises:
        BudgetError: nothing is kept.
    """
    per_frame = pooled_cells(tokens)[1]
    index = [part.cell + per_frame * _numbers(run, part.cell.device)[:, None] for run, part in parts]
    made_of = [(part.weights, run.first) for run, part in parts]

    def provenance() -> Provenance:
        return Shares.joined([Shares.of_frames(weights(), first) for weights, first in made_of]).provenance()

    return kept_tokens(
        tokens,
        torch.cat([part.features.flatten(0, 1) for _, part in parts]),
        torch.cat([place.flatten() for place in index]),
        mass=torch.cat([part.mass.flatten() for _, part in parts]),
        facts=facts,
        provenance=provenance,
    )


def _numbers(run: Clip, device: torch.device) -> Tensor:
    return torch.arange(run.first, run.stop, device=device)
