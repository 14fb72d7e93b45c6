"""Run the first half of Phase I in Triton: the matrix K and Sinkhorn's first iteration.

`intra_frame` launches these kernels.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["gibbs_kernel", "product_kernel"]


@triton.jit(do_not_specialize=["patches"])
def product_kernel(
    features, anchor_index, found, products, patches, width,
    tile_rows: tl.constexpr, tile_columns: tl.constexpr, tile_width: tl.constexpr,
):  # fmt: skip
    """Compute the scalar product of every patch and every anchor of a frame, in float32.

    Only `tl.dot` may read the tiles that the loop loads. If other code reads a tile too, Triton 3.6
    uses one buffer less: on Hopper, the next copy overwrites a tile that tensor cores still read.
    """
    anchors = tl.load(found + 1)
    frame, first_column = tl.program_id(0).to(tl.int64), tl.program_id(2) * tile_columns
    if (first_column >= anchors) & (first_column > 0):
        return
    rows, columns = tl.program_id(1) * tile_rows + tl.arange(0, tile_rows), first_column + tl.arange(0, tile_columns)
    units = tl.arange(0, tile_width)
    features += frame * patches * width
    products += frame * patches * patches
    patch = tl.load(anchor_index + frame * patches + columns, mask=columns < anchors, other=0)
    # Patches times anchors, summed over tiles of the width.
    of_rows = features + (rows[:, None] * width + units[None, :])
    of_columns = features + (patch[:, None] * width + units[None, :])
    total = tl.zeros((tile_rows, tile_columns), tl.float32)
    for first in range(0, width, tile_width):
        there = (first + units < width)[None, :]
        left = tl.load(of_rows + first, mask=(rows < patches)[:, None] & there, other=0.0)
        right = tl.load(of_columns + first, mask=(columns < anchors)[:, None] & there, other=0.0)
        total = tl.dot(left, tl.trans(right), total, input_precision="ieee")
    inside = (rows < patches)[:, None] & (columns < anchors)[None, :]
    tl.store(products + (rows[:, None] * patches + columns[None, :]), total, mask=inside)


@triton.jit
def _similarity(products, norms, index, columns, anchors, in_rows, own):
    """Return the cosines between patches and anchors, and the patch index of each anchor.

    `own` has the norms of these patches, `norms` those of all patches of the frame.
    """
    patch = tl.load(index + columns, mask=columns < anchors, other=0)
    other = tl.maximum(tl.load(norms + patch, mask=columns < anchors, other=1.0), 1e-12)
    found = tl.load(products, mask=in_rows[:, None] & (columns < anchors)[None, :], other=0.0)
    return found / own[:, None] / other[None, :], patch


@triton.jit
def _cost(similarity, rows, patch, grid_rows, grid_cols, spatial):
    """Return C = 1 - cosine + spatial |pos_u - pos_a|, with positions in [0, 1]^2."""
    down = (rows // grid_cols)[:, None] - (patch // grid_cols)[None, :]
    along = (rows % grid_cols)[:, None] - (patch % grid_cols)[None, :]
    down = down.to(tl.float32) / tl.maximum(grid_rows - 1, 1)
    along = along.to(tl.float32) / tl.maximum(grid_cols - 1, 1)
    return 1 - similarity + spatial * tl.sqrt(down * down + along * along)


@triton.jit(do_not_specialize=["patches", "grid_rows", "grid_cols", "tiles"])
def gibbs_kernel(
    products, norms, is_anchor, anchor_index, found, rows_out, unshift, partial, change, nearest, nearest_at,
    spatial, epsilon, patches, grid_rows, grid_cols, tiles, tiny: tl.constexpr,
    tile_rows: tl.constexpr, tile_columns: tl.constexpr,
):  # fmt: skip
    """Replace `products` by K = exp(-C / epsilon) and run the first iteration, from c = 1.

    The lowest cost of each row of C is subtracted first. `nearest_at` gets the most similar anchor
    of each patch, `nearest` the number of patches for which an anchor is the most similar.
    """
    # 1. The patches of this program. Rows of anchors get no mass.
    frame, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    anchors, at = tl.load(found + 1), frame * patches
    rows = part * tile_rows + tl.arange(0, tile_rows)
    inside = rows < patches
    source = inside & (tl.load(is_anchor + at + rows, mask=inside, other=1) == 0)
    own = tl.maximum(tl.load(norms + at + rows, mask=inside, other=1.0), 1e-12)
    products += at * patches
    offsets = rows[:, None] * patches
    index = anchor_index + at
    # 2. The lowest cost and most similar anchor of every patch. Ties go to the lower index.
    best, best_at = tl.full((tile_rows,), float("-inf"), tl.float32), tl.zeros((tile_rows,), tl.int32)
    least = tl.full((tile_rows,), float("inf"), tl.float32)
    for first in range(0, anchors, tile_columns):
        columns = first + tl.arange(0, tile_columns)
        there = (columns < anchors)[None, :]
        similar, patch = _similarity(
            products + (offsets + columns[None, :]), norms + at, index, columns, anchors, inside, own
        )
        cost = _cost(similar, rows, patch, grid_rows, grid_cols, spatial)
        least = tl.minimum(least, tl.min(tl.where(there, cost, float("inf")), axis=1))
        similar = tl.where(there, similar, float("-inf"))
        highest = tl.max(similar, axis=1)
        here = first + tl.argmax(similar, axis=1, tie_break_left=True)
        best_at, best = tl.where(highest > best, here, best_at), tl.maximum(best, highest)
    # 3. Compute the costs from the products again, and store K in their place.
    row_sums = tl.zeros((tile_rows,), tl.float32)
    for first in range(0, anchors, tile_columns):
        columns = first + tl.arange(0, tile_columns)
        there = source[:, None] & (columns < anchors)[None, :]
        similar, patch = _similarity(
            products + (offsets + columns[None, :]), norms + at, index, columns, anchors, inside, own
        )
        cost = _cost(similar, rows, patch, grid_rows, grid_cols, spatial)
        gibbs = tl.where(there, tl.exp((least[:, None] - cost) / epsilon), 0.0)
        tl.store(products + (offsets + columns[None, :]), gibbs, mask=inside[:, None] & (columns < anchors)[None, :])
        row_sums += tl.sum(gibbs, axis=1)
    best_at = tl.minimum(best_at, anchors - 1)  # with NaN, the index may be too high
    # 4. Iteration 0: r from c = 1, and the change of the unshifted r from 1.
    weight = 1.0 / tl.maximum(patches - anchors, 1).to(tl.float32)
    shift = tl.exp(least / epsilon)
    row = tl.where(source, weight / tl.maximum(row_sums, tiny), 0.0)
    moved = tl.where(source, tl.abs(row - 1.0 / shift) * shift, 0.0)
    tl.store(rows_out + at + rows, row, mask=inside)
    tl.store(unshift + at + rows, shift, mask=inside)
    tl.store(change + frame * tiles + part, tl.sum(moved, axis=0))
    tl.store(nearest_at + at + rows, best_at, mask=inside)
    tl.atomic_add(nearest + at + best_at, source.to(tl.int32), mask=source)
    tl.debug_barrier()
    # 5. The column sums of this tile. `_column_scale` adds the sums of all tiles.
    for first in range(0, anchors, tile_columns):
        columns = first + tl.arange(0, tile_columns)
        there = inside[:, None] & (columns < anchors)[None, :]
        gibbs = tl.load(products + (offsets + columns[None, :]), mask=there, other=0.0)
        sums = partial + (frame * tiles + part) * patches + columns
        tl.store(sums, tl.sum(gibbs * row[:, None], axis=0), mask=columns < anchors)
