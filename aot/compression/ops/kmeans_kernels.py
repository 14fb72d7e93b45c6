"""Cluster in Triton; `kmeans_queued` launches these kernels.

The kernels of a round first read the flag `going`, and return if the rounds have ended.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["assign_kernel", "draw_kernel", "fill_kernel", "means_kernel", "members_kernel", "verdict_kernel"]


@triton.jit
def _weight(distance, floor: tl.constexpr, inside):
    """Return the weights of points in the draw: float64, 0 outside."""
    return tl.where(inside, (distance + floor).to(tl.float64), 0.0)


@triton.jit(do_not_specialize=["points", "count"])
def draw_kernel(
    products, lengths, draws, distance, seeds, points, count,
    floor: tl.constexpr, tile: tl.constexpr, tiles: tl.constexpr,
):  # fmt: skip
    """Draw `count` seeds, one after the other; `distance` is 1 for all points at first."""
    seed = tl.zeros((), tl.int64)
    index = tl.arange(0, tiles)
    for step in range(count):
        # 1. The squared distance to the nearest seed, and the sum of the weights of each tile.
        length = tl.load(lengths + seed)
        sums = tl.zeros((tiles,), tl.float64)
        for part in range(tiles):
            point = part * tile + tl.arange(0, tile)
            inside = point < points
            nearest = tl.load(distance + point, mask=inside, other=0.0)
            if step > 0:
                cosine = tl.load(products + seed * points + point, mask=inside, other=0.0) / length
                cosine = cosine / tl.load(lengths + point, mask=inside, other=1.0)
                to_seed = tl.maximum(2 - 2 * cosine, 0.0)
                nearest = tl.where(step == 1, to_seed, tl.minimum(nearest, to_seed))
                tl.store(distance + point, nearest, mask=inside)
            sums += tl.where(index == part, tl.sum(_weight(nearest, floor, inside), axis=0), 0.0)
        tl.debug_barrier()
        # 2. The tile in which the cumulative sum exceeds the draw, and the point in it.
        aim = tl.load(draws + step) * tl.sum(sums, axis=0)
        chosen = tl.minimum(tl.sum((tl.cumsum(sums, axis=0) <= aim).to(tl.int32), axis=0), tiles - 1)
        before = tl.sum(tl.where(index < chosen, sums, 0.0), axis=0)
        point = chosen * tile + tl.arange(0, tile)
        inside = point < points
        weight = _weight(tl.load(distance + point, mask=inside, other=0.0), floor, inside)
        within = tl.sum((before + tl.cumsum(weight, axis=0) <= aim).to(tl.int32), axis=0)
        seed = tl.minimum(chosen * tile + within, points - 1).to(tl.int64)
        tl.store(seeds + step, seed)
        tl.debug_barrier()


@triton.jit(do_not_specialize=["points", "clusters"])
def assign_kernel(
    values, lengths, halves, squares, going, labels, similarity, points, width, clusters,
    parts: tl.constexpr, split: tl.constexpr,
    tile_rows: tl.constexpr, tile_columns: tl.constexpr, tile_width: tl.constexpr,
):  # fmt: skip
    """Find the center that is most similar to each point. Ties go to the lower index.

    Only `tl.dot` reads what its loop loads, see `aot.compression.aot.on_device.intra_cost`.
    """
    if tl.load(going) == 0:
        return
    first_row = tl.program_id(0).to(tl.int64) * tile_rows
    rows, units = tl.arange(0, tile_rows), tl.arange(0, tile_width)
    in_rows = first_row + rows < points
    of_rows = values + first_row * width + (rows[:, None] * width + units[None, :])
    own = tl.load(lengths + first_row + rows, mask=in_rows, other=1.0)
    best, best_at = tl.full((tile_rows,), float("-inf"), tl.float32), tl.zeros((tile_rows,), tl.int32)
    for first_column in range(0, clusters, tile_columns):
        columns = first_column + tl.arange(0, tile_columns)
        in_columns = columns < clusters
        of_columns = halves + (columns[:, None] * width + units[None, :])
        # 1. Products with the centers of this tile, summed over tiles of the width.
        total = tl.zeros((tile_rows, tile_columns), tl.float32)
        for first in range(0, width, tile_width):
            there = (first + units < width)[None, :]
            left = tl.load(of_rows + first, mask=in_rows[:, None] & there, other=0.0)
            right = tl.load(of_columns + first, mask=in_columns[:, None] & there, other=0.0)
            total = tl.dot(left, tl.trans(right), total, input_precision="ieee")
            if split:
                lost = tl.load(of_columns + clusters * width + first, mask=in_columns[:, None] & there, other=0.0)
                total = tl.dot(left, tl.trans(lost), total)
        # 2. Cosines, and the best of them so far.
        square = tl.zeros((tile_columns,), tl.float32)
        for part in range(parts):
            square += tl.load(squares + columns * parts + part, mask=in_columns, other=1.0)
        cosine = total / tl.maximum(tl.sqrt(square), 1e-12)[None, :] / own[:, None]
        cosine = tl.where(in_columns[None, :], cosine, float("-inf"))
        highest = tl.max(cosine, axis=1)
        here = first_column + tl.argmax(cosine, axis=1, tie_break_left=True)
        best_at, best = tl.where(highest > best, here, best_at), tl.maximum(best, highest)
    # With NaN, the index may be too high.
    tl.store(labels + first_row + rows, tl.minimum(best_at, clusters - 1).to(tl.int64), mask=in_rows)
    tl.store(similarity + first_row + rows, best, mask=in_rows)


@triton.jit(do_not_specialize=["points"])
def members_kernel(labels, members, sizes, going, points, tile: tl.constexpr):
    """List the points of one cluster, ascending, and count them."""
    if tl.load(going) == 0:
        return
    cluster = tl.program_id(0).to(tl.int64)
    count = tl.zeros((), tl.int32)
    for first in range(0, points, tile):
        point = first + tl.arange(0, tile)
        own = tl.load(labels + point, mask=point < points, other=-1) == cluster
        before = count + tl.cumsum(own.to(tl.int32), axis=0) - 1
        tl.store(members + cluster * points + before, point, mask=own)
        count += tl.sum(own.to(tl.int32), axis=0)
    tl.store(sizes + cluster, count)


@triton.jit(do_not_specialize=["points", "clusters"])
def means_kernel(
    values, lengths, members, sizes, going, centers, halves, squares, shifts, points, width, clusters,
    is_round: tl.constexpr, split: tl.constexpr, rows: tl.constexpr, tile: tl.constexpr,
):  # fmt: skip
    """Average the points of one cluster, over `tile` channels; 0 for a cluster without points.

    If `is_round`, average unit vectors; a cluster without points keeps its center. `squares` and
    `shifts` get the sums of squares of the new center and of its change over these channels.
    """
    if tl.load(going) == 0:
        return
    dtype: tl.constexpr = centers.dtype.element_ty
    cluster, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    unit = part * tile + tl.arange(0, tile)
    inside = unit < width
    count = tl.load(sizes + cluster)
    total = tl.zeros((tile,), dtype)
    for first in range(0, count, rows):
        which = first + tl.arange(0, rows)
        point = tl.load(members + cluster * points + which, mask=which < count, other=0).to(tl.int64)
        there = (which < count)[:, None] & inside[None, :]
        value = tl.load(values + point[:, None] * width + unit[None, :], mask=there, other=0.0).to(dtype)
        if is_round:
            value = value / tl.load(lengths + point, mask=which < count, other=1.0)[:, None]
        total += tl.sum(value, axis=0)
    mean = total / tl.maximum(count, 1).to(dtype)
    at = cluster * width + unit
    if is_round:
        old = tl.load(centers + at, mask=inside, other=0.0)
        mean = tl.where(count > 0, mean, old)
        rounded = mean.to(halves.dtype.element_ty)
        tl.store(halves + at, rounded, mask=inside)
        if split:
            tl.store(halves + clusters * width + at, (mean - rounded.to(dtype)).to(rounded.dtype), mask=inside)
        # Channels outside of the width are 0 in both.
        tl.store(squares + cluster * tl.num_programs(1) + part, tl.sum(mean * mean, axis=0))
        tl.store(shifts + cluster * tl.num_programs(1) + part, tl.sum((mean - old) * (mean - old), axis=0))
    tl.store(centers + at, mean, mask=inside)


@triton.jit(do_not_specialize=["count"])
def verdict_kernel(shifts, going, passed, count, tolerance, tile: tl.constexpr):
    """Count a round, and end the rounds if the centers' change is below the tolerance."""
    if tl.load(going) == 0:
        return
    total = tl.zeros((tile,), tl.float32)
    for first in range(0, count, tile):
        index = first + tl.arange(0, tile)
        total += tl.load(shifts + index, mask=index < count, other=0.0)
    tl.store(passed, tl.load(passed) + 1)
    # NaN does not end the rounds.
    tl.store(going, 1 - (tl.sqrt(tl.sum(total, axis=0)) < tolerance).to(tl.int32))


