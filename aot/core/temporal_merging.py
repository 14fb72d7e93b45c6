"""Tokens at one place of the picture that stay alike over time: how alike, and which are merged."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["most_alike", "similarity_to_previous"]


def similarity_to_previous(values: Tensor, place: Tensor) -> Tensor:
    """Cosine of every row of values [m, D] with the row before it, [m]; minus infinity where that is of another place.

    place: int64 [m]. Rows are sorted by place, and by time within one.
    """
    similarity = values.new_full((len(values),), -torch.inf)
    unit = functional.normalize(values, dim=-1)
    cosine = (unit[1:] * unit[:-1]).sum(-1)
    similarity[1:] = torch.where(place[1:] == place[:-1], cosine, -torch.inf)
    return similarity


def most_alike(similarity: Tensor, index: Tensor, threshold: float, most: int) -> Tensor:
    """Which rows are at least `threshold` similar, only the `most` most similar of them: bool [m].

    index [m]: of equal ones the lower goes first.
    """
    by_index = index.argsort()
    ranked = by_index[similarity[by_index].sort(descending=True, stable=True).indices[:most]]
    chosen = torch.zeros_like(similarity, dtype=torch.bool)
    chosen[ranked] = similarity[ranked] >= threshold
    return chosen
