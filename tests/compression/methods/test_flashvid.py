"""FlashVID's outer part against a straight-line program, and its golden values."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aot.compression.methods.flashvid import FlashVid
from aot.compression.ops.clips import CutClips
from aot.errors import ConfigError
from aot.types import Pooling, TokenBudget, VisualTokens
from tests.support import density_oracle, oracle
from tests.support.golden_input import golden_tokens
from tests.support.kept_tokens import Kept, assert_is, cells_of
from tests.support.synthetic_tokens import random_features, random_saliency


def video(
    seed: int, frames: int, grid: oracle.Grid = (6, 7), kind: Any = "bilinear", still: float = 0.3
) -> VisualTokens:
    """still: how much tokens change from frame to frame."""
    rng = np.random.default_rng(seed)
    features = random_features(rng, 1, grid) + still * rng.normal(size=(frames, grid[0] * grid[1], 8)).cumsum(0)
    return VisualTokens(
        features=torch.from_numpy(features),
        grid=grid,
        pool=Pooling(kind),
        timestamps_s=tuple(float(t) for t in range(frames)),
        saliency={-1: torch.from_numpy(random_saliency(rng, frames, grid))},
    )


def pooled(tokens: VisualTokens, values: torch.Tensor) -> oracle.Array:
    if tokens.pool.kind == "none":
        return values.numpy()
    return oracle.pool_features(values.numpy(), tokens.grid, tokens.pool.kind)


def diverse_picks(x: oracle.Array, mean: oracle.Array, attention: oracle.Array, count: int, exact: bool) -> list[int]:
    """Tokens of one frame x [n, D] in the order in which they are picked; mean [D]: of the segment."""
    n = len(x)
    d = (1 - oracle.cosine(x, x)) * attention[None, :] * (x @ mean)[None, :]
    np.fill_diagonal(d, 0.0)
    picked: list[int] = []
    for _ in range(count):
        if picked:
            value = [min(d[i, j] for i in picked) for j in range(n)]
        else:
            value = [sorted(d[:, j])[min(1, n - 1)] for j in range(n)]
        picked += oracle.largest(value, 1, [j for j in range(n) if not exact or j not in picked])
    return picked


def links(x: oracle.Array, free: list[list[int]], limit: int, exact: bool) -> dict[tuple[int, int], int]:
    """(frame, token) -> its parent in the frame before, in a segment x [l, n, D] where at most `limit` may have one."""
    best = []
    for t in range(1, len(x)):
        for i in free[t] if free[t - 1] else []:
            similarity = oracle.cosine(x[t, [i]], x[t - 1, free[t - 1]])[0]
            j = int(similarity.argmax())
            best.append((float(similarity[j]), t, i, free[t - 1][j]))
    best.sort(key=lambda each: (-each[0], each[1], each[2]))
    held = [each for each in best if each[0] > 0.8]
    if len(held) > limit:
        held = held[:limit] if exact or limit == 0 else [each for each in best if each[0] > best[limit - 1][0]]
    return {(t, i): j for _, t, i, j in held}


def merged_trees(
    x: oracle.Array, parent: dict[tuple[int, int], int], exact: bool
) -> dict[tuple[int, int], tuple[oracle.Array, int]]:
    """Root -> its tree's token and size."""
    children: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for (t, i), j in parent.items():
        children.setdefault((t - 1, j), []).append((t, i))

    def members(node: tuple[int, int]) -> list[tuple[int, int]]:
        return [node, *(each for child in children.get(node, []) for each in members(child))]

    trees = {}
    for node in np.ndindex(x.shape[:2]):
        if node not in parent:
            tree = members(node)
            divisor = len(tree) if exact else 1 + len(children.get(node, []))
            trees[node] = (sum(x[each] for each in tree) / divisor, len(tree))
    return trees


def clusters(values: oracle.Array, sizes: list[int], count: int) -> list[tuple[int, oracle.Array, int]]:
    """(center, mean, size) of each."""
    centers = density_oracle.peaks(values, count, min(7, count))
    own: dict[int, list[int]] = {center: [center] for center in centers}
    for i in range(len(values)):
        if i not in own:
            own[min(centers, key=lambda c: (math.dist(values[i], values[c]), c))].append(i)
    return [(c, values[own[c]].mean(0), sum(sizes[i] for i in own[c])) for c in centers]


def cluster_counts(wanted: int, roots: list[int], exact: bool) -> list[int]:
    total = sum(roots)
    if wanted >= total:
        return roots
    if not exact:
        return [math.ceil(count * (wanted / total)) for count in roots]
    shares = [Fraction(count * wanted, total) for count in roots]
    counts = [math.floor(share) for share in shares]
    for t in oracle.largest([share - count for share, count in zip(shares, counts, strict=True)], wanted - sum(counts)):
        counts[t] += 1
    return counts


