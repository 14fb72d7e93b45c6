"""Number the cells that kept tokens come from."""

from __future__ import annotations

from aot.types import CompressedTokens


def flat(kept: CompressedTokens) -> list[int]:
    """Return the index of each kept token among all F * n, in their order."""
    rows, cols = kept.grid
    return (kept.frame.long() * rows * cols + kept.row.long() * cols + kept.col.long()).tolist()
