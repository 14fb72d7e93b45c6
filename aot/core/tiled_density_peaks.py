"""Density peaks (DPC-KNN) of a whole video's tokens, whose distances do not fit into memory at once.

`aot.core.density_peaks` is for batches of frames. Here distances are recomputed a tile at a time, and densities stay
logarithms, so that sparse tokens are told apart where their densities would underflow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from aot.core.cost import working_dtype

__all__ = ["nearest_peak", "tiled_density_peaks"]

_TILE_ELEMENTS = 1 << 24


def tiled_density_peaks(features: Tensor, clusters: int, neighbours: int) -> Tensor:
    """Indices [clusters] of the best cluster centres of features [m, D], best first.

    The score is density times separation, as in `aot.core.density_peaks`; of equal densities and of equal scores the
    lower index is the greater.

    Raises:
        ValueError: clusters or neighbours is not in 1 .. m.
    """
    count = len(features)
    for name, value in (("clusters", clusters), ("neighbours", neighbours)):
        if not 1 <= value <= count:
            raise ValueError(f"{name}: expected 1 to {count}, got {value}")
    squared = _squared_distances(features)
    sparsity = torch.cat([squared(rows).topk(neighbours, largest=False).values.mean(1) for rows in _tiles(features)])
    densest_first = sparsity.sort(stable=True).indices
    rank = torch.empty_like(densest_first)
    rank[densest_first] = torch.arange(count, device=features.device)
    separation, greatest = [], []
    for rows in _tiles(features):
        tile = squared(rows)
        greatest.append(tile.amax())
        separation.append(tile.masked_fill_(rank >= rank[rows, None], torch.inf).amin(1))
    nearest_denser = torch.cat(separation)
    nearest_denser[densest_first[0]] = torch.stack(greatest).amax()
    score = nearest_denser.log() / 2 - sparsity
    return score.sort(descending=True, stable=True).indices[:clusters]


def nearest_peak(features: Tensor, peaks: Tensor) -> Tensor:
    """Which of `peaks` [K], indices into features [m, D], each row is nearest to: [m], 0 .. K - 1.

    The first of equally near ones; every peak is its own.
    """
    squared = _squared_distances(features)
    nearest = torch.cat([squared(rows, peaks).argmin(1) for rows in _tiles(features)])
    nearest[peaks] = torch.arange(len(peaks), device=features.device)
    return nearest


def _squared_distances(features: Tensor) -> Callable[..., Tensor]:
    """(rows, columns) -> squared distances / D, [rows, columns] of features [m, D]; all columns unless given."""
    values = features.to(working_dtype(features))
    values = values - values.mean(0)  # distances stay, and |a|^2 + |b|^2 - 2ab loses less
    norms = values.square().sum(-1)

    def squared(rows: Tensor, columns: Tensor | None = None) -> Tensor:
        others, other_norms = (values, norms) if columns is None else (values[columns], norms[columns])
        tile = torch.addmm(norms[rows, None] + other_norms, values[rows], others.mT, alpha=-2)
        tile = tile.clamp_(min=0).div_(values.shape[1])
        if columns is None:
            tile[torch.arange(len(rows), device=rows.device), rows] = 0
        return tile

    return squared


def _tiles(features: Tensor) -> Iterator[Tensor]:
    """Row numbers, as many at once as make a tile of the size that memory allows."""
    count = len(features)
    yield from torch.split(torch.arange(count, device=features.device), max(1, _TILE_ELEMENTS // count))
