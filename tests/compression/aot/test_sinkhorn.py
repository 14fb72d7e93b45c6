from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from aot.compression.aot.sinkhorn import sinkhorn
from aot.types import TransportPlan
from tests.support import oracle
from tests.support.tolerances import assert_close

Array = oracle.Array

CONVERGED: dict[str, Any] = {"stopping": "marginal", "tolerance": 1e-12, "max_iterations": 5000, "epsilon": 0.5}
STOPPING = ["published", "marginal"]
LAW = settings(max_examples=25)
SHAPES = [(603, 126), (40, 13), (7, 5), (5, 7), (3, 1), (1, 4), (1, 1)]
RAGGED = [(40, 13), (3, 9), (17, 1), (1, 6), (1, 1)]


def costs_of(largest: float, sides: int = 6) -> st.SearchStrategy[Array]:
    shapes = st.tuples(st.integers(1, sides), st.integers(1, sides))
    return shapes.flatmap(lambda shape: arrays(np.float64, shape, elements=st.floats(0, largest)))


def solve(cost: Array, dtype: torch.dtype = torch.float64, **settings: Any) -> TransportPlan:
    """One problem with uniform weights."""
    return solve_all([cost], dtype=dtype, **settings)


def solve_all(
    costs: Sequence[Array], padding: float = 0.0, dtype: torch.dtype = torch.float64, **settings: Any
) -> TransportPlan:
    """All problems in one batch with uniform weights, padded to one shape with weight 0 and cost `padding`."""
    rows, columns = (max(cost.shape[axis] for cost in costs) for axis in (0, 1))
    batch = torch.full((len(costs), rows, columns), padding, dtype=dtype)
    row_weights, column_weights = (
        torch.zeros(len(costs), rows, dtype=dtype),
        torch.zeros(len(costs), columns, dtype=dtype),
    )
    for b, cost in enumerate(costs):
        s, a = cost.shape
        batch[b, :s, :a] = torch.from_numpy(cost).to(dtype)
        row_weights[b, :s], column_weights[b, :a] = 1 / s, 1 / a
    return sinkhorn(batch, row_weights, column_weights, **settings)


def real_parts(solved: TransportPlan, costs: Sequence[Array]) -> list[torch.Tensor]:
    return [plan[: cost.shape[0], : cost.shape[1]] for plan, cost in zip(solved.plan, costs, strict=True)]


def random_costs(shapes: Sequence[tuple[int, int]], seed: int = 0, largest: float = 2.0) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [rng.random(shape) * largest for shape in shapes]


# The published rule


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("epsilon", [0.1, 0.08])
def test_one_problem_is_the_oracles(shape: tuple[int, int], epsilon: float) -> None:
    costs = random_costs([shape])
    (expected,), iterations = oracle.sinkhorn(costs, epsilon)
    solved = solve(costs[0], epsilon=epsilon)
    assert solved.iterations.tolist() == [iterations]
    assert_close(solved.plan[0], expected, "float64")


@pytest.mark.parametrize("shape", SHAPES)
def test_float32_is_the_oracles(shape: tuple[int, int]) -> None:
    costs = random_costs([shape])
    (expected,), iterations = oracle.sinkhorn(costs)
    solved = solve(costs[0], dtype=torch.float32)
    assert solved.plan.dtype == torch.float32
    assert solved.iterations.tolist() == [iterations]
    assert_close(solved.plan[0], expected, "float32")


@pytest.mark.parametrize("shapes", [[(40, 13)] * 4, [(9, 4)] * 3, RAGGED, [(80, 2), (3, 3)]], ids=str)
def test_a_joint_batch_is_the_oracles(shapes: list[tuple[int, int]]) -> None:
    costs = random_costs(shapes)
    plans, iterations = oracle.sinkhorn(costs)
    solved = solve_all(costs, joint=True)
    assert solved.iterations.tolist() == [iterations] * len(costs)
    for plan, expected in zip(real_parts(solved, costs), plans, strict=True):
        assert_close(plan, expected, "float64")


@pytest.mark.parametrize("shapes", [[(40, 13)] * 4, RAGGED], ids=str)
def test_a_batch_is_the_oracles_one_by_one(shapes: list[tuple[int, int]]) -> None:
    costs = random_costs(shapes)
    alone = [oracle.sinkhorn([cost]) for cost in costs]
    solved = solve_all(costs)
    assert solved.iterations.tolist() == [iterations for _, iterations in alone]
    assert len(set(solved.iterations.tolist())) > 1
    for plan, ((expected,), _) in zip(real_parts(solved, costs), alone, strict=True):
        assert_close(plan, expected, "float64")


