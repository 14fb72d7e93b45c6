"""Make kept tokens and their source weights by hand."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from aot.types import Clip, CompressedTokens, Role, SourceWeights


def kept(
    grid: tuple[int, int],
    frames: int,
    places: Sequence[int],
    *,
    roles: Sequence[Role] | None = None,
    mass: Sequence[float] | None = None,
    sources: SourceWeights | None = None,
) -> CompressedTokens:
    """Return tokens at these places, in this order; kept ones of mass 1 by default."""
    place, (rows, cols) = torch.tensor(places), grid
    return CompressedTokens(
        features=torch.zeros(len(places), 2),
        frame=(place // (rows * cols)).int(),
        row=(place % (rows * cols) // cols).int(),
        col=(place % cols).int(),
        role=torch.tensor(roles or [Role.KEPT] * len(places), dtype=torch.uint8),
        mass=torch.tensor(mass or [1.0] * len(places)),
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
