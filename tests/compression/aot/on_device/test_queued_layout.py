"""What is laid out for the kernels is what the torch version computes step by step."""

from __future__ import annotations

import pytest
import torch

from aot.compression.aot.anchors import rank_patches
from aot.compression.aot.on_device.layout import QueuedLayout
from aot.compression.ops.grid import pool, pooled_grid, pooling_weights, window_ids
from aot.compression.ops.kernels import block_of
from aot.types import Clip, Pooling
from tests.support.tolerances import assert_close

CPU = torch.device("cpu")
CLIPS = (Clip(0, 3), Clip(3, 4), Clip(4, 6))
GRIDS = [(9, 9), (8, 7), (2, 5)]
POOLINGS = [Pooling("bilinear"), Pooling("average"), Pooling("none")]


def layout(grid: tuple[int, int], pooling: Pooling, local_ratio: float = 0.5) -> QueuedLayout:
    return QueuedLayout.build(grid, pooling, 3, local_ratio, CLIPS, (2, 1, 2), CPU)


@pytest.mark.parametrize("local_ratio", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("grid", GRIDS)
def test_every_number_of_anchors_is_split_as_the_ranking_splits_it(grid: tuple[int, int], local_ratio: float) -> None:
    tables = layout(grid, Pooling("none"), local_ratio).tables
    patches = grid[0] * grid[1]
    ranking = rank_patches(torch.rand(1, patches), torch.rand(1, patches), grid)
    for asked in range(patches):
        found = (int(tables["per_window"][asked]), int(tables["globals"][asked]))
        assert found == ranking.split(asked, local_ratio)
    totals = [ranking.total(asked, local_ratio) for asked in range(patches + 1)]
    assert tables["total"].tolist() == totals
    assert tables["window"].tolist() == window_ids(grid, min(3, *grid)).tolist()


@pytest.mark.parametrize("pooling", POOLINGS, ids=lambda pooling: pooling.kind)
@pytest.mark.parametrize("grid", GRIDS)
def test_pooling_by_axes_is_pooling(grid: tuple[int, int], pooling: Pooling) -> None:
    built = layout(grid, pooling)
    tables, (rows, cols) = built.tables, pooled_grid(grid, pooling)
    assert (built.pooled, built.cells, built.patches) == ((rows, cols), rows * cols, grid[0] * grid[1])
    assert_close(torch.kron(tables["row_pool"], tables["col_pool"]), pooling_weights(grid, pooling), "float32")
    values = torch.rand(grid, generator=torch.Generator().manual_seed(0))
    taken = values[tables["row_tap"][:, :, None, None].long(), tables["col_tap"][None, None].long()]
    parts = tables["row_part"][:, :, None, None] * tables["col_part"][None, None]
    found = (taken * parts).sum((1, 3)).flatten()
    assert_close(found, pool(values.view(1, -1, 1), grid, pooling).flatten(), "float32")


def test_clips_are_spread_over_their_frames() -> None:
    built = layout((9, 9), Pooling("bilinear"))
    tables = built.tables
    assert (built.frames, built.clips) == (6, CLIPS)
    assert tables["clip"].tolist() == [0, 0, 0, 1, 2, 2]
    assert tables["copies"].tolist() == [2, 2, 2, 1, 2, 2]
    assert tables["several"].tolist() == [1, 1, 1, 0, 1, 1]
    assert tables["keyframe"].tolist() == [1, 0, 0, 1, 1, 0]
    assert (tables["first"].tolist(), tables["length"].tolist()) == ([0, 3, 4], [3, 1, 2])


def test_one_copy_holds_all_tables_at_aligned_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = []
    monkeypatch.setattr(
        "aot.compression.aot.on_device.layout.uploaded", lambda values, device: sent.append(values) or values
    )
    tables = layout((9, 9), Pooling("bilinear")).tables
    assert len(sent) == 1
    assert all((values.data_ptr() - sent[0].data_ptr()) % 16 == 0 for values in tables.values())


def test_blocks_hold_what_they_must() -> None:
    assert [block_of(count) for count in (1, 32, 33, 64, 65)] == [32, 32, 64, 64, 128]
    assert [block_of(count, 512) for count in (1, 512, 513)] == [512, 512, 1024]
