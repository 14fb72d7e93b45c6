"""Compute AOT in plain float64 numpy, as the reference for the project's code.

Written from the algorithm (docs/algorithm.md, "section" below) alone, independently of the
project's code, for clarity rather than speed. Ties always go to the lower index.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Grid = tuple[int, int]
PoolKind = Literal["bilinear", "average"]
Emitted = tuple[int, int, int, str, Array]  # frame, row, col, role, feature


@dataclass(frozen=True)
class Narrow:
    """A decision that is closer than float32's error: which of two cells of a frame is distinct.

    In exact arithmetic it is cell `float64` (row, col); the sums are those for `other`.
    """

    frame: int
    float64: tuple[int, int]
    other: tuple[int, int]
    distinct_sum: float
    merged_sum: float
    first_merged: tuple[float, ...]


@dataclass(frozen=True)
class Golden:
    """One column of the golden table; `*_sum` fields are sums over tokens and channels."""

    count: int
    keep_ratio: float
    pool_kind: PoolKind
    anchors_per_frame: int
    anchor_index_sums: tuple[int, ...]
    first_local_picks: tuple[int, ...]
    first_global_picks: tuple[int, ...]
    intra_iterations: int
    inter_iterations: tuple[int, ...]
    kept_per_frame: tuple[int, ...]
    first_kept_cells: tuple[int, ...]
    emitted_keyframe: int
    emitted_distinct: tuple[int, ...]
    emitted_merged: int
    emitted_total: int
    lowest_anchor: int
    lowest_anchor_after_intra: tuple[float, ...]
    intra_sum: float
    pooled_sum: float
    keyframe_sum: float
    distinct_sum: float
    merged_sum: float
    first_merged: tuple[float, ...]
    narrow: Narrow | None = None


GOLDEN_GRID: Grid = (27, 27)
GOLDEN_CLIP_FRAMES = 4
GOLDEN: tuple[Golden, ...] = (
    Golden(
        count=126,
        keep_ratio=0.3,
        pool_kind="bilinear",
        anchors_per_frame=126,
        anchor_index_sums=(44139, 44546, 44706, 44494),
        first_local_picks=(191, 2, 88, 115, 192, 3, 87),
        first_global_picks=(54, 621, 79, 646, 208),
        intra_iterations=2,
        inter_iterations=(2, 2, 3),
        kept_per_frame=(34, 33, 32, 26),
        first_kept_cells=(1, 6, 14, 20, 21, 26, 27, 36),
        emitted_keyframe=34,
        emitted_distinct=(10, 10, 8),
        emitted_merged=34,
        emitted_total=96,
        lowest_anchor=2,
        lowest_anchor_after_intra=(1.3193845, 1.6806885, 1.8616957, 1.8754357),
        intra_sum=8194.091473,
        pooled_sum=2199.302904,
        keyframe_sum=97.406755,
        distinct_sum=180.818790,
        merged_sum=112.216235,
        first_merged=(1.0370809, 1.1085104, 1.2206302, 1.3965071),
    ),
    Golden(
        count=205,
        keep_ratio=0.5,
        pool_kind="bilinear",
        anchors_per_frame=202,
        anchor_index_sums=(71359, 70975, 71332, 71581),
        first_local_picks=(191, 2, 88, 115, 192, 3, 87),
        first_global_picks=(54, 621, 79, 646, 195),
        intra_iterations=2,
        inter_iterations=(2, 2, 2),
        kept_per_frame=(52, 55, 56, 49),
        first_kept_cells=(0, 1, 5, 6, 10, 14, 20, 21),
        emitted_keyframe=52,
        emitted_distinct=(27, 28, 24),
        emitted_merged=52,
        emitted_total=183,
        lowest_anchor=1,
        lowest_anchor_after_intra=(1.1669920, 1.5595527, 1.8015495, 1.8707896),
        intra_sum=8197.931784,
        pooled_sum=2201.036892,
        keyframe_sum=171.604694,
        distinct_sum=338.957710,
        merged_sum=166.184864,
        first_merged=(0.9572429, 0.9196138, 1.0272845, 1.2659362),
    ),
    Golden(
        count=180,
        keep_ratio=0.3,
        pool_kind="average",
        anchors_per_frame=180,
        anchor_index_sums=(63243, 63407, 63728, 63178),
        first_local_picks=(191, 2, 88, 115, 192, 3, 87),
        first_global_picks=(54, 621, 79, 646, 195),
        intra_iterations=2,
        inter_iterations=(2, 2, 2),
        kept_per_frame=(51, 51, 52, 55),
        first_kept_cells=(0, 1, 5, 6, 10, 12, 13, 16),
        emitted_keyframe=51,
        emitted_distinct=(15, 16, 17),
        emitted_merged=51,
        emitted_total=150,
        lowest_anchor=1,
        lowest_anchor_after_intra=(1.1669771, 1.5594080, 1.8012594, 1.8703882),
        intra_sum=8192.117818,
        pooled_sum=1982.714750,
        keyframe_sum=177.424680,
        distinct_sum=203.640736,
        merged_sum=169.414205,
        first_merged=(0.9153576, 0.7433612, 0.8115609, 1.1350514),
        narrow=Narrow(
            frame=3,
            float64=(3, 10),
            other=(5, 2),
            distinct_sum=201.328902,
            merged_sum=169.903711,
            first_merged=(0.9182054, 0.7463329, 0.8105462, 1.1305981),
        ),
    ),
)


def golden_input() -> tuple[Array, Array, Array]:
    """Return shallow [4, 729], deep [4, 729] and u [4, 729, 16] of the golden input."""
    t = np.arange(4, dtype=np.float64)[:, None]
    j = np.arange(729)
    col, row = (j % 27).astype(np.float64), (j // 27).astype(np.float64)
    shallow = 1 + 0.5 * np.sin(0.7 * col + 0.3 * t) * np.cos(0.9 * row) + 1e-4 * (53 * j % 729) / 729
    deep = 1 + 0.5 * np.cos(0.5 * col - 0.2 * t) * np.sin(0.6 * row + 0.4) + 1e-4 * (37 * j % 729) / 729
    u = np.empty((4, 729, 16))
    for d in range(16):
        ripple = 0.3 * np.sin((13 * j + 7 * d) % 101)
        u[:, :, d] = np.sin(0.05 * (d + 1) * col + 0.2 * d) + ripple
        u[:, :, d] += np.cos(0.07 * (d + 1) * row - 0.1 * t * (d + 1))
    return shallow, deep, u


# Section 1: anchors


def largest(values: Sequence[float] | Array, count: int, among: Sequence[int] | None = None) -> list[int]:
    """Return the indices of the `count` largest values, largest first; ties: lower index first."""
    candidates = range(len(values)) if among is None else among
    return sorted(candidates, key=lambda i: (-values[i], i))[:count]


def smallest(values: Sequence[float] | Array, count: int) -> list[int]:
    """Return the indices of the `count` smallest values, ascending; ties: lower index first."""
    return sorted(range(len(values)), key=lambda i: (values[i], i))[:count]


def window_edges(g: int, per_side: int) -> list[int]:
    """Return the per_side + 1 window edges along a side of g patches (section 1)."""
    return [round(i * g / per_side) for i in range(per_side + 1)]


def windows(grid: Grid, per_side: int) -> list[list[int]]:
    """Return the patch indices of each window, windows in row-major order (section 1)."""
    rows, cols = grid
    row_edges, col_edges = window_edges(rows, per_side), window_edges(cols, per_side)
    result = []
    for top, bottom in pairwise(row_edges):
        for left, right in pairwise(col_edges):
            result.append([r * cols + c for r in range(top, bottom) for c in range(left, right)])
    return result


def pick_order(
    shallow: Array,
    deep: Array,
    grid: Grid = (27, 27),
    count: int = 126,
    local_ratio: float = 0.5,
    windows_per_side: int = 3,
) -> tuple[list[int], list[int]]:
    """Return the local and the global picks of one frame in pick order (section 1), for count < N.

    Local picks are ordered by window and descending shallow saliency, global ones by deep saliency.
    """
    local_budget = int(count * local_ratio)
    per_window = local_budget // windows_per_side**2
    if per_window == 0:
        return [], largest(deep, count)
    local = [i for window in windows(grid, windows_per_side) for i in largest(shallow, per_window, among=window)]
    masked = deep.copy()
    masked[local] = 0.0
    return local, largest(masked, count - local_budget)


def select_anchors(
    shallow: Array,
    deep: Array,
    grid: Grid = (27, 27),
    count: int = 126,
    local_ratio: float = 0.5,
    windows_per_side: int = 3,
) -> list[int]:
    """Return one frame's anchors in raster order (section 1)."""
    if count >= len(shallow):
        return list(range(len(shallow)))
    local, global_ = pick_order(shallow, deep, grid, count, local_ratio, windows_per_side)
    return sorted(set(local) | set(global_))