def straight_line(tokens: VisualTokens, budget: int, ratio: float, exact: bool) -> list[Kept]:
    x, attention = pooled(tokens, tokens.features), pooled(tokens, tokens.saliency[-1][..., None])[..., 0]
    frames, n, _ = x.shape
    edges = [math.floor(t * budget / frames + 0.5) for t in range(frames + 1)]
    published = min(math.ceil(n * ratio * 1.25), n)
    shares = [edges[t + 1] - edges[t] if exact else published for t in range(frames)]
    diverse = [math.ceil(Fraction(7, 10) * share) for share in shares]
    kept: list[Kept] = []
    for first, stop in oracle.dynamic_clips(x.mean(1), 8, 0.9):
        own, length = x[first:stop], stop - first
        mean = own.mean((0, 1))
        picks = [diverse_picks(x[t], mean, attention[t], diverse[t], exact) for t in range(first, stop)]
        kept += [(t * n + i, x[t, i], 1) for t, chosen in enumerate(picks, first) for i in sorted(chosen)]
        free = [[i for i in range(n) if i not in chosen] for chosen in picks]
        parent = links(own, free, n * length - sum(shares[first:stop]), exact)
        trees = merged_trees(own, parent, exact)
        roots = [[i for i in free[t] if (t, i) in trees] for t in range(length)]
        if length == 1 and not exact:
            roots = [list(range(n))]
        wanted = sum(shares[first:stop]) - sum(diverse[first:stop])
        for t, count in enumerate(cluster_counts(wanted, [len(each) for each in roots], exact)):
            if count:
                values = np.array([trees[t, i][0] for i in roots[t]])
                sizes = [trees[t, i][1] for i in roots[t]]
                kept += [((first + t) * n + roots[t][c], *rest) for c, *rest in clusters(values, sizes, count)]
    return sorted(kept, key=lambda each: each[0])  # stable: of one cell the diverse token first


@settings(max_examples=40)
@given(
    st.integers(0, 10**6),
    st.integers(1, 20),
    st.sampled_from([(6, 7), (4, 4), (9, 5)]),
    st.sampled_from(["bilinear", "average", "none"]),
    st.sampled_from([0.02, 0.3, 1.0]),
    st.floats(0, 1),
)
def test_tokens_of_any_budget(seed: int, frames: int, grid: oracle.Grid, kind: str, still: float, ratio: float) -> None:
    tokens = video(seed, frames, grid, kind, still)
    total = frames * pooled(tokens, tokens.features).shape[1]
    budget = min(max(1, round(ratio * total)), total - 1)
    kept = FlashVid().compress(tokens, budget)
    assert len(kept.features) == len(set(cells_of(kept))) == budget
    assert_is(kept, straight_line(tokens, budget, ratio, exact=True))
    published = FlashVid(paper_exact=True).compress(tokens, TokenBudget(budget, max(ratio, 0.01)))
    assert_is(published, straight_line(tokens, budget, max(ratio, 0.01), exact=False))


# Golden values


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("ratio", "count", "distinct"), [(0.10, 800, 797), (0.25, 1987, 1976)])
def test_golden_counts(ratio: float, count: int, distinct: int, dtype: torch.dtype) -> None:
    kept = FlashVid(paper_exact=True).compress(golden_tokens(dtype), TokenBudget(round(ratio * 6272), ratio))
    assert [len(clip) for clip in kept.clips] == [1, 1, 1, 1, 5, 9, 9, 5]
    assert (len(kept.features), len(set(cells_of(kept)))) == (count, distinct)


@pytest.mark.parametrize("paper_exact", [True, False])
def test_golden_picks(paper_exact: bool) -> None:
    """Frame 0 in a segment of the first nine frames, of which nothing else is kept."""
    whole = golden_tokens()
    tokens = replace(whole, features=whole.features[:9], saliency={-1: whole.saliency[-1][:9]})
    method = FlashVid(segments=1, threshold=-1, diverse_share=1, expansion=1, paper_exact=paper_exact)
    picks = cells_of(method.compress(tokens, 9 * 18))[:18]
    assert picks == [1, 4, 9, 12, 31, 34, 36, 55, 62, 66, 78, 96, 100, 107, 115, 123, 161, 194]


@pytest.mark.parametrize(
    ("ratio", "diverse", "share"), [(0.10, 18, 25), (0.15, 26, 37), (0.20, 35, 49), (0.25, 44, 62)]
)
def test_published_counts(ratio: float, diverse: int, share: int) -> None:
    kept = FlashVid(paper_exact=True).compress(golden_tokens(), TokenBudget(round(ratio * 6272), ratio))
    assert kept.facts["diverse_tokens"] == 32 * diverse
    assert 32 * share <= len(kept.features) < 32 * (share + 1)


def test_published_clusters_are_counted_in_floating_point() -> None:
    """22 of 170 trees are 23 clusters: 170 * (22 / 170) is 22.000000000000004."""
    clips, rest, trees = CutClips(torch.tensor([True])), torch.tensor([22]), torch.tensor([170])
    assert FlashVid(paper_exact=True)._clusters(rest, trees, clips).tolist() == [23]
    assert FlashVid()._clusters(rest, trees, clips).tolist() == [22]


# What the method is


def test_every_token_is_part_of_one() -> None:
    """The diverse tokens, and trees in clusters: nothing is counted twice or lost at common ratios."""
    for ratio in (0.1, 0.25):
        assert FlashVid().compress(golden_tokens(), round(ratio * 32 * 196)).mass.sum() == 32 * 196


def test_the_scale_of_attention_says_nothing() -> None:
    """So the published mean over queries and factor of a million may be left out."""
    tokens = video(1, 9)
    scaled = replace(tokens, saliency={-1: tokens.saliency[-1] * 1e6 / 729})
    assert torch.equal(FlashVid().compress(tokens, 20).features, FlashVid().compress(scaled, 20).features)


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"link_similarity must be in \[-1, 1\], got 2.*expansion"):
        FlashVid(link_similarity=2.0, expansion=0.5)
