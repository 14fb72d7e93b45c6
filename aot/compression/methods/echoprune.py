"""EchoPrune (arXiv 2605.10050): keep tokens that the question asks for and no earlier frame has.

From the paper, not from code: the authors' program was not found.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from aot.compression.methods.subset import kept_tokens, whole_video
from aot.compression.ops.grid import pool, pooled_grid
from aot.compression.ops.read_later import Download, FactsReadLater
from aot.compression.ops.similarity import decision_dtype
from aot.compression.ops.uploads import uploaded
from aot.config.setting import CheckedSettings, setting
from aot.plugins import Card
from aot.types import CompressedTokens, Needs, VisualTokens

__all__ = ["EchoPrune", "echoes", "relevance"]

_LENGTH_FLOOR = 1e-6  # shorter vectors are divided by this instead of by their length


@dataclass(frozen=True)
class EchoPrune(CheckedSettings):
    """Keep tokens by relevance - correspondence - echo, unchanged and in raster order.

    The relevance of a token is its highest cosine similarity to a token of the question, as the
    language model embeds it. Its correspondence is its similarity to the same cell of the previous
    frame, and its echo the similarity to what it would be if it were made of the previous frame:
    the mean of that frame's tokens, weighted by a softmax of similarity / `temperature`.

    The first frame keeps its most relevant tokens, as many as if all frames kept equally many. The
    tokens of all other frames compete for the rest of the budget; a frame may keep none. The budget
    is exact. With several questions, the tokens serve all of them. In a video of several chunks,
    the first frame of a chunk has no previous frame.

    The terms are not weighted, as published. Their shares of the variance are in the report: a term
    with a small share decides little. At this temperature, the echo is close to the similarity to
    the mean of the previous frame, so that a small budget goes to changes of the scene.
    """

    card: ClassVar = Card(
        "after pooling",
        "arXiv 2605.10050 (from the paper, not from code)",
        remark="the tokens that the question asks for and that the previous frame does not have",
    )
    needs: ClassVar = Needs(question=True)

    temperature: float = setting(0.5, "How evenly an echo mixes the tokens of the previous frame.", least=0.01)
    match: Literal["full", "local"] = setting(
        "full", "Whether an echo mixes all tokens of the previous frame, or those at most one row and column away."
    )

    def compress(self, tokens: VisualTokens, budget: int) -> CompressedTokens:
        """Keep exactly `budget` tokens.

        Raises:
            BudgetError: If `budget` is 0.
        """
        if tokens.question is None:
            raise ValueError("question: expected the embeddings of its tokens [M, D], got None")
        if (whole := whole_video(tokens, budget)) is not None:
            return whole
        pooled = pool(tokens.features, tokens.grid, tokens.pool)
        frames, per_frame = pooled.shape[:2]
        # 1. The three terms, in float64, because equal tokens must score the same on all devices.
        unit = _scaled(pooled.to(decision_dtype(pooled)))
        relevant = relevance(unit, _scaled(tokens.question.to(unit)))
        grid = pooled_grid(tokens.grid, tokens.pool)
        corresponding, echo = echoes(unit, self.temperature, grid if self.match == "local" else None)
        scores = relevant[1:] - corresponding - echo
        # 2. The most relevant tokens of the first frame; if the others are too few, more of them.
        of_first = min(per_frame, budget, max(1, budget // frames))
        of_first = max(of_first, budget - scores.numel())
        # 3. The highest scores of all other frames.
        first = _highest(relevant[0], of_first)
        others = _highest(scores.flatten(), budget - of_first) + per_frame
        index = torch.cat([first, others]).sort().values
        terms = {"relevance": relevant[1:], "correspondence": corresponding, "echo": echo}
        return kept_tokens(tokens, pooled.flatten(0, 1)[index], index, facts=_variance_shares(terms))


def relevance(unit: Tensor, question: Tensor) -> Tensor:
    """Return each token's highest similarity to a token of the question: [F, n].

    `unit` [F, n, D] and `question` [M, D] are scaled to length 1.
    """
    return (unit @ question.mT).amax(-1)


def echoes(unit: Tensor, temperature: float, grid: tuple[int, int] | None = None) -> tuple[Tensor, Tensor]:
    """Return the correspondence and the echo of the tokens of frames 1, 2, ...: both [F - 1, n].

    Args:
        unit: [F, n, D], scaled to length 1.
        temperature: the divisor of similarities in the softmax.
        grid: (rows, columns) if echoes are mixed of cells at most one row and column away.
    """
    similarity = unit[1:] @ unit[:-1].mT
    weighted = similarity / temperature
    if grid is not None:
        weighted = weighted.masked_fill(uploaded(_far_cells(grid), unit.device), -torch.inf)
    # The similarity to a mean of unit vectors that is not scaled again is the mean similarity.
    echo = (weighted.softmax(-1) * similarity).sum(-1)
    return similarity.diagonal(dim1=1, dim2=2), echo


def _far_cells(grid: tuple[int, int]) -> Tensor:
    """Return which cells are more than one row or column apart: bool [n, n]."""
    cells = torch.cartesian_prod(*(torch.arange(size) for size in grid))
    return (cells[:, None] - cells).abs().amax(-1) > 1


def _scaled(values: Tensor) -> Tensor:
    return functional.normalize(values, dim=-1, eps=_LENGTH_FLOOR)


def _highest(scores: Tensor, count: int) -> Tensor:
    """Return the indices of the `count` highest scores [m], compared in float32.

    Ties go to the lower index.
    """
    return scores.float().sort(descending=True, stable=True).indices[:count]


def _variance_shares(terms: Mapping[str, Tensor]) -> FactsReadLater:
    """Return the share of each term in the sum of their variances, as facts."""
    variances = torch.stack([term.var(correction=0) if term.numel() else term.sum() for term in terms.values()])
    copy = Download(variances / variances.sum().clamp_min(torch.finfo(variances.dtype).tiny))
    names = (f"{name}_variance_share" for name in terms)
    return FactsReadLater(
        lambda: {name: round(share, 4) for name, share in zip(names, copy.read().tolist(), strict=True)}
    )