# Section 2: intra-frame transport


def cosine(a: Array, b: Array) -> Array:
    """Return the cosine similarity of every row of a with every row of b; 0 for zero vectors."""
    a_norm = np.maximum(np.linalg.norm(a, axis=1, keepdims=True), 1e-12)
    b_norm = np.maximum(np.linalg.norm(b, axis=1, keepdims=True), 1e-12)
    # einsum, unlike a BLAS product, gives equal rows equal bits, so that ties are exact.
    return np.einsum("id,jd->ij", a / a_norm, b / b_norm)


def sinkhorn(
    costs: Sequence[Array], epsilon: float = 0.1, max_iterations: int = 100, tolerance: float = 1e-2
) -> tuple[list[Array], int]:
    """Return the transport plan of each cost [U, M] and the number of joint iterations (section 2).

    The published rule: stop when the mean of |r - r_previous| over all rows of all matrices is
    below the tolerance.
    """
    kernels = [np.exp(-cost / epsilon) for cost in costs]
    r = [np.ones(k.shape[0]) for k in kernels]
    c = [np.ones(k.shape[1]) for k in kernels]
    iterations = 0
    while iterations < max_iterations:
        iterations += 1
        previous = r
        r = [1 / k.shape[0] / np.einsum("ij,j->i", k, c_k) for k, c_k in zip(kernels, c, strict=True)]
        c = [1 / k.shape[1] / np.einsum("ij,i->j", k, r_k) for k, r_k in zip(kernels, r, strict=True)]
        if np.abs(np.concatenate(r) - np.concatenate(previous)).mean() < tolerance:
            break
    plans = [r_k[:, None] * k * c_k[None, :] for k, r_k, c_k in zip(kernels, r, c, strict=True)]
    return plans, iterations


