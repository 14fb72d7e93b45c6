"""Solve entropic optimal transport in Triton, as `sinkhorn` does in torch.

One program runs all iterations of a problem, so a batch takes a few launches and the host never
waits. If all problems must end at the same iteration, r and c of every iteration are stored,
because the iteration at which they end is known only afterwards.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import triton
import triton.language as tl
from torch import Tensor

from aot.compression.ops.kernels import on_device

__all__ = ["plan_kernel", "scaling_kernel", "solve"]

# Iterations in the first launch of a joint batch; the published rule usually needs 2 to 9.
_FIRST_ITERATIONS = 10
_TILE_BYTES = 32768  # part of the kernel matrix that a program holds in registers


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
    """Return plans [B, S, A], numbers of iterations [B], and whether the rule was met, bool [B].

    For the arguments, see `aot.compression.aot.sinkhorn.sinkhorn`.
    """
    # Store the state (r, c) of every iteration for a joint batch, else of the last two.
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

    def rule_met() -> Tensor:
        """Return whether the stopping rule is met at each iteration, bool [max_iterations, B]."""
        return (criterion.sum(1, keepdim=True).expand_as(criterion) if joint else criterion) < tolerance

    # 1. Run all iterations in one launch, or in two for a joint batch.
    bounds = [0, *([_FIRST_ITERATIONS] if joint and max_iterations > _FIRST_ITERATIONS else []), max_iterations]
    with on_device(cost.device):
        for first, last in pairwise(bounds):
            if first:
                stopped = rule_met().any()
            scaling_kernel[(batch,)](
                cost, row_weights, column_weights, counts,
                plan, unshift, r_history, c_history, criterion, stopped,
                batch, sources, anchors, slots, first, last,
                epsilon=epsilon, tolerance=tolerance, smallest=torch.finfo(cost.dtype).tiny,
                marginal=marginal, joint=joint, **tile, num_warps=8,
            )  # fmt: skip
        # 2. Find the iteration at which each problem ends.
        met = rule_met() & (row_counts > 0)
        converged = met.any(0)
        # The published rule is checked after an iteration, the marginal rule before an iteration.
        at = met.to(torch.uint8).argmax(0) + (not marginal)
        iterations = torch.where(converged, at, max_iterations * (row_counts > 0)).to(torch.int32)
        # 3. Compute the plan T.
        plan_kernel[(batch, triton.cdiv(sources, tile["tile_rows"]))](
            plan, r_history, c_history, iterations, batch, sources, anchors, slots, **tile
        )
    return plan, iterations, converged | (row_counts == 0)


# Sizes differ between chunks of a video; without this, Triton would compile a kernel for each size.
@triton.jit(do_not_specialize=["batch", "sources", "anchors", "slots", "first", "last"])
def scaling_kernel(
    cost, row_weights, column_weights, counts,
    kernel, unshift, r_history, c_history, criterion, stopped,
    batch, sources, anchors, slots, first, last,
    epsilon: tl.constexpr, tolerance: tl.constexpr, smallest: tl.constexpr,
    marginal: tl.constexpr, joint: tl.constexpr, tile_rows: tl.constexpr, tile_columns: tl.constexpr,
):  # fmt: skip
    """Run iterations `first` to `last` - 1 of one problem; if `first` is 0, compute K before.

    An iteration reads each tile of K once: row sums give the new r, which gives column sums.
    """
    problem = tl.program_id(0).to(tl.int64)  # makes all offsets int64
    if tl.load(stopped):
        return
    dtype: tl.constexpr = cost.dtype.element_ty
    tiny = tl.full((), smallest, dtype)
    columns = tl.arange(0, tile_columns)
    in_columns = columns < anchors
    column_weight = tl.load(column_weights + problem * anchors + columns, mask=in_columns, other=0.0)
    matrix, rows_at = problem * sources * anchors, problem * sources
    if first == 0:
        # 1. K, with each row of C shifted by its lowest cost, and the state before iteration 0.
        for start in range(0, sources, tile_rows):
            rows = start + tl.arange(0, tile_rows)
            in_rows = rows < sources
            used = tl.load(row_weights + rows_at + rows, mask=in_rows, other=0.0) > 0
            pairs = used[:, None] & (column_weight > 0)[None, :]
            offsets = matrix + rows[:, None] * anchors + columns[None, :]
            values = tl.load(cost + offsets, mask=pairs, other=float("inf"))
            least = tl.min(values, axis=1)
            least = tl.where(least < float("inf"), least, 0.0)
            gibbs = tl.where(pairs, tl.exp((least[:, None] - values) / tl.full((), epsilon, dtype)), 0.0)
            tl.store(kernel + offsets, gibbs, mask=in_rows[:, None] & in_columns[None, :])
            scale = tl.exp(least / tl.full((), epsilon, dtype))
            tl.store(unshift + rows_at + rows, scale, mask=in_rows)
            tl.store(r_history + rows_at + rows, tl.where(used, 1.0 / scale, 0.0), mask=in_rows)
        tl.store(c_history + problem * anchors + columns, tl.where(column_weight > 0, 1.0, 0.0), mask=in_columns)
        tl.debug_barrier()
    # 2. The state before iteration `first`, from above or from an earlier launch.
    c = tl.load(c_history + (first % slots * batch + problem) * anchors + columns, mask=in_columns, other=0.0)
    count = tl.load(counts + problem)
    step = first
    going = True
    while going & (step < last):
        # 3. r = row / (K c), and K' r with the new r.
        r_now = r_history + (step % slots * batch + problem) * sources
        r_then = r_history + ((step + 1) % slots * batch + problem) * sources
        column_sums = tl.zeros((tile_columns,), dtype)
        change = tl.zeros((tile_rows,), dtype)
        for start in range(0, sources, tile_rows):
            rows = start + tl.arange(0, tile_rows)
            in_rows = rows < sources
            offsets = matrix + rows[:, None] * anchors + columns[None, :]
            gibbs = tl.load(kernel + offsets, mask=in_rows[:, None] & in_columns[None, :], other=0.0)
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
        # 4. c = column / (K' r).
        c = column_weight / tl.maximum(column_sums, tiny, propagate_nan=tl.PropagateNan.ALL)
        tl.store(c_history + ((step + 1) % slots * batch + problem) * anchors + columns, c, mask=in_columns)
        # 5. The stopping rule.
        measure = tl.sum(change, axis=0)
        if not marginal:
            measure = measure / count
        if marginal and step == 0:  # c = 1 does not give the column sums
            measure = tl.full((), float("inf"), dtype)
        tl.store(criterion + step * batch + problem, measure)
        if not joint:
            going = (measure < tl.full((), tolerance, dtype)) == 0  # NaN does not end a problem
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
    """Replace K by T = diag(r) K diag(c), where r and c are of the problem's last iteration."""
    problem = tl.program_id(0).to(tl.int64)
    state = tl.load(iterations + problem) % slots * batch + problem
    rows = tl.program_id(1) * tile_rows + tl.arange(0, tile_rows)
    columns = tl.arange(0, tile_columns)
    inside = (rows < sources)[:, None] & (columns < anchors)[None, :]
    entries = kernel + problem * sources * anchors + rows[:, None] * anchors + columns[None, :]
    r = tl.load(r_history + state * sources + rows, mask=rows < sources, other=0.0)
    c = tl.load(c_history + state * anchors + columns, mask=columns < anchors, other=0.0)
    tl.store(entries, r[:, None] * tl.load(entries, mask=inside, other=0.0) * c[None, :], mask=inside)
