"""Solve batches of entropic optimal transport problems by Sinkhorn-Knopp scaling."""

from __future__ import annotations

from typing import Literal, TypedDict

import torch
from torch import Tensor

from aot.compression.ops.kernels import needs_grad, runs_triton
from aot.types import TransportPlan

__all__ = ["SinkhornSettings", "sinkhorn"]

_CHECKED_STEPS = (3, 9, 29)  # steps that read the flag; the published rule needs 2 to 9 iterations


class SinkhornSettings(TypedDict, total=False):
    """Hold the arguments of `sinkhorn` that are settings of both phases."""

    epsilon: float
    max_iterations: int
    tolerance: float
    stopping: Literal["published", "marginal"]
    solver: Literal["auto", "torch"]


def sinkhorn(
    cost: Tensor,
    row_weights: Tensor,
    column_weights: Tensor,
    *,
    epsilon: float = 0.1,
    max_iterations: int = 100,
    tolerance: float = 1e-2,
    stopping: Literal["published", "marginal"] = "published",
    joint: bool = False,
    solver: Literal["auto", "torch"] = "auto",
) -> TransportPlan:
    """Minimize <T, C> - epsilon H(T) over plans T with fixed row and column sums (Cuturi 2013).

        K = exp(-C / epsilon);  r = c = 1
        repeat:  r = row / (K c);  c = column / (K' r)
        T = diag(r) K diag(c)

    Rows and columns of weight 0 are padding and have no effect. The columns are updated last, so
    the column sums of T are exact; `TransportPlan.row_error` is the error of the row sums.
    Gradients pass through all iterations that were run.

    Args:
        cost: C, [B, S, A], float32 or float64; values of padding are ignored.
        row_weights: [B, S], the row sums.
        column_weights: [B, A], the column sums, with the same total as the row sums of the problem.
        epsilon: the weight of the entropy H.
        max_iterations: the largest number of iterations.
        tolerance: the threshold of the stopping rule; with 0, all iterations run.
        stopping: "published" ends a problem if the mean of |r - r_previous| over the rows is below
            `tolerance`; if row weights are 1/S, this takes about 2 iterations (docs/algorithm.md,
            section 2). "marginal" ends it if the L1 error of the row sums is below `tolerance`.
        joint: whether the published rule averages over the rows of all problems, which then end
            together (Phase I).
        solver: "auto" uses the Triton kernel on CUDA devices if possible; "torch" never does, and
            neither does "auto" if a gradient is needed.
    """
    marginal = stopping == "marginal"
    if solver == "auto" and runs_triton(cost.device) and not needs_grad(cost, row_weights, column_weights):
        from aot.compression.aot.sinkhorn_kernel import solve
    else:
        solve = _solve
    plan, iterations, converged = solve(
        cost,
        row_weights,
        column_weights,
        epsilon=epsilon,
        max_iterations=max_iterations,
        tolerance=tolerance,
        marginal=marginal,
        joint=joint and not marginal,
    )
    solved = TransportPlan(plan, row_weights, column_weights, iterations, converged)
    if marginal:
        # The loop checks the rule before each update; check it here after the last update.
        converged |= solved.row_error < tolerance
    return solved


def _solve(
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
    """Return plans [B, S, A], numbers of iterations [B], and whether the rule was met, bool [B]."""
    # 1. The kernel matrix K.
    valid_rows, valid_columns = row_weights > 0, column_weights > 0
    row_counts = valid_rows.sum(-1)
    # The lower bound of denominators; after underflow, the lost mass shows as marginal error.
    tiny = torch.finfo(cost.dtype).tiny
    padding = ~(valid_rows[:, :, None] & valid_columns[:, None, :])
    # Shift each row of C by its lowest cost against underflow; the factor in K cancels with r, so
    # its gradient is 0.
    shift = cost.detach().masked_fill(padding, torch.inf).amin(-1, keepdim=True).nan_to_num(posinf=0.0)
    kernel = torch.exp((shift - cost) / epsilon).masked_fill(padding, 0.0)
    unshift = torch.exp(shift.squeeze(-1) / epsilon)
    # Before the first iteration, c and the r of the unshifted K are 1; 0 for padding.
    r = valid_rows.to(cost.dtype) / unshift
    c = valid_columns.to(cost.dtype)
    # 2. Iterate. Problems that have converged keep their r and c.
    iterations = torch.zeros(cost.shape[0], dtype=torch.int32, device=cost.device)
    converged = row_counts == 0
    for step in range(max_iterations):
        row_sums = _multiply(kernel, c)
        if marginal and step > 0:
            converged |= (r * row_sums - row_weights).abs().sum(-1) < tolerance
        r_next = row_weights / row_sums.clamp_min(tiny)
        c_next = column_weights / _multiply(kernel.mT, r_next).clamp_min(tiny)
        going = ~converged
        if not marginal:
            # The rule applies to the r of the unshifted K.
            change = ((r_next - r).abs() * unshift).sum(-1)
            change, count = (change.sum(), row_counts.sum()) if joint else (change, row_counts)
            converged = converged | (change / count.clamp_min(1) < tolerance)
        r = torch.where(going[:, None], r_next, r)
        c = torch.where(going[:, None], c_next, c)
        iterations += going
        # Reading the flag from a device makes the host wait, so it is read at few steps only.
        if tolerance > 0 and (cost.device.type == "cpu" or step in _CHECKED_STEPS) and converged.all():
            break
    # 3. The plan T.
    return r[:, :, None] * kernel * c[:, None, :], iterations, converged


def _multiply(matrices: Tensor, vectors: Tensor) -> Tensor:
    """Return the products [B, S] of matrices [B, S, A] and vectors [B, A]."""
    return (matrices @ vectors[..., None]).squeeze(-1)