def grid_positions(grid: Grid) -> Array:
    """Return each patch's (row, col) / (g - 1) (section 2); 0 along a side of one patch."""
    rows, cols = grid
    return np.array([(i / max(rows - 1, 1), j / max(cols - 1, 1)) for i in range(rows) for j in range(cols)])


def intra_cost(u: Array, anchors: Sequence[int], others: Sequence[int], grid: Grid, spatial_weight: float) -> Array:
    """Return the cost (1 - S) + spatial_weight * distance of one frame, [U, M] (section 2)."""
    positions = grid_positions(grid)
    cost = 1 - cosine(u[others], u[anchors])
    for i, token in enumerate(others):
        cost[i] += spatial_weight * np.linalg.norm(positions[token] - positions[anchors], axis=1)
    return cost


def transported(anchors: Array, others: Array, plan: Array, lambda_intra: float) -> Array:
    """Return ot_a, each anchor blended with what the plan sends to it (section 2)."""
    mass = plan.sum(axis=0)[:, None]
    return (anchors + lambda_intra * (plan.T @ others)) / (1 + lambda_intra * mass)


def nearest_merged(anchors: Array, others: Array) -> Array:
    """Return near_a, each anchor averaged with the tokens most similar to it (section 2)."""
    sums, counts = anchors.copy(), np.ones(len(anchors))
    for token, similarities in zip(others, cosine(others, anchors), strict=True):
        nearest = int(np.argmax(similarities))
        sums[nearest] += token
        counts[nearest] += 1
    return sums / counts[:, None]