@triton.jit(do_not_specialize=["points", "clusters"])
def fill_kernel(labels, similarity, sizes, points, clusters, block: tl.constexpr, cluster_block: tl.constexpr):
    """Move the least similar point of the largest cluster to each empty cluster, ascending."""
    point, cluster = tl.arange(0, block), tl.arange(0, cluster_block)
    inside = point < points
    label = tl.load(labels + point, mask=inside, other=-1)
    similar = tl.load(similarity + point, mask=inside, other=float("inf"))
    size = tl.load(sizes + cluster, mask=cluster < clusters, other=1)
    empty = tl.min(tl.where(size == 0, cluster, clusters), axis=0)
    while empty < clusters:
        largest = tl.argmax(tl.where(cluster < clusters, size, 0), axis=0, tie_break_left=True)
        worst = tl.argmin(tl.where(label == largest, similar, float("inf")), axis=0, tie_break_left=True)
        label, similar = tl.where(point == worst, empty, label), tl.where(point == worst, 1.0, similar)
        size += (cluster == empty).to(size.dtype) - (cluster == largest).to(size.dtype)
        empty = tl.min(tl.where(size == 0, cluster, clusters), axis=0)
    tl.store(labels + point, label, mask=inside)
    tl.store(similarity + point, similar, mask=inside)
