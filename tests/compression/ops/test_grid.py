from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aot.compression.ops.grid import cells_of_patches, patch_distances, pool, pooled_grid, pooling_weights, window_ids
from aot.types import Pooling
from tests.support import oracle
from tests.support.tolerances import assert_close

Grid = tuple[int, int]

BILINEAR_GRIDS = [(27, 27), (24, 24), (14, 27), (5, 8), (7, 3), (1, 3), (1, 1)]
AVERAGE_GRIDS = [(27, 27), (24, 24), (14, 27), (5, 8), (7, 3), (2, 3), (2, 2)]


def side_sizes(size: int, per_side: int) -> list[int]:
    """How many patches each window takes along one side."""
    columns = window_ids((1, size), per_side) % per_side
    return torch.bincount(columns, minlength=per_side).tolist()


@pytest.mark.parametrize(
    ("size", "sizes"),
    [
        (27, [9, 9, 9]),
        (24, [8, 8, 8]),
        (15, [5, 5, 5]),
        (14, [5, 4, 5]),
        (5, [2, 1, 2]),
        (3, [1, 1, 1]),
        (2, [1, 0, 1]),
        (1, [0, 1, 0]),
    ],
)
def test_three_windows_per_side(size: int, sizes: list[int]) -> None:
    assert side_sizes(size, 3) == sizes


@pytest.mark.parametrize("grid", [(27, 27), (14, 14), (15, 15), (5, 5), (3, 3), (2, 2), (1, 1), (14, 27), (6, 1)])
@pytest.mark.parametrize("per_side", [1, 2, 3, 5])
def test_windows_are_the_oracles(grid: Grid, per_side: int) -> None:
    expected = torch.full((grid[0] * grid[1],), -1)
    for number, patches in enumerate(oracle.windows(grid, per_side)):
        expected[patches] = number
    assert torch.equal(window_ids(grid, per_side), expected)


@given(st.integers(1, 200), st.integers(1, 12))
def test_windows_are_near_equal_runs(size: int, per_side: int) -> None:
    ids = (window_ids((1, size), per_side) % per_side).tolist()
    assert ids == sorted(ids)
    assert {count - size // per_side for count in side_sizes(size, per_side)} <= {0, 1}


@pytest.mark.parametrize("grid", [(27, 27), (14, 9), (1, 4), (3, 1), (1, 1)])
def test_distances_are_the_oracles(grid: Grid) -> None:
    distances = patch_distances(grid)
    assert distances.dtype == torch.float64
    positions = oracle.grid_positions(grid)
    expected = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    np.testing.assert_allclose(distances.numpy(), expected, rtol=1e-15, atol=0)


def test_distances_from_the_corner() -> None:
    from_corner = patch_distances((3, 5))[0]
    assert from_corner[[0, 4, 10]].tolist() == [0, 1, 1]
    assert from_corner[6] == pytest.approx((0.5**2 + 0.25**2) ** 0.5)
    assert from_corner[-1] == pytest.approx(2**0.5)


@pytest.mark.parametrize(
    ("kind", "grid"), [("bilinear", grid) for grid in BILINEAR_GRIDS] + [("average", grid) for grid in AVERAGE_GRIDS]
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_pooling_is_the_oracles(kind: oracle.PoolKind, grid: Grid, dtype: torch.dtype) -> None:
    values = torch.from_numpy(np.random.default_rng(0).normal(size=(3, grid[0] * grid[1], 4))).to(dtype)
    pooled = pool(values, grid, Pooling(kind))
    assert pooled.dtype == dtype
    assert pooled_grid(grid, Pooling(kind)) == oracle.pooled_grid(grid, kind)
    assert_close(pooled, oracle.pool_features(values.double().numpy(), grid, kind), str(dtype).removeprefix("torch."))


@pytest.mark.parametrize("kind", ["bilinear", "average"])
@pytest.mark.parametrize("stride", [1, 3, 4])
def test_other_strides(kind: oracle.PoolKind, stride: int) -> None:
    grid = (9, 13)
    values = np.random.default_rng(1).normal(size=(2, 117, 3))
    pooled = pool(torch.from_numpy(values), grid, Pooling(kind, stride))
    assert pooled_grid(grid, Pooling(kind, stride)) == oracle.pooled_grid(grid, kind, stride)
    assert_close(pooled, oracle.pool_features(values, grid, kind, stride), "float64")


def test_no_pooling() -> None:
    values = torch.randn(2, 12, 3)
    assert torch.equal(pool(values, (3, 4), Pooling("none")), values)
    assert pooled_grid((3, 4), Pooling("none")) == (3, 4)


@pytest.mark.parametrize("kind", ["bilinear", "average", "none"])
def test_a_wrong_number_of_patches_is_named(kind: oracle.PoolKind) -> None:
    with pytest.raises(ValueError, match=r"axis 1 of values: expected 3 \* 4 patches, got 11"):
        pool(torch.zeros(2, 11, 3), (3, 4), Pooling(kind))


@pytest.mark.parametrize("kind", ["bilinear", "average", "none"])
@pytest.mark.parametrize("grid", [(27, 27), (5, 8), (6, 9)])
def test_patches_lie_in_the_cell_they_weigh_most_in(grid: tuple[int, int], kind: str) -> None:
    pooling = Pooling(kind)  # type: ignore[arg-type]
    weights = pooling_weights(grid, pooling)
    cells = cells_of_patches(grid, pooling)
    own = weights[cells, torch.arange(len(cells))]
    assert torch.allclose(own, weights.amax(0))
    rows, cols = pooled_grid(grid, pooling)
    assert cells[0] == 0
    assert cells[-1] == rows * cols - 1
    assert (cells.view(grid).diff(dim=1) >= 0).all()
    assert (cells.view(grid).diff(dim=0) >= 0).all()