def test_the_last_iteration_is_the_limit() -> None:
    costs = random_costs([(5, 6)])
    (expected,), iterations = oracle.sinkhorn(costs, max_iterations=3, tolerance=1e-9)
    solved = solve(costs[0], max_iterations=3, tolerance=1e-9)
    assert (iterations, solved.iterations.tolist(), solved.converged.tolist()) == (3, [3], [False])
    assert_close(solved.plan[0], expected, "float64")


def test_a_source_opposite_to_all_anchors() -> None:
    cost = np.vstack([random_costs([(6, 4)], largest=1.0)[0], np.full((2, 4), 2.7)])
    (expected,), iterations = oracle.sinkhorn([cost])
    solved = solve(cost)
    assert solved.iterations.tolist() == [iterations]
    assert_close(solved.plan[0], expected, "float64")
    # r is about 1e11 there: a float32 r stands still long before it changes by less than 0.01.
    assert_close(solve(cost, dtype=torch.float32).plan[0], expected, "float32")


@pytest.mark.parametrize("shape", [(1, 20), (12, 9)])
def test_float64_has_room_for_a_small_epsilon(shape: tuple[int, int]) -> None:
    """exp(-C / epsilon) goes down to 1e-87 here, which float64 holds and float32 does not."""
    (cost,) = random_costs([shape])
    (expected,), _ = oracle.sinkhorn([cost], epsilon=0.01, max_iterations=50, tolerance=0.0)
    assert_close(solve(cost, epsilon=0.01, max_iterations=50, tolerance=1e-300).plan[0], expected, "float64")


# Laws


@LAW
@given(costs_of(2.7), st.sampled_from(STOPPING), st.booleans())
def test_columns_are_exact_and_nothing_is_negative(cost: Array, stopping: str, joint: bool) -> None:
    plan = solve(cost, stopping=stopping, joint=joint).plan[0]
    columns = cost.shape[1]
    assert (plan >= 0).all()
    assert_close(plan.sum(0), np.full(columns, 1 / columns), "float64")
    assert_close(plan.sum(), 1.0, "float64")


@LAW
@given(costs_of(2.7), st.sampled_from([1e-2, 1e-5]))
def test_rows_are_within_tolerance_once_converged(cost: Array, tolerance: float) -> None:
    solved = solve(cost, stopping="marginal", tolerance=tolerance, max_iterations=300)
    error = (solved.plan[0].sum(1) - 1 / cost.shape[0]).abs().sum().item()
    assert solved.marginal_error.item() == pytest.approx(error, abs=1e-12)
    assert solved.converged.item() == (error < tolerance)
    assert solved.converged.item() or solved.iterations.item() == 300


def test_marginal_stopping_is_the_first_iteration_within_tolerance() -> None:
    cost = random_costs([(30, 9)])[0]
    errors = [
        np.abs(oracle.sinkhorn([cost], max_iterations=k, tolerance=0.0)[0][0].sum(1) - 1 / 30).sum()
        for k in range(1, 40)
    ]
    first = next(k for k, error in enumerate(errors, start=1) if error < 1e-3)
    solved = solve(cost, stopping="marginal", tolerance=1e-3)
    assert first > 2
    assert solved.iterations.tolist() == [first]
    assert solved.marginal_error.item() == pytest.approx(errors[first - 1])


def test_a_flat_problem_is_solved_at_once() -> None:
    solved = solve(np.full((4, 3), 0.7), stopping="marginal", tolerance=1e-6)
    assert (solved.iterations.tolist(), solved.converged.tolist()) == ([1], [True])
    assert_close(solved.plan, np.full((1, 4, 3), 1 / 12), "float64")


@LAW
@given(costs_of(2.0), st.sampled_from(STOPPING), st.randoms(use_true_random=False))
def test_permuting_rows_and_columns_permutes_the_plan(cost: Array, stopping: str, random: Any) -> None:
    rows, columns = (random.sample(range(size), size) for size in cost.shape)
    plan, permuted = solve(cost, stopping=stopping), solve(cost[rows][:, columns], stopping=stopping)
    assert_close(permuted.plan[0], plan.plan[0][rows][:, columns], "converged")


