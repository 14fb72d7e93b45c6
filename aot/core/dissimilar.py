"""Walking down a ranking, taking only what is unlike all that was taken, without a loop over tokens."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from aot.core.cost import working_dtype

__all__ = ["admit_dissimilar"]

_BLOCK = 512


def admit_dissimilar(ranked: Tensor, threshold: float, most: int) -> Tensor:
    """Rows of ranked [m, D], best first, whose cosine with every row admitted before is below `threshold`.

    Ascending int64 indices, at most `most`. A block of the ranking is held against what was admitted before it in one
    product; who stands in whose way inside of it is then settled by repetition.
    """
    unit = functional.normalize(ranked.to(working_dtype(ranked)), dim=-1)
    admitted = torch.zeros(0, dtype=torch.int64, device=ranked.device)
    for first in range(0, len(unit), _BLOCK):
        if len(admitted) >= most:
            break
        block = unit[first : first + _BLOCK]
        free = (block @ unit[admitted].mT < threshold).all(-1)
        in_the_way = (block @ block.mT >= threshold).tril(-1)
        admitted = torch.cat([admitted, first + _settled(free, in_the_way).nonzero().flatten()])
    return admitted[:most]


def _settled(free: Tensor, in_the_way: Tensor) -> Tensor:
    """bool [b]: the free rows with no admitted row in their way, bool [b, b] below the diagonal.

    Row k is right after k + 1 repetitions at the latest, as it depends on earlier rows only; most settle in a few.
    """
    admitted = free
    while True:
        again = free & ~(in_the_way & admitted).any(-1)
        if torch.equal(again, admitted):
            return admitted
        admitted = again