def intra(
    u: Array,
    anchors: Sequence[Sequence[int]],
    grid: Grid,
    spatial_weight: float = 0.5,
    nearest_blend: float = 0.1,
    lambda_intra: float = 1.0,
    mass: Literal["plan", "token"] = "plan",
    epsilon: float = 0.1,
    max_iterations: int = 100,
    tolerance: float = 1e-2,
) -> tuple[Array, int]:
    """Return u [F, N, D] with its anchors replaced, and the joint Sinkhorn iterations (section 2).

    A frame without unselected tokens (M = N) or without anchors is not changed; if that is every
    frame, the iterations are 0.
    """
    result = u.copy()
    all_others = [[i for i in range(u.shape[1]) if i not in set(chosen)] for chosen in anchors]
    frames = [f for f in range(len(u)) if len(anchors[f]) > 0 and len(all_others[f]) > 0]
    if not frames:
        return result, 0
    costs = [intra_cost(u[f], list(anchors[f]), all_others[f], grid, spatial_weight) for f in frames]
    plans, iterations = sinkhorn(costs, epsilon, max_iterations, tolerance)
    for f, plan in zip(frames, plans, strict=True):
        chosen, others = u[f, list(anchors[f])], u[f, all_others[f]]
        weights = plan * len(others) if mass == "token" else plan
        moved = transported(chosen, others, weights, lambda_intra)
        result[f, list(anchors[f])] = (1 - nearest_blend) * moved + nearest_blend * nearest_merged(chosen, others)
    return result, iterations


# Section 3: pooling


def pooled_grid(grid: Grid, kind: PoolKind, stride: int = 2) -> Grid:
    """Return the pooled grid: ceil(g / stride) bilinear, floor(g / stride) average (section 3)."""
    rows, cols = grid
    if kind == "bilinear":
        return math.ceil(rows / stride), math.ceil(cols / stride)
    return rows // stride, cols // stride


def bilinear_taps(size: int, pooled: int) -> list[tuple[int, int, float]]:
    """Return (lower source, upper source, upper weight) of each pooled position along one side."""
    taps = []
    for i in range(pooled):
        source = max((i + 0.5) * size / pooled - 0.5, 0.0)
        lower = min(int(source), size - 1)
        taps.append((lower, min(lower + 1, size - 1), source - lower))
    return taps


def pool_bilinear(u: Array, grid: Grid, stride: int) -> Array:
    """Return bilinear pooling of u [F, N, D], half-pixel centers, no anti-aliasing (section 3)."""
    rows, cols = pooled_grid(grid, "bilinear", stride)
    maps = u.reshape(len(u), *grid, -1)
    pooled = np.empty((len(u), rows, cols, u.shape[2]))
    for i, (top, bottom, down) in enumerate(bilinear_taps(grid[0], rows)):
        for j, (left, right, across) in enumerate(bilinear_taps(grid[1], cols)):
            upper = (1 - across) * maps[:, top, left] + across * maps[:, top, right]
            lower = (1 - across) * maps[:, bottom, left] + across * maps[:, bottom, right]
            pooled[:, i, j] = (1 - down) * upper + down * lower
    return pooled.reshape(len(u), rows * cols, -1)


def pool_average(u: Array, grid: Grid, stride: int) -> Array:
    """Return the stride x stride average of u [F, N, D] without incomplete blocks (section 3)."""
    rows, cols = pooled_grid(grid, "average", stride)
    maps = u.reshape(len(u), *grid, -1)
    pooled = np.empty((len(u), rows, cols, u.shape[2]))
    for i in range(rows):
        for j in range(cols):
            block = maps[:, i * stride : (i + 1) * stride, j * stride : (j + 1) * stride]
            pooled[:, i, j] = block.mean(axis=(1, 2))
    return pooled.reshape(len(u), rows * cols, -1)


