"""VQToken (arXiv 2503.16980) without the trained part: a codebook of the video's patches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from aot.compression.methods.subset import check_budget, keep_all, kept_tokens, pooled_cells
from aot.compression.ops.grid import tokens_of_patches
from aot.compression.ops.kmeans import Clustering, cluster_means, cosine_kmeans
from aot.compression.ops.read_later import Fact, FactsReadLater
from aot.compression.ops.similarity import working_dtype
from aot.compression.ops.source_weights import of_patches
from aot.config.setting import CheckedSettings, Conflicts, setting
from aot.plugins import Card
from aot.types import CompressedTokens, Needs, VisualTokens

__all__ = ["VQToken"]

_PUBLISHED_ITERATIONS = {"fixed": 50, "adaptive": 100}


@dataclass(frozen=True)
class VQToken(CheckedSettings):
    """Replace the patches of the whole video by the means of their clusters.

    All F * N patches before pooling are clustered by cosine k-means. A token is the mean of a
    cluster's patches, at the pooled cell of the cluster's first patch. Tokens are sorted by first
    patch. The mass of a token is its number of patches times n / N, with n tokens and N patches per
    frame. Its source weights count its patches in each pooled cell.

    The trained attention of the paper is not included. Without it, the token hash, which maps
    patches to tokens, has no use and is not included either.

    With `length` "adaptive", all lengths from `least_tokens` to `most_tokens` (both limited by the
    budget) are tried. The length with the largest second difference of the distortion is used.

    With `paper_exact`, tokens are means of unit vectors, and source weights refer to these. An
    adaptive length is i + 4, at least `least_tokens`, if the second difference with index i (from
    0) is the largest: the published code ignores the start of the scan.
    """

    card: ClassVar = Card(
        "before pooling",
        "arXiv 2503.16980, NeurIPS 2025",
        remark="the means of clusters of the whole video's patches; with length adaptive fewer than the budget",
    )
    needs: ClassVar = Needs()

    length: Literal["fixed", "adaptive"] = setting(
        "fixed", "Keep exactly the budget, or take the elbow of the distortion."
    )
    least_tokens: int = setting(12, "With `length` adaptive: the least number of tokens that is tried.", least=1)
    most_tokens: int = setting(
        32, "With `length` adaptive: the greatest number that is tried; not below `least_tokens`."
    )
    iterations: int | None = setting(
        None,
        "Maximum number of k-means rounds; null is the published 50 for `length` fixed and 100 for adaptive.",
        least=1,
    )
    seed: int = setting(0, "Seed of the k-means++ draw.", least=0, most=2**31 - 1)
    paper_exact: bool = setting(
        False,
        "Tokens are means of unit vectors in the order of the codebook, and an adaptive length ignores the budget.",
    )

    def conflicts(self) -> Conflicts:
        """Yield a conflict if `most_tokens` is below `least_tokens`."""
        if self.most_tokens < self.least_tokens:
            yield "most_tokens", "must not be below least_tokens"

    def compress(self, tokens: VisualTokens, budget: int) -> CompressedTokens:
        """Keep exactly `budget` tokens; with `length` "adaptive", the length at the elbow.

        Raises:
            BudgetError: If `budget` is 0.
        """
        check_budget(tokens, budget)
        frames, per_frame = pooled_cells(tokens)
        if self.length == "fixed" and budget >= frames * per_frame:
            return keep_all(tokens)
        # 1. Cluster the patches.
        patches = tokens.features.flatten(0, 1)
        cluster = self._cluster if self.length == "fixed" else self._bend
        found = cluster(patches.detach(), budget)
        # 2. Sort the tokens by first patch.
        firsts = found.firsts()
        order = firsts.sort().indices
        # Published: means of unit vectors, in the order of the codebook.
        if self.paper_exact:
            order = torch.arange(found.clusters, device=firsts.device)
            patches = functional.normalize(patches.to(working_dtype(patches)), dim=-1)
        # 3. Average the patches of each cluster.
        codebook = cluster_means(patches, found.labels, found.clusters)
        per_patch = tokens.features.shape[1]
        return kept_tokens(
            tokens,
            codebook[order],
            tokens_of_patches(firsts[order], tokens.grid, tokens.pool),
            mass=found.sizes[order] * (per_frame / per_patch),
            facts=FactsReadLater(lambda: _facts(found)),
            sources=of_patches(tokens, found.labels, order) if tokens.traced else None,
        )

    def _cluster(self, patches: Tensor, clusters: int) -> Clustering:
        """Return the clustering of patches [F * N, D] into `clusters` clusters."""
        iterations = self.iterations or _PUBLISHED_ITERATIONS[self.length]
        return cosine_kmeans(patches, clusters, iterations=iterations, seed=self.seed)

    def _bend(self, patches: Tensor, budget: int) -> Clustering:
        """Return the clustering whose number of clusters is at the elbow of the distortion."""
        ceiling = len(patches) if self.paper_exact else min(budget, len(patches))
        lengths = range(min(self.least_tokens, ceiling), min(self.most_tokens, ceiling) + 1)
        # Cluster once for every length of the scan.
        found = {length: self._cluster(patches, length) for length in lengths}
        # The number of kept tokens depends on the content, so a GPU has to be waited for, once.
        bend = _greatest_bend(torch.stack([each.distortion for each in found.values()]).tolist())
        if not self.paper_exact:
            return found[lengths[bend]]
        # `bend` is an index of lengths; the published index of second differences is bend - 1.
        length = min(max(bend - 1 + 4, self.least_tokens), ceiling)
        return found.get(length) or self._cluster(patches, length)


def _facts(found: Clustering) -> dict[str, Fact]:
    return {"codebook": found.clusters, "iterations": int(found.iterations), "distortion": float(found.distortion)}


def _greatest_bend(curve: list[float]) -> int:
    """Return the index of the elbow of `curve`, where the second difference is largest.

    With fewer than three points, return the last index.
    """
    bends = [before - 2 * here + after for before, here, after in zip(curve, curve[1:], curve[2:], strict=False)]
    return 1 + bends.index(max(bends)) if bends else len(curve) - 1
