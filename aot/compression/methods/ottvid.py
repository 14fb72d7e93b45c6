"""OTT-Vid (arXiv 2605.11803): choose tokens in each frame, and merge them along optimal transport.

Like AOT it transports the tokens of one frame to those of another. Here the mass of a token says
how little it may be moved, pairs of frames share the merges by the cost of their transport, and a
token that can only be moved at a high cost is dropped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from aot.compression.aot.sinkhorn import sinkhorn
from aot.compression.methods.subset import kept_tokens, pooled_cells, pooled_saliency, whole_video
from aot.compression.ops.grid import patch_distances, pool, pooled_grid
from aot.compression.ops.group_means import group_means, group_sizes
from aot.compression.ops.kernels import runs_triton
from aot.compression.ops.padding import is_queued, true_indices
from aot.compression.ops.products import take_rows
from aot.compression.ops.read_later import counted_later
from aot.compression.ops.similarity import decision_dtype, working_dtype
from aot.compression.ops.source_weights import merged, unchanged
from aot.compression.ops.uploads import uploaded
from aot.config.setting import CheckedSettings, setting
from aot.plugins import Card
from aot.types import CompressedTokens, Needs, SourceWeights, TokenBudget, VisualTokens

__all__ = ["OTTVid", "matches", "merge_budgets", "representatives", "token_mass"]

_TINY = 1e-8  # added to denominators, as published
_CACHED_BYTES = 4 << 20  # similarities that the CPU goes through at a time


class _Counts(NamedTuple):
    """Counts that are known before any feature is read."""

    picked: int  # K, from each frame
    most_merges: int  # of a pair of frames
    total: int  # of tokens that remain


@dataclass(frozen=True)
class OTTVid(CheckedSettings):
    """Choose the same number of tokens in every frame, then merge tokens of adjacent frames.

    1. Each frame picks tokens that represent all its tokens, the attended ones above all (greedy
       facility location).
    2. The mass of a picked token is low if it represents much attention that no other picked
       token represents.
    3. Between adjacent frames, entropic transport moves mass where tokens are similar and near each
       other. Features count more where the pictures differ.
    4. Pairs of frames share the merges: cheap transports take more of them.
    5. The tokens that receive the most from a single token merge into it, or are dropped if that
       costs more than `drop_cost`. A token of the result is the mean of all that merged into it, in
       the cell of the first of them. What would merge into a dropped token is dropped too.

    Exactly one token disappears per merge, so the budget is exact: the merges are the picked tokens
    minus the budget. A frame loses all its tokens only if the budget needs it; if even that is not
    enough, frames pick fewer tokens. With `paper_exact`, the total is rounded as in the authors'
    program for LLaVA, whose `mass` is kept.

    The transport is not converged after 200 iterations at this epsilon, and the published result
    depends on their number, so there is no other stopping rule.
    """

    card: ClassVar = Card(
        "after pooling",
        "arXiv 2605.11803",
        remark="tokens that represent each frame, merged between adjacent frames by optimal transport",
    )

    temporal_share: float = setting(
        0.3, "Share of the reduction, as an exponent of the ratio, that is left to merging frames.", least=0, most=1
    )
    mass_temperature: float = setting(0.3, "How evenly tokens of a frame share its mass.", least=0.01)
    budget_temperature: float = setting(0.3, "How evenly pairs of frames share the merges.", least=0.01)
    drop_cost: float = setting(
        0.3, "Transport cost above which a token is dropped instead of merged; 1 drops none.", least=0, most=1
    )
    epsilon: float = setting(0.01, "Weight of the entropy in the transport.", least=0.005)
    iterations: int = setting(200, "Number of iterations of the transport, which always runs all of them.", least=1)
    mass: Literal["full", "kept"] = setting(
        "full", "Whether mass reads the attention of all tokens, or only of picked ones and their mean for the others."
    )
    layer: int = setting(-1, "Block of the vision tower whose attention is read; negative numbers count from the last.")
    paper_exact: bool = setting(False, "Round the total as published for LLaVA, so that it is only near the budget.")

    @property
    def needs(self) -> Needs:
        """Return the need for the attention received in vision tower block `layer`."""
        return Needs(saliency_layers=(self.layer,))

    def compress(self, tokens: VisualTokens, budget: int) -> CompressedTokens:
        """Keep exactly `budget` tokens; with `paper_exact`, as many as published.

        Raises:
            BudgetError: If `budget` is 0.
        """
        if (whole := whole_video(tokens, budget)) is not None:
            return whole
        frames, per_frame = pooled_cells(tokens)
        counts = self._counts(frames, per_frame, budget)
        pooled = pool(tokens.features, tokens.grid, tokens.pool)
        # In float64: picks and matches can depend on differences of 1e-7.
        unit = functional.normalize(pooled.detach().to(decision_dtype(pooled)), dim=-1)
        attention = pooled_saliency(tokens, self.layer).to(unit.dtype)
        # 1. Pick tokens in each frame.
        similarity = unit @ unit.mT
        picked = representatives(similarity, _shares(attention), counts.picked)
        index = picked + per_frame * torch.arange(frames, device=picked.device)[:, None]
        # 2. Transport between adjacent frames, and merge along the largest entries, or drop.
        of_mass = attention if self.mass == "full" else _of_picked(attention, picked)
        mass = token_mass(similarity, picked, _shares(of_mass), self.mass_temperature)
        cost = self._cost(unit, picked, pooled_grid(tokens.grid, tokens.pool))
        is_matched, is_dropped, source = self._matched(cost, mass, counts)
        # 3. The mean of what merged into each token that remains; the last group is dropped.
        root = _roots(is_matched, is_dropped, source, counts.picked)
        own = torch.arange(len(root), device=root.device)
        remaining = true_indices((root == own)[:-1], counts.total)
        slot = torch.full_like(root, counts.total).index_copy_(0, remaining, own[: counts.total])
        group, index = slot[root[:-1]], index.flatten()
        values = pooled.flatten(0, 1)[index].to(working_dtype(pooled))
        known = {"picked_per_frame": counts.picked, "merges": len(index) - counts.total}
        return kept_tokens(
            tokens,
            group_means(values, group, counts.total + 1)[: counts.total],
            index[remaining],
            mass=group_sizes(group, counts.total + 1)[: counts.total],
            facts=counted_later({"dropped_matches": is_dropped.sum()}, known),
            sources=_sources(index, group, counts.total) if tokens.traced else None,
        )

    def _counts(self, frames: int, per_frame: int, budget: int) -> _Counts:
        """Return how many tokens each frame picks, and how many remain."""
        ratio = TokenBudget.ratio_of(budget, frames * per_frame)
        share = ratio ** (1 - self.temporal_share)
        picked, total = max(1, round(per_frame * share)), budget
        if self.paper_exact:
            total, most = max(1, round(frames * picked * ratio / share)), picked - 1
        else:
            picked = min(max(picked, math.ceil(budget / frames)), budget)
            # If it must be, a frame loses all its tokens.
            most = picked - int(frames * picked - budget <= (frames - 1) * (picked - 1))
        # The first frame keeps all that it picked.
        return _Counts(picked, most, max(total, frames * picked - (frames - 1) * most))

    def _cost(self, unit: Tensor, picked: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return the cost between picked tokens of adjacent frames, in [0, 1]: [F - 1, K, K].

        cost = alpha (1 - max(0, cos)) + (1 - alpha) distance / sqrt(2), with alpha in [0.5, 1] the
        larger, the less all tokens of one frame resemble those in the same cells of the other.
        """
        change = (1 - (unit[1:] * unit[:-1]).sum(-1).mean(1)).clamp(0, 1)
        alpha = (0.5 + 0.5 * change)[:, None, None]
        kept = take_rows(unit, picked)
        likeness = (kept[:-1] @ kept[1:].mT).clamp_min_(0)
        distances = uploaded(patch_distances(grid).to(unit.dtype), unit.device)
        far = distances[picked[:-1, :, None], picked[1:, None]] / math.sqrt(2)
        return alpha * (1 - likeness) + (1 - alpha) * far

    def _matched(self, cost: Tensor, mass: Tensor, counts: _Counts) -> tuple[Tensor, Tensor, Tensor]:
        """Return which tokens of frames 1, 2, ... merge, which of these are dropped, and into what.

        Args:
            cost: [F - 1, K, K].
            mass: [F, K].
            counts: the counts.

        Returns:
            bool [F - 1, K], bool [F - 1, K], and int64 [F - 1, K], a token of the frame before.
        """
        plan = self._plan(cost, mass)
        merges = mass.numel() - counts.total
        budgets = merge_budgets((plan * cost).sum((1, 2)), merges, counts.most_merges, self.budget_temperature)
        is_matched, source = matches(plan, budgets)
        is_dear = cost.gather(1, source[:, None])[:, 0] > self.drop_cost
        return is_matched, is_matched & is_dear, source

    def _plan(self, cost: Tensor, mass: Tensor) -> Tensor:
        """Return the transport plans [F - 1, K, K] between the masses [F, K] of adjacent frames."""
        # Published: columns first, then rows. `sinkhorn` updates rows first, so it gets the
        # transposed problem. A tolerance of 0 ends no problem early.
        solved = sinkhorn(
            cost.mT, mass[1:], mass[:-1], epsilon=self.epsilon, max_iterations=self.iterations, tolerance=0.0
        )
        return solved.plan.mT