def pool_features(u: Array, grid: Grid, kind: PoolKind, stride: int = 2) -> Array:
    """Return u [F, N, D] pooled to [F, n, D] (section 3)."""
    return pool_bilinear(u, grid, stride) if kind == "bilinear" else pool_average(u, grid, stride)


def pool_mask(anchors: Sequence[Sequence[int]], grid: Grid, kind: PoolKind, stride: int = 2) -> Array:
    """Return the pooled 0/1 anchor mask [F, n] (section 3)."""
    mask = np.zeros((len(anchors), grid[0] * grid[1], 1))
    for f, chosen in enumerate(anchors):
        mask[f, list(chosen)] = 1.0
    return pool_features(mask, grid, kind, stride)[:, :, 0]


def kept_cells(pooled_mask: Array) -> list[list[int]]:
    """Return each frame's cells with a pooled mask >= 0.5, or its largest one (section 3)."""
    kept = []
    for values in pooled_mask:
        cells = [i for i, value in enumerate(values) if value >= 0.5]
        kept.append(cells or largest(values, 1))
    return kept


# Section 4: inter-frame transport


def time_weight(distance: int, sigma_frames: float) -> float:
    """Return C_time of a frame `distance` frames after the keyframe (section 4)."""
    return 1 - math.exp(-(distance**2) / (2 * sigma_frames**2))


def assignment(
    x: Array, y: Array, distance: int, sigma_frames: float, epsilon: float, max_iterations: int, tolerance: float
) -> tuple[Array, int]:
    """Return p [x, y], a later frame's row-normalized plan, and the iterations (section 4)."""
    dissimilarity = 1 - cosine(x, y)
    cost = (dissimilarity - dissimilarity.min()) * time_weight(distance, sigma_frames)
    (plan,), iterations = sinkhorn([cost], epsilon, max_iterations, tolerance)
    return plan / plan.sum(axis=1, keepdims=True), iterations


def linear_quantile(values: Array, ratio: float) -> float:
    """Return the `ratio` quantile of values with linear interpolation (section 4)."""
    ordered = sorted(float(v) for v in values)
    rank = ratio * (len(ordered) - 1)
    below = int(rank)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (rank - below) * (ordered[above] - ordered[below])


def distinct_tokens(q: Array, keep_ratio: float | None, tau: float | None, count: int | None) -> list[int]:
    """Return the distinct tokens of one frame by quantile, threshold or count (sections 4, 6)."""
    if count is not None:
        return sorted(smallest(q, count))
    if keep_ratio is not None:
        tau = linear_quantile(q, keep_ratio)
    assert tau is not None
    return [i for i, value in enumerate(q) if value < tau]


def inter_clip(
    tokens: Sequence[Array],
    sigma_frames: float = 1.5,
    lambda_inter: float = 1.0,
    epsilon: float = 0.1,
    keep_ratio: float | None = None,
    tau: float | None = None,
    distinct_counts: Sequence[int] | None = None,
    max_iterations: int = 100,
    tolerance: float = 1e-2,
    exchanged: tuple[int, set[int]] | None = None,
) -> tuple[Array, list[list[int]], Array, Array, list[int]]:
    """Return a clip's original Y, distinct tokens per later frame, merged Y, its mass, iterations.

    See section 4. `exchanged` is a later frame and two of its tokens for which the opposite
    decision is made. The mass of a merged token, 1 + lambda_inter * (sum of all p it absorbed), is
    reported
    only: each update of Y divides by 1 + lambda_inter * (sum of the p of that frame).
    """
    assert sum(rule is not None for rule in (keep_ratio, tau, distinct_counts)) == 1
    original = tokens[0].copy()
    y, mass = original.copy(), np.ones(len(original))
    distinct_lists, iteration_list = [], []
    for distance, x in enumerate(tokens[1:], start=1):
        p, iterations = assignment(x, y, distance, sigma_frames, epsilon, max_iterations, tolerance)
        count = None if distinct_counts is None else distinct_counts[distance - 1]
        distinct = distinct_tokens(p.max(axis=1), keep_ratio, tau, count)
        if exchanged and distance == exchanged[0]:
            distinct = sorted(set(distinct) ^ exchanged[1])
        absorbed = [i for i in range(len(x)) if i not in distinct]
        gained = lambda_inter * p[absorbed].sum(axis=0)
        y = (y + lambda_inter * (p[absorbed].T @ x[absorbed])) / (1 + gained)[:, None]
        mass = mass + gained
        distinct_lists.append(distinct)
        iteration_list.append(iterations)
    return original, distinct_lists, y, mass, iteration_list


