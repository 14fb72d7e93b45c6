"""Make kept tokens and their source weights by hand."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from aot.types import Clip, CompressedTokens, Role, SourceWeights


def kept(
    grid: tuple[int, int],
    frames: int,
    cells: Sequence[int],
    *,
    roles: Sequence[Role] | None = None,
    mass: Sequence[float] | None = None,
    sources: SourceWeights | None = None,
) -> CompressedTokens:
    """Return tokens at these cells, in this order; kept ones of mass 1 by default."""
    cell, (rows, cols) = torch.tensor(cells), grid
    return CompressedTokens(
        features=torch.zeros(len(cells), 2),
        frame=(cell // (rows * cols)).int(),
        row=(cell % (rows * cols) // cols).int(),
        col=(cell % cols).int(),
        role=torch.tensor(roles or [Role.KEPT] * len(cells), dtype=torch.uint8),
        mass=torch.tensor(mass or [1.0] * len(cells)),
        grid=grid,
        timestamps_s=tuple(map(float, range(frames))),
        clips=Clip.runs(frames, 1),
        sources=sources,
    )


def made_of(
    *entries: tuple[int, int, float], source_mass: list[float] | None = None, is_global: list[bool] | None = None
) -> SourceWeights:
    """Return source weights with these entries: token, source and weight."""
    token, source, weight = map(torch.tensor, zip(*entries, strict=True))
    return SourceWeights(
        int(token.max()) + 1,
        token,
        source,
        weight,
        None if source_mass is None else torch.tensor(source_mass),
        None if is_global is None else torch.tensor(is_global),
    )
