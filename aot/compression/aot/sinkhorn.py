"""Entropic optimal transport by Sinkhorn-Knopp scaling, batched, with per-problem stopping."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from aot.compression.ops.kernels import runs_triton
from aot.types import TransportPlan

__all__ = ["sinkhorn"]


_LOOKS = (3, 9, 29)  # the published rule fires after 2 to 9 iterations


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
    """Solve B transport problems: min <T, C> - epsilon H(T) with T 1 = row_weights, T' 1 = column_weights.

    r = row / (K c), c = column / (K' r), K = exp(-C / epsilon), T = diag(r) K diag(c) (Cuturi 2013).
    Rows and columns of zero weight are padding: they change nothing. The last update fixes the
    columns, so the columns of T are exact and its rows are as close as `marginal_error` says.

    Args:
        cost: [B, S, A], float32 or float64. Values at padded places are ignored.
        row_weights: [B, S]; column_weights: [B, A]; each sums to the mass of its problem.
        stopping: "published" ends a problem when mean |r - r_previous| < tolerance (r starts at 1;
            with weights of 1/S this fires after about two iterations, docs/algorithm.md, section 2); "marginal" ends
            it when the L1 error of the row sums is below tolerance.
        joint: the published rule averages over the rows of the whole batch, which then stops as one (Phase I).
        solver: "auto" takes the Triton kernel on CUDA devices, "torch" never does.
    """
    marginal = stopping == "marginal"
    if solver == "auto" and runs_triton(cost.device):
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
    if marginal:  # the last update may have done it
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
    """Plan [B, S, A], iterations [B] and whether the rule fired [B]."""
    valid_rows, valid_columns = row_weights > 0, column_weights > 0
    row_counts = valid_rows.sum(-1)
    tiny = torch.finfo(cost.dtype).tiny  # for an underflowed denominator; its mass shows up as marginal error
    padding = ~(valid_rows[:, :, None] & valid_columns[:, None, :])
    # Scaling a row of K is undone by its r, so shifting each row by its least cost prevents underflow.
    shift = cost.masked_fill(padding, torch.inf).amin(-1, keepdim=True).nan_to_num(posinf=0.0)
    kernel = torch.exp((shift - cost) / epsilon).masked_fill(padding, 0.0)
    unshift = torch.exp(shift.squeeze(-1) / epsilon)
    r = valid_rows.to(cost.dtype) / unshift
    c = valid_columns.to(cost.dtype)
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
            change = ((r_next - r).abs() * unshift).sum(-1)
            change, count = (change.sum(), row_counts.sum()) if joint else (change, row_counts)
            converged = converged | (change / count.clamp_min(1) < tolerance)
        r = torch.where(going[:, None], r_next, r)
        c = torch.where(going[:, None], c_next, c)
        iterations += going
        # Off the CPU reading the flag stalls the queue, so it is read seldom.
        if (cost.device.type == "cpu" or step in _LOOKS) and converged.all():
            break
    return r[:, :, None] * kernel * c[:, None, :], iterations, converged


def _multiply(matrices: Tensor, vectors: Tensor) -> Tensor:
    return (matrices @ vectors[..., None]).squeeze(-1)
