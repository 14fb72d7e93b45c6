"""Choose the visual tokens of a training step, so that the model learns to answer from few."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

__all__ = ["Choice", "choose_tokens", "keep_tokens"]


@dataclass(frozen=True, slots=True)
class Choice:
    """Hold the tokens to keep.

    Attributes:
        kept: [B, K], token indices in reading order.
        merge: share in [0, 1] by which merging changes a kept token: the result is
            (1 - merge) * token + merge * (mean of the tokens that are most similar to this token).
    """

    kept: Tensor
    merge: float


def choose_tokens(covered: Tensor, rng: np.random.Generator, full_share: float) -> Choice:
    """Return a random choice of tokens: all tokens, or few tokens that mostly show things.

    The model learns that background may be missing, and that it must not guess invisible things.

    Args:
        covered: bool [B, N], whether each token shows a thing.
        rng: the random generator.
        full_share: the probability of keeping all tokens.
    """
    batch, tokens = covered.shape
    kind = rng.random()
    if kind < full_share:
        return Choice(torch.arange(tokens).expand(batch, -1), 0.0)
    # 1. Number of kept tokens: log-uniform, at least 40 tokens, at most 70 % of all tokens.
    kept = int(np.exp(rng.uniform(np.log(40), np.log(0.7 * tokens))))
    noise = torch.from_numpy(rng.random((batch, tokens)))
    random_share, merge_share = 0.12, 0.3
    # 2. Kept tokens: random, or tokens of things first; some of these may count as background.
    if rng.random() < random_share:
        score = noise
    else:
        demoted = torch.from_numpy(rng.random((batch, tokens)) < (0.15 if rng.random() < 0.4 else 0.0))
        score = noise + (covered & ~demoted)
    merge = float(rng.uniform(0.2, 1.0)) if rng.random() < merge_share else 0.0
    return Choice(score.topk(kept, 1).indices.sort(1).values, merge)


def keep_tokens(features: Tensor, choice: Choice) -> Tensor:
    """Return the tokens of `features` [B, N, D] that `choice` keeps, after merging: [B, K, D]."""
    width = features.shape[-1]
    kept = features.gather(1, choice.kept[..., None].expand(-1, -1, width))
    if not choice.merge:
        return kept
    # Gradients flow through the means, but not through the assignment of tokens to kept tokens.
    with torch.no_grad():
        nearest = (F.normalize(features, dim=-1) @ F.normalize(kept, dim=-1).mT).argmax(-1)
    sums = torch.zeros_like(kept).scatter_add(1, nearest[..., None].expand(-1, -1, width), features)
    counts = torch.zeros(kept.shape[:2]).scatter_add(1, nearest, torch.ones(nearest.shape))
    means = sums / counts.clamp_min(1)[..., None]
    return torch.where(counts[..., None] > 0, (1 - choice.merge) * kept + choice.merge * means, kept)
