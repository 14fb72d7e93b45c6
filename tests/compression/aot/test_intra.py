from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aot.compression.aot.intra_frame import transport_within_frames
from aot.compression.ops.products import weighted_sums
from aot.types import TransportPlan
from tests.support import oracle
from tests.support.tolerances import assert_close

Array = oracle.Array
Grid = tuple[int, int]


def frames_of(grid: Grid, frames: int = 3, width: int = 6, seed: int = 0) -> Array:
    """Random features [F, N, D], all of them similar enough that anchors compete."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(frames, grid[0] * grid[1], width)) + rng.normal(size=width)


def anchors_of(grid: Grid, count: int, frames: int = 3, seed: int = 0) -> torch.Tensor:
    """`count` random anchors in each frame: bool [F, N]."""
    rng = np.random.default_rng(seed)
    order = rng.permuted(np.tile(np.arange(grid[0] * grid[1]), (frames, 1)), axis=1)
    return torch.from_numpy(order < count)


def indices(anchors: torch.Tensor) -> list[list[int]]:
    return [mask.nonzero().flatten().tolist() for mask in anchors]


def transport(features: Array, anchors: torch.Tensor, grid: Grid, **settings: Any) -> torch.Tensor:
    return moved_features(torch.from_numpy(features), anchors, grid, **settings)[0]


def moved_features(
    features: torch.Tensor, anchors: torch.Tensor, grid: Grid, **settings: Any
) -> tuple[torch.Tensor, TransportPlan]:
    """All features with the anchors replaced: pooling that leaves every patch alone."""
    moved = transport_within_frames(features, anchors, int(anchors[0].sum()), grid, **settings)
    assert moved is not None
    alone = torch.eye(features.shape[1], dtype=moved.mixing.dtype).expand(len(features), -1, -1)
    return weighted_sums(moved.weights(alone), features), moved.plan


@pytest.mark.parametrize("mass", ["plan", "token"])
@pytest.mark.parametrize("nearest_blend", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("spatial_weight", [0.0, 0.5])
@pytest.mark.parametrize("lambda_intra", [0.0, 0.7, 1.0])
def test_every_setting_is_the_oracles(
    mass: Any, nearest_blend: float, spatial_weight: float, lambda_intra: float
) -> None:
    grid = (6, 8)
    features, anchors = frames_of(grid), anchors_of(grid, 11)
    chosen = {
        "mass": mass,
        "nearest_blend": nearest_blend,
        "spatial_weight": spatial_weight,
        "lambda_intra": lambda_intra,
    }
    expected, _ = oracle.intra(features, indices(anchors), grid, **chosen)
    assert_close(transport(features, anchors, grid, **chosen), expected, "float64")


@pytest.mark.parametrize("grid", [(14, 9), (5, 5), (1, 7), (4, 1), (1, 2)])
@pytest.mark.parametrize("epsilon", [0.1, 0.08])
def test_every_grid_is_the_oracles(grid: Grid, epsilon: float) -> None:
    patches = grid[0] * grid[1]
    for count in {1, patches // 3, patches - 1} - {0}:
        features, anchors = frames_of(grid, frames=2), anchors_of(grid, count, frames=2)
        expected, iterations = oracle.intra(features, indices(anchors), grid, epsilon=epsilon)
        got, plan = moved_features(torch.from_numpy(features), anchors, grid, epsilon=epsilon)
        assert plan.plan.shape == (2, patches, count)
        assert not plan.plan[anchors].any()
        assert plan.iterations.tolist() == [iterations] * 2  # the frames stop as one
        assert_close(got, expected, "float64")


@pytest.mark.parametrize("row", oracle.GOLDEN, ids=lambda row: f"M{row.count}")
def test_golden_frames(row: oracle.Golden) -> None:
    shallow, deep, u = oracle.golden_input()
    chosen = [oracle.select_anchors(shallow[t], deep[t], oracle.GOLDEN_GRID, row.count) for t in range(4)]
    anchors = torch.zeros(4, 729, dtype=torch.bool)
    for t, of_frame in enumerate(chosen):
        anchors[t, of_frame] = True
    moved, plan = moved_features(torch.from_numpy(u), anchors, oracle.GOLDEN_GRID)
    assert plan.iterations.tolist() == [row.intra_iterations] * 4
    assert moved.sum().item() == pytest.approx(row.intra_sum, abs=1e-5, rel=0)
    assert moved[0, row.lowest_anchor, :4].tolist() == pytest.approx(row.lowest_anchor_after_intra, abs=1e-6, rel=0)


@pytest.mark.parametrize(("dtype", "name"), [(torch.float32, "float32"), (torch.bfloat16, "bfloat16")])
def test_lower_precision(dtype: torch.dtype, name: str) -> None:
    grid = (9, 9)
    features, anchors = torch.from_numpy(frames_of(grid)).to(dtype), anchors_of(grid, 20)
    expected, _ = oracle.intra(features.double().numpy(), indices(anchors), grid)
    moved, plan = moved_features(features, anchors, grid)
    assert (moved.dtype, plan.plan.dtype) == (torch.float32, torch.float32)
    assert_close(moved, expected, name)


def test_marginal_stopping_meets_the_rows() -> None:
    grid = (6, 6)
    anchors = anchors_of(grid, 9)
    _, plan = moved_features(
        torch.from_numpy(frames_of(grid)),
        anchors,
        grid,
        stopping="marginal",
        tolerance=1e-4,
        max_iterations=1000,
    )
    assert plan.converged.all()
    assert ((plan.plan.sum(2) - ~anchors / 27).abs().sum(1) < 1e-4).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lambda_0_leaves_everything_alone(dtype: torch.dtype) -> None:
    grid = (5, 5)
    features = torch.from_numpy(frames_of(grid)).to(dtype)
    moved, _ = moved_features(features, anchors_of(grid, 7), grid, lambda_intra=0.0, nearest_blend=0.0, mass="token")
    assert torch.equal(moved, features)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_unselected_patches_stay_to_the_bit_and_the_input_whole(dtype: torch.dtype) -> None:
    grid = (6, 5)
    features, anchors = torch.from_numpy(frames_of(grid)).to(dtype), anchors_of(grid, 8)
    before, before_anchors = features.clone(), anchors.clone()
    moved, _ = moved_features(features, anchors, grid, mass="token")
    assert torch.equal(moved[~anchors].to(dtype), before[~anchors])
    assert (moved[anchors] != before[anchors]).any(-1).all()
    assert torch.equal(features, before)
    assert torch.equal(anchors, before_anchors)


def test_nothing_moves_where_every_patch_is_an_anchor() -> None:
    features = torch.from_numpy(frames_of((3, 4)))
    assert transport_within_frames(features, torch.ones(3, 12, dtype=torch.bool), 12, (3, 4)) is None


def test_zero_and_opposite_patches() -> None:
    """A blank patch has no direction, and one source is opposite to every anchor."""
    grid = (2, 4)
    features = np.ones((1, 8, 3))
    features[0, 5], features[0, 6] = 0.0, -1.0
    anchors = torch.zeros(1, 8, dtype=torch.bool)
    anchors[0, :3] = True
    expected, _ = oracle.intra(features, [[0, 1, 2]], grid)
    assert_close(transport(features, anchors, grid), expected, "float64")
    assert transport(features.astype(np.float32), anchors, grid).isfinite().all()


def test_equally_near_anchors_give_a_patch_to_the_first() -> None:
    features, anchors = np.ones((1, 4, 2)), torch.tensor([[False, True, True, False]])
    features[0, 1:3] *= 2.0  # the same direction as all others
    moved = transport(features, anchors, (1, 4), nearest_blend=1.0)
    assert moved[0, :, 0].tolist() == pytest.approx([1, 4 / 3, 2, 1])


@settings(max_examples=30)
@given(
    st.tuples(st.integers(1, 5), st.integers(2, 5)),
    st.data(),
    st.sampled_from(["plan", "token"]),
    st.floats(0, 1),
    st.floats(0, 3),
    st.integers(0, 2**32 - 1),
)
def test_an_anchor_stays_within_its_frames_values(
    grid: Grid, data: st.DataObject, mass: str, nearest_blend: float, lambda_intra: float, seed: int
) -> None:
    count = data.draw(st.integers(1, grid[0] * grid[1] - 1))
    features, anchors = frames_of(grid, 2, 3, seed), anchors_of(grid, count, 2, seed)
    moved = transport(
        features, anchors, grid, mass=mass, nearest_blend=nearest_blend, lambda_intra=lambda_intra
    ).numpy()
    assert (moved >= features.min(axis=1, keepdims=True) - 1e-12).all()
    assert (moved <= features.max(axis=1, keepdims=True) + 1e-12).all()