# Sections 4 and 5: clips


def fixed_clips(frames: int, clip_frames: int) -> list[tuple[int, int]]:
    """Return (first, stop) of clips of `clip_frames` frames, the last maybe shorter (section 4)."""
    return [(first, min(first + clip_frames, frames)) for first in range(0, frames, clip_frames)]


def dynamic_clips(embeddings: Array, segments: int, threshold: float) -> list[tuple[int, int]]:
    """Return (first, stop) of each clip, cut where adjacent frames differ (section 5)."""
    similarities = [float(cosine(a[None], b[None])[0, 0]) for a, b in pairwise(embeddings)]
    lowest = set(smallest(similarities, max(segments - 1, 0)))
    cuts = [i + 1 for i, s in enumerate(similarities) if i in lowest or s < threshold]
    return list(zip([0, *cuts], [*cuts, len(embeddings)], strict=True))


# The whole algorithm


def emit_clip(
    first: int,
    tokens: Sequence[Array],
    kept: Sequence[list[int]],
    cols: int,
    ratio: float,
    narrow: Narrow | None = None,
) -> list[Emitted]:
    """Return the tokens that the clip starting at frame `first` emits, in order (section 4).

    `narrow` is a decision in the first clip that is reversed.
    """

    def emitted(frame: int, cell: int, role: str, feature: Array) -> Emitted:
        return first + frame, cell // cols, cell % cols, role, feature

    exchanged = None
    if narrow is not None:
        cells = (row * cols + col for row, col in (narrow.float64, narrow.other))
        exchanged = narrow.frame, {kept[narrow.frame].index(cell) for cell in cells}
    original, distinct, merged, _, _ = inter_clip(tokens, keep_ratio=ratio, exchanged=exchanged)
    out = [emitted(0, cell, "keyframe", y) for cell, y in zip(kept[0], original, strict=True)]
    for frame, chosen in enumerate(distinct, start=1):
        out += [emitted(frame, kept[frame][i], "distinct", tokens[frame][i]) for i in chosen]
    if len(tokens) > 1:
        out += [emitted(0, cell, "merged", y) for cell, y in zip(kept[0], merged, strict=True)]
    return out


def aot_paper(
    shallow: Array,
    deep: Array,
    u: Array,
    grid: Grid,
    count: int,
    keep_ratio: float,
    clip_frames: int,
    pool_kind: PoolKind,
    narrow: Narrow | None = None,
) -> list[Emitted]:
    """Return the tokens that the published settings emit, in order (sections 1 to 4).

    Each is (frame, pooled row, pooled col, role, feature), with the role "keyframe", "distinct" or
    "merged". All frames are one batch of the intra-frame Sinkhorn. There are no newline tokens.
    `narrow` is a decision that is reversed.
    """
    anchors = [select_anchors(s, d, grid, count) for s, d in zip(shallow, deep, strict=True)]
    changed, _ = intra(u, anchors, grid)
    pooled = pool_features(changed, grid, pool_kind)
    kept = kept_cells(pool_mask(anchors, grid, pool_kind))
    cols = pooled_grid(grid, pool_kind)[1]
    out = []
    for first, stop in fixed_clips(len(u), clip_frames):
        tokens = [pooled[f, kept[f]] for f in range(first, stop)]
        out += emit_clip(first, tokens, kept[first:stop], cols, keep_ratio, narrow)
    return out
