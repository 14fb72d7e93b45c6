"""KiToke (arXiv 2604.03414): sample tokens by their diversity, and merge the others into them.

From the paper, not from code: the authors' program was not published. The published constants were
made for the features of one model, so by default they follow from the features themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from aot.compression.methods.subset import kept_tokens, pooled_cells, whole_video
from aot.compression.ops.clips import CutClips
from aot.compression.ops.grid import pool
from aot.compression.ops.group_means import group_sizes, group_sums
from aot.compression.ops.kmeans import row_chunks
from aot.compression.ops.padding import longest, placed, true_indices, true_rows
from aot.compression.ops.read_later import counted_later
from aot.compression.ops.similarity import decision_dtype, working_dtype
from aot.compression.ops.source_weights import merged, unchanged
from aot.compression.ops.uploads import uploaded
from aot.config.setting import CheckedSettings, setting
from aot.plugins import Card
from aot.types import CompressedTokens, Needs, TokenBudget, VisualTokens

__all__ = ["KiToke", "cut_strengths", "densities", "draws", "inclusion_probabilities", "one_in_each", "pivotal_sample"]

_CERTAIN = 1e-10  # a probability this close to 1 is 1
_SNAP = 1e-7  # in sampling, a probability this close to 0 or 1 is decided
_LEAST_CHANGE = 1e-6  # the least change between frames to which others are compared, as published
_ROUNDING = 64  # largest computed |a - b|^2 of equal rows, in units of eps * (|a|^2 + |b|^2)
_PUBLISHED = 800.0, 110.0, 70.0  # bandwidth, cut_distance and cut_rise for Qwen3-VL


@dataclass(frozen=True)
class KiToke(CheckedSettings):
    """Sample tokens that are unlike the rest of the video; each absorbs the tokens most like it.

    The density of a token is the sum of exp(-|x - y|^2 / bandwidth) over all tokens y of the video,
    and its diversity is 1 / density. Tokens are drawn with probabilities in proportion to their
    diversity, in pairs of neighbors of which one is kept (pivotal sampling), so that the sample
    spreads over the video. The video is cut into intervals where the picture changes. A token that
    was not drawn is merged into the most similar drawn token of its interval; the mean is weighted
    by diversity. Merged tokens have the cells of the drawn tokens, in raster order.

    The draws have a generator of their own, seeded with `seed`: every device draws the same.

    The budget is exact, because the probabilities sum to it. With `paper_exact`, ratio * tokens is
    rounded down. The published bandwidth and distances of cuts keep their proportions and are
    scaled by `scale` to the features, unless they are set.

    What the paper leaves open: probabilities above 1 are cut off, and the rest is shared again.
    Tokens are paired in raster order. An interval without a drawn token gets its most diverse one,
    and the first interval that has several gives up its least diverse one. If there are more
    intervals than tokens, the weakest cuts are left out. In a video of several chunks, densities
    are those of a chunk.
    """

    card: ClassVar = Card(
        "after pooling",
        "arXiv 2604.03414 (from the paper, not from code)",
        remark="tokens drawn by how unlike the video they are, merged with the most similar of their interval",
    )
    needs: ClassVar = Needs()

    scale: float = setting(
        1.3,
        "Change between frames that cuts intervals, in units of the root mean square distance of two tokens; "
        "bandwidth and cut_rise follow from it.",
        above=0,
    )
    bandwidth: float | None = setting(
        None, "Squared distance in the exponent of densities, in the units of features; by default from scale.", above=0
    )
    cut_distance: float | None = setting(
        None, "Change between frames that cuts intervals, in the units of features; by default from scale.", above=0
    )
    cut_rise: float | None = setting(
        None,
        "Least rise of the change above that of an adjacent frame for a cut, in the units of features; "
        "by default from scale.",
        above=0,
    )
    relative_rise: float = setting(
        0.4, "Least rise of the change for a cut, relative to the change at an adjacent frame.", above=0
    )
    sampling: Literal["pivotal", "top"] = setting(
        "pivotal", "Whether tokens are drawn (pivotal), or the most diverse ones are taken (top)."
    )
    seed: int = setting(0, "Seed of the draws.", least=0, most=2**31 - 1)
    paper_exact: bool = setting(False, "Round the budget down, as published.")

    def compress(self, tokens: VisualTokens, budget: int) -> CompressedTokens:
        """Keep exactly `budget` tokens.

        Raises:
            BudgetError: If `budget` is 0.
        """
        frames, per_frame = pooled_cells(tokens)
        total = frames * per_frame
        if self.paper_exact:
            budget = max(int(TokenBudget.ratio_of(budget, total) * total), min(budget, 1))
        if (whole := whole_video(tokens, budget)) is not None:
            return whole
        pooled = pool(tokens.features, tokens.grid, tokens.pool)
        values = pooled.to(working_dtype(pooled))
        centered = values - values.mean((0, 1))  # distances stay, and lose less to rounding
        bandwidth, distance, rise = self._scales(centered)
        # 1. The diversity of each token in the whole video.
        weight = 1 / densities(centered.flatten(0, 1), bandwidth).to(decision_dtype(values))
        # 2. Cut the video where the picture changes, into at most `budget` intervals.
        strength = cut_strengths(centered, distance, rise, self.relative_rise)
        rank = strength.sort(descending=True, stable=True).indices.argsort()
        cuts = (strength > 1) & (rank < budget - 1)
        clips = CutClips(torch.cat([cuts.new_ones(1), cuts]))
        interval = clips.number.repeat_interleave(per_frame)
        # 3. Draw tokens; every interval gets one.
        kept = one_in_each(self._drawn(weight, budget), weight, interval, clips)
        # 4. Each token joins the most similar kept token of its interval.
        label = _nearest_kept(values, kept, interval, clips)
        sums = group_sums(values.flatten(0, 1) * weight[:, None].to(values.dtype), label, budget)
        return kept_tokens(
            tokens,
            sums / group_sums(weight[:, None].to(values.dtype), label, budget),
            kept,
            mass=group_sizes(label, budget),
            clips=clips,
            facts=counted_later({"intervals": clips.total}),
            sources=merged(unchanged(torch.arange(total)), label, weight) if tokens.traced else None,
        )

    def _scales(self, centered: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the bandwidth, the distance of cuts and their rise, each a tensor []."""
        # The mean squared distance of two tokens is twice the variance.
        spread = 2 * centered.square().sum(-1).mean()
        bandwidth, distance, rise = _PUBLISHED
        least = torch.finfo(centered.dtype).tiny
        found = {
            "bandwidth": spread * (self.scale**2 * bandwidth / distance**2),
            "cut_distance": spread.sqrt() * self.scale,
            "cut_rise": spread.sqrt() * (self.scale * rise / distance),
        }
        given = {name: getattr(self, name) for name in found}
        bandwidth_, distance_, rise_ = (
            value.clamp_min(least) if given[name] is None else torch.full_like(value, given[name])
            for name, value in found.items()
        )
        return bandwidth_, distance_, rise_

    def _drawn(self, weight: Tensor, budget: int) -> Tensor:
        """Return `budget` indices, ascending: drawn ones, or the most diverse ones."""
        if self.sampling == "top":
            return weight.sort(descending=True, stable=True).indices[:budget].sort().values
        random = draws(self.seed, len(weight), weight.dtype, weight.device)
        return pivotal_sample(inclusion_probabilities(weight, budget), random, budget)


