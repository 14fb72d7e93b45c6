"""Where kept tokens come from, as one number each."""

from __future__ import annotations

from aot.types import CompressedTokens


def flat(kept: CompressedTokens) -> list[int]:
    """Kept tokens, in order, as indices into all F * n."""
    rows, cols = kept.grid
    return (kept.frame.long() * rows * cols + kept.row.long() * cols + kept.col.long()).tolist()
