from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aot.compression.aot.anchors import AnchorRanking, rank_patches
from aot.compression.ops.grid import window_ids
from tests.support import oracle

Grid = tuple[int, int]

GRIDS = [(27, 27), (14, 14), (14, 27), (5, 7), (4, 3), (2, 6), (1, 5), (1, 1)]
LEVELS = [None, 3, 1]  # None: all saliencies differ; else so many distinct values, hence ties


def saliency(grid: Grid, levels: int | None, seed: int, frames: int = 3) -> torch.Tensor:
    """Positive random saliency [F, N]."""
    rng, shape = np.random.default_rng(seed), (frames, grid[0] * grid[1])
    values = rng.random(shape) + 0.1 if levels is None else rng.integers(1, levels + 1, shape)
    return torch.from_numpy(np.asarray(values, dtype=np.float64))


def per_side(grid: Grid, windows_per_side: int = 3) -> int:
    return min(windows_per_side, *grid)


def selected(ranking: AnchorRanking, count: int, local_ratio: float) -> list[list[int]]:
    return [mask.nonzero().flatten().tolist() for mask in ranking.select(count, local_ratio)]


def expected(
    shallow: torch.Tensor, deep: torch.Tensor, grid: Grid, count: int, local_ratio: float, windows: int = 3
) -> list[list[int]]:
    return [
        oracle.select_anchors(s, d, grid, count, local_ratio, per_side(grid, windows))
        for s, d in zip(shallow.numpy(), deep.numpy(), strict=True)
    ]


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("local_ratio", [0.0, 0.3, 0.5, 1.0])
def test_anchors_are_the_oracles(grid: Grid, levels: int | None, local_ratio: float) -> None:
    shallow, deep = saliency(grid, levels, 1), saliency(grid, levels, 2)
    ranking, patches = rank_patches(shallow, deep, grid), grid[0] * grid[1]
    for count in {1, 2, patches // 9, patches // 4, patches // 2, patches - 1, patches} - {0}:
        assert selected(ranking, count, local_ratio) == expected(shallow, deep, grid, count, local_ratio)


@pytest.mark.parametrize("windows", [1, 2, 3, 5])
def test_other_window_counts(windows: int) -> None:
    grid = (11, 6)
    shallow, deep = saliency(grid, None, 3), saliency(grid, None, 4)
    ranking = rank_patches(shallow, deep, grid, windows)
    assert selected(ranking, 60, 0.9) == expected(shallow, deep, grid, 60, 0.9, windows)


def test_float32_saliency_ranks_alike() -> None:
    shallow, deep = saliency((14, 14), 5, 5), saliency((14, 14), 5, 6)
    double, single = (rank_patches(shallow.to(t), deep.to(t), (14, 14)) for t in (torch.float64, torch.float32))
    assert torch.equal(double.select(40, 0.5), single.select(40, 0.5))


@pytest.mark.parametrize("row", oracle.GOLDEN, ids=lambda row: f"M{row.count}")
def test_golden_anchors(row: oracle.Golden) -> None:
    shallow, deep, _ = oracle.golden_input()
    ranking = rank_patches(torch.from_numpy(shallow), torch.from_numpy(deep), oracle.GOLDEN_GRID)
    chosen = selected(ranking, row.count, 0.5)
    assert [len(anchors) for anchors in chosen] == [row.anchors_per_frame] * 4
    assert tuple(sum(anchors) for anchors in chosen) == row.anchor_index_sums


@pytest.mark.parametrize(
    ("count", "local", "of_all", "anchors"),
    [
        (108, 54, 54, 108),
        (126, 63, 63, 126),
        (144, 72, 72, 144),
        (176, 81, 88, 169),
        (180, 90, 90, 180),
        (196, 90, 98, 188),
        (198, 99, 99, 198),
        (205, 99, 103, 202),
    ],
)
def test_published_counts(count: int, local: int, of_all: int, anchors: int) -> None:
    ranking = rank_patches(saliency((27, 27), None, 7), saliency((27, 27), None, 8), (27, 27))
    per_window, global_count = ranking.split(count, 0.5)
    assert ranking.window_sizes == (81,) * 9
    assert (9 * per_window, global_count) == (local, of_all)
    assert ranking.total(count, 0.5) == anchors
    assert ranking.select(count, 0.5).sum(1).tolist() == [anchors] * 3


def test_every_patch_is_an_anchor_when_all_are_asked_for() -> None:
    ranking = rank_patches(saliency((4, 4), 2, 9), saliency((4, 4), 2, 10), (4, 4))
    for count in (16, 17, 1000):
        assert ranking.total(count, 0.5) == 16
        assert ranking.select(count, 0.5).all()


@pytest.mark.parametrize(
    ("local_ratio", "wins"), [(1.0, "local"), (0.0, "global")], ids=["local_ratio 1", "local_ratio 0"]
)
def test_the_extremes_look_at_one_saliency_only(local_ratio: float, wins: str) -> None:
    grid = (9, 9)
    rising = torch.arange(1.0, 82.0).expand(2, -1)
    shallow, deep = (rising, torch.ones(2, 81)) if wins == "local" else (torch.ones(2, 81), rising)
    mask = rank_patches(shallow, deep, grid).select(18, local_ratio)
    in_windows = torch.bincount(window_ids(grid, 3)[mask[0]], minlength=9).tolist()
    if wins == "local":
        assert in_windows == [2] * 9
        assert mask[0, 20]  # the last patch of the first window is its most salient
    else:
        assert mask[0].nonzero().flatten().tolist() == list(range(63, 81))


def test_frames_are_ranked_on_their_own() -> None:
    shallow, deep = saliency((5, 5), None, 11, frames=4), saliency((5, 5), None, 12, frames=4)
    together = rank_patches(shallow, deep, (5, 5)).select(11, 0.8)
    alone = [rank_patches(shallow[f : f + 1], deep[f : f + 1], (5, 5)).select(11, 0.8) for f in range(4)]
    assert torch.equal(together, torch.cat(alone))


@st.composite
def rankings(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, Grid, int, float, int]:
    grid = draw(st.tuples(st.integers(1, 12), st.integers(1, 12)))
    levels, seed = draw(st.sampled_from(LEVELS)), draw(st.integers(0, 2**32 - 2))
    count = draw(st.integers(1, grid[0] * grid[1]))
    shallow, deep = saliency(grid, levels, seed, frames=2), saliency(grid, levels, seed + 1, frames=2)
    return shallow, deep, grid, count, draw(st.floats(0, 1)), draw(st.integers(1, 5))


@given(rankings())
def test_any_count(case: tuple[torch.Tensor, torch.Tensor, Grid, int, float, int]) -> None:
    shallow, deep, grid, count, local_ratio, windows = case
    ranking = rank_patches(shallow, deep, grid, windows)
    mask = ranking.select(count, local_ratio)
    assert mask.sum(1).tolist() == [ranking.total(count, local_ratio)] * 2
    assert 1 <= ranking.total(count, local_ratio) <= count
    assert selected(ranking, count, local_ratio) == expected(shallow, deep, grid, count, local_ratio, windows)


@pytest.mark.parametrize(
    ("shallow", "deep"), [((2, 11), (2, 11)), ((2, 12), (3, 12)), ((2, 12), (2, 11))], ids=["grid", "frames", "patches"]
)
def test_shapes_that_disagree_are_named(shallow: tuple[int, int], deep: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"saliency: expected two \[F, 12\] tensors, got"):
        rank_patches(torch.ones(shallow), torch.ones(deep), (3, 4))