@pytest.mark.parametrize("largest", [3.0, 1e6])
@pytest.mark.parametrize("stopping", STOPPING)
@LAW
@given(costs_of(2.0), st.integers(0, 3), st.integers(0, 3), st.floats(-1, 1))
def test_padding_changes_nothing(
    stopping: str, largest: float, cost: Array, rows: int, columns: int, padding: float
) -> None:
    # A second problem, larger by `rows` and `columns`, makes the padding of the first.
    other = np.zeros((cost.shape[0] + rows, cost.shape[1] + columns))
    alone = solve(cost, stopping=stopping)
    padded = solve_all([cost, other], padding=padding * largest, stopping=stopping)
    assert padded.iterations[0] == alone.iterations[0]
    assert padded.converged[0] == alone.converged[0]
    assert_close(padded.marginal_error[0], alone.marginal_error[0], "float64")
    assert_close(padded.plan[0, : cost.shape[0], : cost.shape[1]], alone.plan[0], "float64")
    assert padded.plan[0, cost.shape[0] :].eq(0).all()
    assert padded.plan[0, :, cost.shape[1] :].eq(0).all()


@LAW
@given(st.lists(costs_of(2.0, sides=6), min_size=2, max_size=4), st.sampled_from(STOPPING))
def test_each_problem_of_a_batch_stops_on_its_own(costs: list[Array], stopping: str) -> None:
    together = solve_all(costs, stopping=stopping)
    for b, (cost, plan) in enumerate(zip(costs, real_parts(together, costs), strict=True)):
        alone = solve(cost, stopping=stopping)
        assert together.iterations[b] == alone.iterations[0]
        assert together.converged[b] == alone.converged[0]
        assert_close(together.marginal_error[b], alone.marginal_error[0], "float64")
        assert_close(plan, alone.plan[0], "float64")


def test_a_problem_without_rows_is_done_and_disturbs_nothing() -> None:
    cost = torch.from_numpy(np.stack(random_costs([(5, 4)] * 2)))
    row_weights = torch.stack([torch.full((5,), 0.2), torch.zeros(5)]).double()
    column_weights = torch.full((2, 4), 0.25).double()
    solved = sinkhorn(cost, row_weights, column_weights)
    assert_close(solved.plan[0], solve(cost[0].numpy()).plan[0], "float64")
    assert solved.iterations[1] == 0
    assert solved.plan[1].eq(0).all()


@LAW
@given(costs_of(1.0), st.integers(0, 5), st.floats(-0.5, 2.0))
def test_a_constant_added_to_a_row_leaves_a_converged_plan(cost: Array, row: int, constant: float) -> None:
    raised = cost.copy()
    raised[row % len(cost)] += constant
    before, after = solve(cost, **CONVERGED), solve(raised, **CONVERGED)
    assert before.converged.all()
    assert after.converged.all()
    assert_close(after.plan, before.plan, "converged")


@LAW
@given(costs_of(1.0))
def test_a_converged_plan_is_entropically_optimal(cost: Array) -> None:
    """The one plan with these marginals for which log T + C / epsilon is f_i + g_j."""
    solved = solve(cost, **CONVERGED)
    potential = solved.plan[0].log() + torch.from_numpy(cost) / CONVERGED["epsilon"]
    residue = potential - potential[:1] - potential[:, :1] + potential[0, 0]
    assert solved.converged.all()
    assert_close(solved.plan[0].sum(1), np.full(len(cost), 1 / len(cost)), "converged")
    assert_close(residue, np.zeros_like(cost), "converged")


def test_weights_need_not_be_uniform() -> None:
    cost = torch.from_numpy(random_costs([(4, 3)], largest=1.0)[0])[None]
    rows, columns = torch.tensor([[1.0, 2, 3, 4]]).double(), torch.tensor([[5.0, 1, 4]]).double()
    solved = sinkhorn(cost, rows, columns, **CONVERGED)
    assert solved.converged.all()
    assert_close(solved.plan.sum(2), rows, "converged")
    assert_close(solved.plan.sum(1), columns, "converged")


@LAW
@given(costs_of(2.7), st.sampled_from(STOPPING), st.sampled_from([torch.float64, torch.float32]))
def test_a_small_epsilon_gives_numbers_and_the_truth_about_them(cost: Array, stopping: str, dtype: torch.dtype) -> None:
    solved = solve(cost, dtype=dtype, epsilon=0.005, stopping=stopping)
    assert solved.plan.isfinite().all()
    assert (solved.plan >= 0).all()
    assert solved.marginal_error.isfinite().all()
    assert solved.converged.item() or solved.iterations.item() == 100
    if stopping == "marginal" and solved.converged:
        assert solved.marginal_error.item() < 2e-2


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_an_anchor_out_of_reach_is_said_to_be(dtype: torch.dtype) -> None:
    cost = np.array([[0.0, 2.7], [0.0, 2.7]])
    solved = solve(cost, dtype=dtype, epsilon=0.0015, stopping="marginal")
    assert solved.plan.isfinite().all()
    assert not solved.converged
    assert solved.marginal_error.item() > 0.1
