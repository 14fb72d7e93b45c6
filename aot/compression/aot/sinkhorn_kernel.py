"""Sinkhorn in Triton: one program per problem runs all its iterations, so a solve is two launches and no sync.

The twin of the torch version in `sinkhorn`. Where problems stop together, both vectors of every iteration are
kept (they are small), so that the iteration can be chosen afterwards.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import triton
import triton.language as tl
from torch import Tensor

from aot.compression.ops.kernels import on_device

__all__ = ["plan_kernel", "scaling_kernel", "solve"]

_FIRST_LOOK = 10  # joint batches go on beyond only if they must; the published rule fires after 2 to 9 iterations
_TILE_BYTES = 32768  # of the kernel matrix held at a time


def solve(
    cost: Tensor,
    row_weights: Tensor,
    column_weights: Tensor,
    *,
    epsilon: float,
    max_iterations: int,
    tolerance: float,
    marginal: bool,
    joint: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Plan [B, S, A], iterations [B] and whether the rule fired [B]; see `aot.compression.aot.sinkhorn.sinkhorn`."""
    slots = max_iterations + 1 if joint else 2
    cost, row_weights, column_weights = cost.contiguous(), row_weights.contiguous(), column_weights.contiguous()
    batch, sources, anchors = cost.shape
    columns = max(16, triton.next_power_of_2(anchors))
    tile = {"tile_rows": max(1, _TILE_BYTES // cost.dtype.itemsize // columns), "tile_columns": columns}
    row_counts = (row_weights > 0).sum(-1)
    counts = (row_counts.sum().expand(batch) if joint else row_counts).clamp_min(1).to(cost.dtype)
    plan, unshift = torch.empty_like(cost), torch.empty_like(row_weights)
    r_history = cost.new_empty(slots, batch, sources)
    c_history = cost.new_empty(slots, batch, anchors)
    criterion = cost.new_full((max_iterations, batch), torch.inf)
    stopped = torch.zeros((), dtype=torch.bool, device=cost.device)

    def fired() -> Tensor:
        """Bool [max_iterations, B]: whether the rule is met at each iteration."""
        return (criterion.sum(1, keepdim=True).expand_as(criterion) if joint else criterion) < tolerance

    bounds = [0, *([_FIRST_LOOK] if joint and max_iterations > _FIRST_LOOK else []), max_iterations]
    with on_device(cost.device):
        for first, last in pairwise(bounds):
            if first:
                stopped = fired().any()
            scaling_kernel[(batch,)](
                cost, row_weights, column_weights, counts,
                plan, unshift, r_history, c_history, criterion, stopped,
                batch, sources, anchors, slots, first, last,
                epsilon=epsilon, tolerance=tolerance, smallest=torch.finfo(cost.dtype).tiny,
                marginal=marginal, joint=joint, **tile, num_warps=8,
            )  # fmt: skip
        met = fired() & (row_counts > 0)
        converged = met.any(0)
        # The published rule looks behind an iteration, the marginal one ahead of it.
        at = met.to(torch.uint8).argmax(0) + (not marginal)
        iterations = torch.where(converged, at, max_iterations * (row_counts > 0)).to(torch.int32)
        plan_kernel[(batch, triton.cdiv(sources, tile["tile_rows"]))](
            plan, r_history, c_history, iterations, batch, sources, anchors, slots, **tile
        )
    return plan, iterations, converged | (row_counts == 0)


# Sizes change from segment to segment; a kernel of its own for each would be compiled while the user waits.
@triton.jit(do_not_specialize=["batch", "sources", "anchors", "slots", "first", "last"])
def scaling_kernel(
    cost, row_weights, column_weights, counts,
    kernel, unshift, r_history, c_history, criterion, stopped,
    batch, sources, anchors, slots, first, last,
    epsilon: tl.constexpr, tolerance: tl.constexpr, smallest: tl.constexpr,
    marginal: tl.constexpr, joint: tl.constexpr, tile_rows: tl.constexpr, tile_columns: tl.constexpr,
):  # fmt: skip
    """Iterations `first` to `last` of one problem; from 0 it makes the kernel matrix too. Every iteration reads the
    matrix once, for the rows and, with their new scaling, for the columns.
    """
    problem = tl.program_id(0).to(tl.int64)  # so are all places made of it
    if tl.load(stopped):
        return
    dtype: tl.constexpr = cost.dtype.element_ty
    tiny = tl.full((), smallest, dtype)
    columns = tl.arange(0, tile_columns)
    in_columns = columns < anchors
    column_weight = tl.load(column_weights + problem * anchors + columns, mask=in_columns, other=0.0)
    matrix, rows_at = problem * sources * anchors, problem * sources
    if first == 0:
        for start in range(0, sources, tile_rows):
            rows = start + tl.arange(0, tile_rows)
            in_rows = rows < sources
            used = tl.load(row_weights + rows_at + rows, mask=in_rows, other=0.0) > 0
            pairs = used[:, None] & (column_weight > 0)[None, :]
            places = matrix + rows[:, None] * anchors + columns[None, :]
            values = tl.load(cost + places, mask=pairs, other=float("inf"))
            least = tl.min(values, axis=1)
            least = tl.where(least < float("inf"), least, 0.0)
            gibbs = tl.where(pairs, tl.exp((least[:, None] - values) / tl.full((), epsilon, dtype)), 0.0)
            tl.store(kernel + places, gibbs, mask=in_rows[:, None] & in_columns[None, :])
            scale = tl.exp(least / tl.full((), epsilon, dtype))
            tl.store(unshift + rows_at + rows, scale, mask=in_rows)
            tl.store(r_history + rows_at + rows, tl.where(used, 1.0 / scale, 0.0), mask=in_rows)
        tl.store(c_history + problem * anchors + columns, tl.where(column_weight > 0, 1.0, 0.0), mask=in_columns)
        tl.debug_barrier()
    c = tl.load(c_history + (first % slots * batch + problem) * anchors + columns, mask=in_columns, other=0.0)
    count = tl.load(counts + problem)
    step = first
    going = True
    while going & (step < last):
        r_now = r_history + (step % slots * batch + problem) * sources
        r_then = r_history + ((step + 1) % slots * batch + problem) * sources
        column_sums = tl.zeros((tile_columns,), dtype)
        change = tl.zeros((tile_rows,), dtype)
        for start in range(0, sources, tile_rows):
            rows = start + tl.arange(0, tile_rows)
            in_rows = rows < sources
            places = matrix + rows[:, None] * anchors + columns[None, :]
            gibbs = tl.load(kernel + places, mask=in_rows[:, None] & in_columns[None, :], other=0.0)
            weight = tl.load(row_weights + rows_at + rows, mask=in_rows, other=0.0)
            r = tl.load(r_now + rows, mask=in_rows, other=0.0)
            row_sums = tl.sum(gibbs * c[None, :], axis=1)
            r_next = weight / tl.maximum(row_sums, tiny, propagate_nan=tl.PropagateNan.ALL)
            tl.store(r_then + rows, r_next, mask=in_rows)
            if marginal:
                change += tl.abs(r * row_sums - weight)
            else:
                change += tl.abs(r_next - r) * tl.load(unshift + rows_at + rows, mask=in_rows, other=0.0)
            column_sums += tl.sum(gibbs * r_next[:, None], axis=0)
        c = column_weight / tl.maximum(column_sums, tiny, propagate_nan=tl.PropagateNan.ALL)
        tl.store(c_history + ((step + 1) % slots * batch + problem) * anchors + columns, c, mask=in_columns)
        measure = tl.sum(change, axis=0)
        if not marginal:
            measure = measure / count
        if marginal and step == 0:  # the starting vectors obey no marginal worth asking for
            measure = tl.full((), float("inf"), dtype)
        tl.store(criterion + step * batch + problem, measure)
        if not joint:
            going = (measure < tl.full((), tolerance, dtype)) == 0  # so not-a-number goes on
        tl.debug_barrier()
        step += 1


@triton.jit(do_not_specialize=["batch", "sources", "anchors", "slots"])
def plan_kernel(
    kernel,
    r_history,
    c_history,
    iterations,
    batch,
    sources,
    anchors,
    slots,
    tile_rows: tl.constexpr,
    tile_columns: tl.constexpr,
):
    """diag(r) K diag(c) in place of K, with the vectors of each problem's last iteration."""
    problem = tl.program_id(0).to(tl.int64)
    state = tl.load(iterations + problem) % slots * batch + problem
    rows = tl.program_id(1) * tile_rows + tl.arange(0, tile_rows)
    columns = tl.arange(0, tile_columns)
    inside = (rows < sources)[:, None] & (columns < anchors)[None, :]
    places = kernel + problem * sources * anchors + rows[:, None] * anchors + columns[None, :]
    r = tl.load(r_history + state * sources + rows, mask=rows < sources, other=0.0)
    c = tl.load(c_history + state * anchors + columns, mask=columns < anchors, other=0.0)
    tl.store(places, r[:, None] * tl.load(places, mask=inside, other=0.0) * c[None, :], mask=inside)
