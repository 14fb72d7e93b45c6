"""The oracle itself: every row of the golden table, and the cases the table does not reach."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import pytest
import torch

from tests.support.oracle import (
    GOLDEN,
    GOLDEN_CLIP_FRAMES,
    GOLDEN_GRID,
    Array,
    Emitted,
    Golden,
    PoolKind,
    aot_paper,
    bilinear_taps,
    dynamic_clips,
    fixed_clips,
    golden_input,
    inter_clip,
    intra,
    kept_cells,
    linear_quantile,
    pick_order,
    pool_features,
    pool_mask,
    pooled_grid,
    select_anchors,
    sinkhorn,
    time_weight,
    window_edges,
)

VALUE = 1e-6
SUM = 1e-5
golden = pytest.mark.parametrize("row", GOLDEN, ids=lambda row: f"M{row.count}-{row.pool_kind}")


@dataclass(frozen=True)
class Run:
    anchors: list[list[int]]
    changed: Array
    intra_iterations: int
    pooled: Array
    kept: list[list[int]]
    inter_iterations: list[int]
    emitted: list[Emitted]

    def features(self, role: str) -> Array:
        return np.stack([feature for _, _, _, its_role, feature in self.emitted if its_role == role])


@cache
def run(row: Golden) -> Run:
    shallow, deep, u = golden_input()
    anchors = [select_anchors(shallow[t], deep[t], GOLDEN_GRID, row.count) for t in range(4)]
    changed, intra_iterations = intra(u, anchors, GOLDEN_GRID)
    pooled = pool_features(changed, GOLDEN_GRID, row.pool_kind)
    kept = kept_cells(pool_mask(anchors, GOLDEN_GRID, row.pool_kind))
    *_, inter_iterations = inter_clip([pooled[t, kept[t]] for t in range(4)], keep_ratio=row.keep_ratio)
    emitted = aot_paper(shallow, deep, u, GOLDEN_GRID, row.count, row.keep_ratio, GOLDEN_CLIP_FRAMES, row.pool_kind)
    return Run(anchors, changed, intra_iterations, pooled, kept, inter_iterations, emitted)


@golden
def test_golden_anchors(row: Golden) -> None:
    anchors = run(row).anchors
    assert [len(chosen) for chosen in anchors] == [row.anchors_per_frame] * 4
    assert tuple(sum(chosen) for chosen in anchors) == row.anchor_index_sums
    assert anchors[0][0] == row.lowest_anchor


@golden
def test_golden_first_picks(row: Golden) -> None:
    shallow, deep, _ = golden_input()
    local, global_ = pick_order(shallow[0], deep[0], GOLDEN_GRID, row.count)
    assert tuple(local[:7]) == row.first_local_picks
    assert tuple(global_[:5]) == row.first_global_picks


def test_the_narrow_golden_decision() -> None:
    """Exchanging two tokens of one frame leads to the other named sums."""
    row = GOLDEN[2]
    assert row.narrow is not None
    other = aot_paper(
        *golden_input(), GOLDEN_GRID, row.count, row.keep_ratio, GOLDEN_CLIP_FRAMES, row.pool_kind, row.narrow
    )
    cells = [{emitted[:4] for emitted in each} for each in (run(row).emitted, other)]
    exchanged = [(3, *cell, "distinct") for cell in (row.narrow.float64, row.narrow.other)]
    assert cells[0] ^ cells[1] == set(exchanged) and exchanged[0] in cells[0]
    sums = {role: sum(feature.sum() for *_, its, feature in other if its == role) for role in ("distinct", "merged")}
    assert sums == pytest.approx({"distinct": row.narrow.distinct_sum, "merged": row.narrow.merged_sum}, abs=1e-6)


@golden
def test_golden_iterations(row: Golden) -> None:
    assert run(row).intra_iterations == row.intra_iterations
    assert tuple(run(row).inter_iterations) == row.inter_iterations


@golden
def test_golden_intra(row: Golden) -> None:
    changed = run(row).changed
    assert changed[0, row.lowest_anchor, :4] == pytest.approx(row.lowest_anchor_after_intra, abs=VALUE, rel=0)
    assert changed.sum() == pytest.approx(row.intra_sum, abs=SUM, rel=0)


@golden
def test_golden_pooling(row: Golden) -> None:
    assert run(row).pooled.sum() == pytest.approx(row.pooled_sum, abs=SUM, rel=0)
    assert tuple(len(cells) for cells in run(row).kept) == row.kept_per_frame
    assert tuple(run(row).kept[0][:8]) == row.first_kept_cells


@golden
def test_golden_emitted_counts_and_order(row: Golden) -> None:
    emitted = run(row).emitted
    labels = [(frame, role) for frame, _, _, role, _ in emitted]
    expected = [(0, "keyframe")] * row.emitted_keyframe
    for frame, count in enumerate(row.emitted_distinct, start=1):
        expected += [(frame, "distinct")] * count
    expected += [(0, "merged")] * row.emitted_merged
    assert labels == expected
    assert len(emitted) == row.emitted_total


@golden
def test_golden_emitted_places(row: Golden) -> None:
    cols = pooled_grid(GOLDEN_GRID, row.pool_kind)[1]
    for frame in range(4):
        cells = [r * cols + c for f, r, c, role, _ in run(row).emitted if f == frame and role != "merged"]
        assert cells == sorted(cells)
        assert set(cells) <= set(run(row).kept[frame])


@golden
def test_golden_emitted_sums(row: Golden) -> None:
    for role, expected in (("keyframe", row.keyframe_sum), ("distinct", row.distinct_sum), ("merged", row.merged_sum)):
        assert run(row).features(role).sum() == pytest.approx(expected, abs=SUM, rel=0)
    assert run(row).features("merged")[0, :4] == pytest.approx(row.first_merged, abs=VALUE, rel=0)


def test_bilinear_taps_of_siglip() -> None:
    taps = bilinear_taps(27, 14)
    assert [taps[i][:2] for i in (0, 6, 13)] == [(0, 1), (12, 13), (25, 26)]
    assert [taps[i][2] for i in (0, 6, 13)] == pytest.approx([0.4643, 0.0357, 0.5357], abs=1e-4)


@pytest.mark.parametrize("grid", [(27, 27), (24, 24), (5, 8), (1, 3), (1, 1)])
def test_bilinear_is_torch_interpolate(grid: tuple[int, int]) -> None:
    u = np.random.default_rng(0).normal(size=(2, grid[0] * grid[1], 3))
    maps = torch.from_numpy(u).permute(0, 2, 1).reshape(2, 3, *grid)
    size = pooled_grid(grid, "bilinear")
    expected = torch.nn.functional.interpolate(maps, size=size, mode="bilinear", align_corners=False)
    np.testing.assert_allclose(
        pool_features(u, grid, "bilinear"), expected.flatten(2).permute(0, 2, 1).numpy(), atol=1e-13, rtol=0
    )


def test_average_pooling_drops_the_last_row_and_column() -> None:
    u = np.arange(15, dtype=np.float64).reshape(1, 15, 1)
    assert pool_features(u, (3, 5), "average")[0, :, 0].tolist() == [3.0, 5.0]


@pytest.mark.parametrize(
    ("g", "per_side", "edges"), [(27, 3, [0, 9, 18, 27]), (14, 3, [0, 5, 9, 14]), (2, 3, [0, 1, 1, 2]), (5, 1, [0, 5])]
)
def test_window_edges(g: int, per_side: int, edges: list[int]) -> None:
    assert window_edges(g, per_side) == edges


def test_anchor_edge_cases() -> None:
    grid, flat = (6, 6), np.ones(36)
    rising = np.arange(1.0, 37.0)
    assert select_anchors(flat, flat, grid, 36) == list(range(36))
    assert select_anchors(flat, flat, grid, 0) == []
    assert select_anchors(flat, rising, grid, 17) == list(range(19, 36))  # 8 local for 9 windows: all 17 are global
    assert select_anchors(flat, rising, grid, 4, local_ratio=0) == [32, 33, 34, 35]
    assert select_anchors(flat, rising, grid, 9, local_ratio=1) == [0, 2, 4, 12, 14, 16, 24, 26, 28]
    assert pick_order(flat, flat, grid, 18) == ([0, 2, 4, 12, 14, 16, 24, 26, 28], [1, 3, 5, 6, 7, 8, 9, 10, 11])


def test_sinkhorn_marginals_when_converged() -> None:
    rng = np.random.default_rng(1)
    plans, _ = sinkhorn([rng.random((7, 3)), rng.random((5, 4))], 0.1, 10_000, 1e-14)
    for plan in plans:
        rows, cols = plan.shape
        np.testing.assert_allclose(plan.sum(axis=1), 1 / rows, atol=1e-10)
        np.testing.assert_allclose(plan.sum(axis=0), 1 / cols, atol=1e-10)


def test_sinkhorn_stops_jointly() -> None:
    rng = np.random.default_rng(2)
    quick, slow = np.zeros((40, 2)), rng.random((3, 3))
    alone = sinkhorn([slow], 0.05, 100, 1e-2)[1]
    joint_plans, joint = sinkhorn([quick, slow], 0.05, 100, 1e-2)
    assert joint < alone
    np.testing.assert_array_equal(joint_plans[1], sinkhorn([slow], 0.05, joint, 0.0)[0][0])


@pytest.mark.parametrize(("mass", "weight"), [("plan", 1.0), ("token", 2.0)])
def test_intra_by_hand(mass: Literal["plan", "token"], weight: float) -> None:
    """One anchor takes the whole plan, so no Sinkhorn detail matters."""
    u = np.array([[[1.0, 0.0], [0.0, 1.0], [3.0, 3.0]]])
    changed, _ = intra(u, [[0]], (1, 3), mass=mass)
    transported = (u[0, 0] + weight * (u[0, 1] + u[0, 2]) / 2) / (1 + weight)
    np.testing.assert_allclose(changed[0, 0], 0.9 * transported + 0.1 * u[0].mean(axis=0))
    np.testing.assert_array_equal(changed[0, 1:], u[0, 1:])


def test_intra_leaves_a_full_frame_alone() -> None:
    u = np.random.default_rng(3).normal(size=(2, 4, 5))
    changed, iterations = intra(u, [list(range(4))] * 2, (2, 2))
    np.testing.assert_array_equal(changed, u)
    assert iterations == 0


@pytest.mark.parametrize("kind", ["bilinear", "average"])
def test_a_frame_keeps_at_least_one_cell(kind: PoolKind) -> None:
    assert kept_cells(pool_mask([[], [12], [0, 1]], (6, 6), kind)) == [[0], [3], [0]]


def test_linear_quantile_is_numpys() -> None:
    values = np.random.default_rng(4).random(23)
    for ratio in (0.0, 0.1, 0.3, 0.5, 0.77, 1.0):
        assert linear_quantile(values, ratio) == pytest.approx(np.quantile(values, ratio), abs=1e-15)


def test_time_weights() -> None:
    expected = [0.19926, 0.58889, 0.86466, 0.97143, 0.99613, 0.99966, 0.99998]
    assert [time_weight(j, 1.5) for j in range(1, 8)] == pytest.approx(expected, abs=1e-5)


def test_inter_rules_agree() -> None:
    rng = np.random.default_rng(5)
    tokens = [rng.normal(size=(m, 6)) for m in (5, 11, 8)]
    by_ratio = inter_clip(tokens, keep_ratio=0.4)
    by_count = inter_clip(tokens, distinct_counts=[len(chosen) for chosen in by_ratio[1]])
    assert [len(chosen) for chosen in by_ratio[1]] == [4, 3]
    assert by_ratio[1] == by_count[1]
    np.testing.assert_array_equal(by_ratio[2], by_count[2])


def test_inter_extremes() -> None:
    rng = np.random.default_rng(6)
    tokens = [rng.normal(size=(m, 6)) for m in (4, 7)]
    original, distinct, merged, mass, _ = inter_clip(tokens, tau=2.0)
    assert distinct == [list(range(7))]
    np.testing.assert_array_equal(merged, original)
    assert mass.tolist() == [1.0] * 4
    _, distinct, merged, mass, _ = inter_clip(tokens, tau=0.0, lambda_inter=0.5)
    assert distinct == [[]]
    assert mass.sum() == pytest.approx(4 + 0.5 * 7)
    np.testing.assert_allclose(mass @ merged, tokens[0].sum(axis=0) + 0.5 * tokens[1].sum(axis=0))


def test_inter_counts_take_the_lower_index_on_ties() -> None:
    token = np.ones((1, 3))
    _, distinct, _, _, iterations = inter_clip([token, np.repeat(token, 4, axis=0)], distinct_counts=[2])
    assert distinct == [[0, 1]]
    assert len(iterations) == 1


def test_inter_equal_tokens_tie_exactly() -> None:
    rng = np.random.default_rng(7)
    y, x = rng.normal(size=(13, 16)), rng.normal(size=(3, 16))
    _, distinct, _, _, _ = inter_clip([y, np.tile(x, (9, 1))], distinct_counts=[4])
    assert len({i % 3 for i in distinct[0]}) == 1
    assert [i // 3 for i in distinct[0]] == [0, 1, 2, 3]


def test_a_clip_of_one_frame_emits_its_keyframe_once() -> None:
    shallow, deep, u = golden_input()
    emitted = aot_paper(shallow, deep, u, GOLDEN_GRID, 126, 0.3, 3, "bilinear")
    assert [role for frame, _, _, role, _ in emitted if frame == 3] == ["keyframe"] * 26
    assert {role for frame, _, _, role, _ in emitted if frame == 0} == {"keyframe", "merged"}


def test_fixed_clips() -> None:
    assert fixed_clips(9, 4) == [(0, 4), (4, 8), (8, 9)]
    assert fixed_clips(1, 4) == [(0, 1)]


def test_dynamic_clips() -> None:
    a, b = [1.0, 0.0], [0.0, 2.0]
    video = np.array([a, a, b, b, a, a])
    assert dynamic_clips(video, 1, 0.8) == [(0, 2), (2, 4), (4, 6)]
    assert dynamic_clips(video, 2, -1.0) == [(0, 2), (2, 6)]
    assert dynamic_clips(np.array([a] * 4), 3, 0.8) == [(0, 1), (1, 2), (2, 4)]
    assert dynamic_clips(np.array([a] * 2), 8, 0.8) == [(0, 1), (1, 2)]
    assert dynamic_clips(np.array([a]), 8, 0.8) == [(0, 1)]