def _shares(attention: Tensor) -> Tensor:
    """Return `attention` [F, n] scaled to the sum 1 in each frame."""
    return attention / (attention.sum(1, keepdim=True) + _TINY)


def _of_picked(attention: Tensor, picked: Tensor) -> Tensor:
    """Return the attention [F, n] of `picked` [F, K], and for all other tokens its mean."""
    own = attention.gather(1, picked)
    return own.mean(1, keepdim=True).expand_as(attention).scatter(1, picked, own)


def representatives(similarity: Tensor, weight: Tensor, steps: int) -> Tensor:
    """Return `steps` items of each set that represent all items best: int64 [B, steps], ascending.

    Each step picks the item j with the greatest gain sum_i weight_i max(0, s_ij - best_i), where
    best_i is the similarity of item i to the most similar picked item, or 0. Gains are compared in
    multiples of 1e-12; ties go to the lower index.

    Args:
        similarity: s, [B, m, m], symmetric.
        weight: [B, m].
        steps: the number of items to pick.
    """
    if runs_triton(similarity.device):
        from aot.compression.methods.ottvid_kernel import pick_queued

        return pick_queued(similarity, weight, steps).sort().values
    at_once = max(1, _CACHED_BYTES // similarity[0].nbytes) if similarity.device.type == "cpu" else len(similarity)
    parts = zip(torch.split(similarity, at_once), torch.split(weight, at_once), strict=True)
    return torch.cat([_picked(*part, steps) for part in parts]).sort().values


def _picked(similarity: Tensor, weight: Tensor, steps: int) -> Tensor:
    """Return the picks of `representatives` in their order."""
    best, better = torch.zeros_like(weight), torch.empty_like(similarity)
    taken, picks = torch.zeros_like(weight, dtype=torch.bool), []
    for _ in range(steps):
        torch.sub(similarity, best[:, None], out=better).clamp_min_(0)
        gains = (better @ weight[..., None])[..., 0].mul_(1e12).add_(0.5).floor_()
        picks.append(gains.masked_fill_(taken, -1).argmax(1, keepdim=True))
        taken.scatter_(1, picks[-1], True)
        best = torch.maximum(best, take_rows(similarity, picks[-1])[:, 0])
    return torch.cat(picks, 1)


def token_mass(similarity: Tensor, picked: Tensor, weight: Tensor, temperature: float) -> Tensor:
    """Return the mass of each picked token, with sum 1 in each frame: [F, K].

    A token of the frame supports the picked token that it is most similar to, by its `weight` times
    how much more similar it is to this one than to the next. The less support, the more mass.

    Args:
        similarity: [F, n, n].
        picked: int64 [F, K].
        weight: [F, n].
        temperature: how evenly the mass is shared.
    """
    to_picked = similarity.gather(2, picked[:, None].expand(-1, similarity.shape[1], -1))
    best, nearest = to_picked.max(-1, keepdim=True)
    # With a single picked token, the next similarity is 0.
    others = to_picked.scatter(-1, nearest, -torch.inf).amax(-1) if picked.shape[1] > 1 else torch.zeros_like(weight)
    lead = weight * (best[..., 0] - others).clamp_min(0)
    support = torch.zeros_like(to_picked).scatter_(-1, nearest, lead[..., None]).sum(1)
    return (support / (support.amax(1, keepdim=True) + _TINY) / -temperature).softmax(1)


def merge_budgets(cost: Tensor, merges: int, most: int, temperature: float) -> Tensor:
    """Return how many of all `merges` each pair of frames takes, at most `most`: int64 [P].

    Shares are in proportion to exp(-cost / temperature) and rounded by largest remainder. What
    exceeds `most` is shared again by the other pairs. `cost` [P] is that of a pair's transport.
    """
    weight = (cost / -temperature).softmax(0)
    budgets = torch.zeros_like(weight)
    left = budgets.sum() + merges
    # Each round but the last fills a pair, and no more pairs than these can be full.
    for _ in range(min(len(cost), merges // max(most, 1) + 1)):
        is_full = budgets >= most
        shares = weight.masked_fill(is_full, 0)
        ideal = shares * (left / shares.sum().clamp_min(torch.finfo(shares.dtype).tiny))
        given = ideal.floor()
        rank = (ideal - given).masked_fill_(is_full, -1).sort(descending=True, stable=True).indices.argsort()
        wanted = budgets + given + (rank < left - given.sum())
        budgets = wanted.clamp_max(most)
        left = (wanted - budgets).sum()
        if not is_queued(cost.device) and not left:
            break
    return budgets.long()


def matches(plan: Tensor, budgets: Tensor) -> tuple[Tensor, Tensor]:
    """Return which tokens of the later frames are matched, and with which of the frame before.

    The entries of a plan are taken from the largest, each if its column (the token of the later
    frame) was not taken yet. Entries are compared in float32; ties go to the lower index.

    Args:
        plan: [P, K, K].
        budgets: int64 [P], the number of matches of each plan.

    Returns:
        bool [P, K], and int64 [P, K].
    """
    # Of a column, only its largest entry can be taken.
    value, source = plan.float().max(1)
    column = torch.arange(plan.shape[2], device=plan.device)
    by_entry = (source * plan.shape[2] + column).argsort(1)
    order = by_entry.gather(1, value.gather(1, by_entry).sort(descending=True, stable=True).indices)
    rank = torch.empty_like(order).scatter_(1, order, column.expand_as(order))
    return rank < budgets[:, None], source


def _roots(is_matched: Tensor, is_dropped: Tensor, source: Tensor, picked: int) -> Tensor:
    """Return the token into which each of F * K tokens merges in the end: int64 [F * K + 1].

    A token that remains is its own root; the root of a dropped token is F * K, as its own is.
    """
    pairs = len(source)
    own = torch.arange((pairs + 1) * picked + 1, device=source.device)
    earlier = source + picked * torch.arange(pairs, device=source.device)[:, None]
    later = torch.where(is_dropped, own[-1], torch.where(is_matched, earlier, own[picked:-1].view_as(source)))
    root = torch.cat([own[:picked], later.flatten(), own[-1:]])
    for _ in range(pairs.bit_length()):  # each time, twice as many steps
        root = root[root]
    return root


def _sources(index: Tensor, group: Tensor, total: int) -> SourceWeights:
    return merged(unchanged(index), group.masked_fill(group == total, -1))