def draws(seed: int, count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return `count` uniform numbers in [0, 1), drawn on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    return uploaded(torch.rand(count, generator=generator, dtype=torch.float64).to(dtype), device)


def densities(values: Tensor, bandwidth: Tensor) -> Tensor:
    """Return sum_j exp(-|x_i - x_j|^2 / bandwidth), including j = i: [m] of values [m, D]."""
    squared = values.square().sum(-1)
    found = torch.zeros_like(squared)
    for rows in row_chunks(len(values), len(values), values.element_size(), values.device):
        # Each pair is computed once: a part of the rows with these and all later rows.
        part = torch.addmm(squared[rows.start :], values[rows], values[rows.start :].mT, alpha=-2)
        part = part.add_(squared[rows, None]).clamp_min_(0).div_(-bandwidth).exp_()
        found[rows] += part.sum(1)
        found[rows.stop :] += part[:, len(part) :].sum(0)
    return found


def cut_strengths(values: Tensor, distance: Tensor, rise: Tensor, relative_rise: float) -> Tensor:
    """Return the strength [F - 1] of a cut before frame 1, 2, ...; above 1, there is a cut.

    The change at a frame is the mean distance of its tokens to those in the same cells of the
    previous frame, plus the mean distance of the previous frame's tokens to their nearest tokens.
    The picture is cut if the change is above `distance`, or if it is a peak: more than `rise` above
    the change at an adjacent frame, and more than `relative_rise` times that change above it.

    Args:
        values: [F, n, D].
        distance: [].
        rise: [].
        relative_rise: see above.
    """
    before, after = values[:-1], values[1:]
    lengths = values.square().sum(-1)
    both = lengths[:-1, :, None] + lengths[1:, None]
    squared = both - 2 * (before @ after.mT)
    # Rounding may leave a small distance between equal tokens.
    squared = squared.masked_fill(squared < _ROUNDING * torch.finfo(values.dtype).eps * both, 0)
    change = (after - before).norm(dim=-1).mean(1) + squared.amin(2).sqrt().mean(1)
    strength: Tensor = change / distance
    if len(change) < 3:
        return strength
    # The first and the last change have one neighbor alone, and are no peaks.
    around = torch.stack([change[:-2], change[2:]])
    above = change[1:-1] - around
    relative = (above / around.clamp_min(_LEAST_CHANGE)).amax(0) / relative_rise
    peak = torch.minimum(above.amax(0) / rise, relative)
    strength[1:-1] = torch.maximum(strength[1:-1], peak)
    return strength


def inclusion_probabilities(weight: Tensor, budget: int) -> Tensor:
    """Return probabilities [m] in proportion to `weight` [m], at most 1, with the sum `budget`.

    `budget` is below m. If a probability would be above 1, it is 1, and the others share the rest.
    """
    ordered, index = weight.sort(descending=True, stable=True)
    place = torch.arange(len(weight), device=weight.device)
    # If the m greatest weights have probability 1, those from m on share `left[m]` by `rest[m]`.
    left, rest = budget - place, ordered.flip(0).cumsum(0).flip(0)
    certain = (left * ordered >= (1 - _CERTAIN) * rest).long().cumprod(0).sum(0, keepdim=True)
    shared = left.gather(0, certain) * ordered / rest.gather(0, certain)
    return torch.empty_like(weight).scatter_(0, index, torch.where(place < certain, 1.0, shared))


def pivotal_sample(probability: Tensor, random: Tensor, budget: int) -> Tensor:
    """Return the indices of `budget` drawn items, int64 ascending.

    In each round, neighbors among the undecided items form pairs; the probability of a pair is
    moved to one of both until it is 1, or the other one's is 0. So a round decides half of them.

    Args:
        probability: [m], with the sum `budget`.
        random: [m], uniform numbers, used one by one.
        budget: the number of items to draw.
    """
    used, width = random.new_zeros(1, dtype=torch.long), len(probability)
    while True:
        undecided = (probability > _SNAP) & (probability < 1 - _SNAP)
        count = undecided.sum(0, keepdim=True)
        width = longest(count, width)
        if width < 2:
            break
        first, second = true_indices(undecided, width // 2 * 2).view(-1, 2).unbind(1)
        pair = torch.arange(width // 2, device=random.device)
        drawn = random[(used + pair).clamp_max(len(random) - 1)]
        one, other = _decided(probability[first], probability[second], drawn)
        probability = placed(
            probability, torch.cat([first, second]), torch.cat([one, other]), (pair < count // 2).repeat(2)
        )
        used, width = used + count // 2, (width + 1) // 2
    return probability.sort(descending=True, stable=True).indices[:budget].sort().values


def _decided(one: Tensor, other: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
    """Return the probabilities of pairs after the draw: one of each pair is 0 or 1."""
    both = one + other
    is_low = both <= 1
    # Of a pair below 1, one gets all; of a pair above 1, one gets 1 and the other what is left.
    takes = drawn < torch.where(is_low, one / both, (1 - other) / (2 - both))
    most, least = torch.where(is_low, both, 1.0), torch.where(is_low, 0.0, both - 1)
    return torch.where(takes, most, least), torch.where(takes, least, most)


def one_in_each(kept: Tensor, weight: Tensor, interval: Tensor, clips: CutClips) -> Tensor:
    """Return `kept` with one token in each interval at least, and as many as before: ascending.

    An interval without one gets its token of the greatest weight. For each such interval, the first
    interval that has several gives up its token of least weight (ties go to the later one).

    Args:
        kept: int64 [K], ascending.
        weight: [m].
        interval: int64 [m], the interval of each token.
        clips: the intervals, at most K.
    """
    # 1. Which intervals have no token, and the best token of each interval.
    number = torch.arange(len(clips.number), device=kept.device)
    counts = group_sizes(interval[kept], len(number))
    is_empty = (counts == 0) & (number < clips.total)
    best = torch.where(interval == number[:, None], weight, -torch.inf).argmax(1)
    # 2. The tokens to give up come first: by interval, then by weight, then the later one.
    order = kept.flip(0)
    order = order[weight[order].sort(stable=True).indices]
    order = order[interval[order].sort(stable=True).indices]
    own = interval[order]
    rank = torch.arange(len(order), device=kept.device) - (counts.cumsum(0) - counts)[own]
    is_spare = rank < counts[own] - 1
    given = is_spare & (is_spare.cumsum(0) <= is_empty.sum())
    # 3. Exchange them.
    chosen = torch.zeros_like(interval, dtype=torch.bool).index_copy_(0, order, ~given)
    return true_indices(placed(chosen, best, torch.ones_like(is_empty), is_empty), len(kept))


def _nearest_kept(values: Tensor, kept: Tensor, interval: Tensor, clips: CutClips) -> Tensor:
    """Return which of the `kept` tokens [K] each token joins, int64 [F * n].

    It is the one with the highest cosine similarity in the same interval; kept tokens join
    themselves. Cosines are computed in float64 and compared in float32; ties go to the lower index.
    """
    per_frame, dtype = values.shape[1], decision_dtype(values)
    labels = []
    for frames in clips.batches():
        tokens = slice(frames.start * per_frame, frames.stop * per_frame)
        mine = true_rows((kept >= tokens.start) & (kept < tokens.stop))
        unit = functional.normalize(values[frames].flatten(0, 1).to(dtype), dim=-1)
        likeness = (unit @ unit[kept[mine] - tokens.start].mT).float()
        others = interval[tokens, None] != interval[kept[mine]]
        labels.append(mine[likeness.masked_fill_(others, -torch.inf).argmax(1)])
    return torch.cat(labels).index_copy_(0, kept, torch.arange(len(kept), device=kept.device))
