"""Cluster sets of tokens around their density peaks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from aot.compression.ops.density_peaks import density_peak_scores
from aot.compression.ops.padding import is_queued, longest, unless_full
from aot.compression.ops.similarity import decision_dtype, working_dtype

__all__ = ["PeakClusters", "nearest_centers"]


@dataclass(frozen=True, slots=True)
class PeakClusters:
    """Hold up to P clusters of each of B sets of m tokens.

    Attributes:
        centers: int64 [B, P], the index of each cluster's center in its set.
        valid: bool [B, P], false for padding.
        owner: int64 [B, m], the cluster of each token; P for padding and in sets without clusters.
    """

    centers: Tensor
    valid: Tensor
    owner: Tensor

    @classmethod
    def build(
        cls,
        values: Tensor,
        valid: Tensor,
        counts: Tensor,
        most: int,
        *,
        neighbors: int,
        most_neighbors: Tensor,
        by_score: Tensor | None = None,
    ) -> PeakClusters:
        """Choose counts[b] density peaks of each set as centers; assign tokens to the nearest.

        Args:
            values: [B, m, D], the tokens.
            valid: bool [B, m], false for padding.
            counts: int64 [B], the number of clusters of each set, at most that of its tokens.
            most: the largest possible number of clusters of a set.
            neighbors: the number of nearest tokens that define a density.
            most_neighbors: [B], an upper bound of `neighbors` for each set.
            by_score: bool [B], the sets whose centers are sorted by descending score; the others
                are sorted by index. None sorts all by index.
        """
        size, width = values.shape[1], longest(counts, most)
        scores = density_peak_scores(values, min(neighbors, size), valid, most_neighbors)
        ranked = scores.sort(dim=-1, descending=True, stable=True).indices[:, :width]
        is_center = torch.arange(width, device=values.device) < counts[:, None]
        # Padding comes last in both orders.
        centers = ranked.masked_fill(~is_center, size).sort(dim=-1).values.clamp_max(size - 1)
        if by_score is not None:
            centers = torch.where(by_score[:, None], ranked, centers)
        owner = nearest_centers(values, centers, is_center)
        return cls(centers, is_center, owner.masked_fill(~(valid & is_center[:, :1]), width))

    def members(self, dtype: torch.dtype) -> Tensor:
        """Return [B, P, m]: entry [b, k, j] is 1 if token j belongs to cluster k, else 0.

        With it, sums over clusters are matrix products, which are bitwise reproducible.
        """
        ranks = torch.arange(self.centers.shape[1], device=self.owner.device)
        return (self.owner[:, None, :] == ranks[:, None]).to(dtype)

    def numbers(self) -> Tensor:
        """Return the cluster of each token, counted over all sets: int64 [B, m]; -1 for none."""
        first = self.valid.sum(1).cumsum(0) - self.valid.sum(1)
        return torch.where(self.owner < self.valid.shape[1], first[:, None] + self.owner, -1)


def nearest_centers(features: Tensor, centers: Tensor, valid: Tensor | None = None) -> Tensor:
    """Return the nearest center of each token, int64 [B, m], as an index into `centers`.

    A center is its own nearest center. Ties go to the lower index into `centers`.

    Args:
        features: [B, m, D].
        centers: [B, K], the token indices of the centers.
        valid: bool [B, K], false for padding; None without padding.
    """
    values = features.to(working_dtype(features))
    distances = _distances(values, centers)
    own = torch.arange(centers.shape[1], device=centers.device).expand_as(centers)
    # Without this, a center with the features of an earlier center would belong to that center.
    if valid is None:
        return distances.argmin(-1).scatter(1, centers, own)
    held = unless_full(valid)
    nearest = (distances if held is None else distances.masked_fill(~held[:, None], torch.inf)).argmin(-1)
    # Padding is written to one more column, which is cut off.
    target = torch.where(valid, centers, values.shape[1])
    return torch.cat([nearest, nearest[:, :1]], 1).scatter_(1, target, own)[:, :-1]


def _distances(values: Tensor, centers: Tensor) -> Tensor:
    """Return distances [B, m, K] of `values` to their `centers`, or numbers in the same order."""
    rows = torch.arange(len(values), device=values.device)[:, None]
    # A matrix product in the dtype of the values would lose small distances, which decide here.
    if not is_queued(values.device):
        return torch.cdist(values, values[rows, centers], compute_mode="donot_use_mm_for_euclid_dist")
    # In float64, a product is more exact than direct differences, and fast on a GPU even for
    # padded sets.
    exact = values.to(decision_dtype(values))
    squared = exact.square().sum(-1)
    return squared.gather(1, centers)[:, None] - 2 * (exact @ exact[rows, centers].mT)
