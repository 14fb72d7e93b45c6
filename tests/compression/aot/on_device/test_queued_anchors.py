"""The Triton kernels choose the anchors, cells and shares that the torch version chooses. Without a CUDA device
Triton's interpreter runs them.
"""

from __future__ import annotations

import pytest
import torch

from aot.compression.aot.anchors import rank_patches
from aot.compression.aot.budget import allocate, copies_per_clip
from aot.compression.aot.cells import KeptCells
from aot.compression.aot.on_device.layout import QueuedLayout
from aot.compression.ops.grid import pool
from aot.types import Clip, Pooling

pytest.importorskip("triton")
pytestmark = pytest.mark.gpu
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CASES = {
    "starts right": ((9, 9), Pooling("bilinear"), 5, 20, 30, 3),
    "fewer anchors": ((9, 9), Pooling("bilinear"), 5, 20, 14, 3),
    "more anchors": ((9, 9), Pooling("average"), 6, 3, 40, 3),
    "one token a clip": ((9, 9), Pooling("bilinear"), 5, 20, 3, 3),
    "trimmed": ((9, 9), Pooling("bilinear"), 8, 12, 9, 3),
    "windows cut": ((2, 5), Pooling("none"), 4, 4, 12, 3),
    "almost all": ((6, 6), Pooling("bilinear"), 4, 20, 35, 3),
    "clips of one": ((9, 9), Pooling("bilinear"), 3, 20, 20, 1),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", CASES)
def test_twins(name: str, seed: int) -> None:
    from aot.compression.aot.on_device.anchors import allocate_queued

    grid, pooling, frames, asked, budget, length = CASES[name]
    generator = torch.Generator().manual_seed(seed)
    shallow, deep = (torch.rand(frames, grid[0] * grid[1], generator=generator) for _ in range(2))
    shallow[:, ::3], deep[:, ::7] = 0.5, 0.5  # ties
    clips = Clip.runs(frames, length)
    ranking = rank_patches(shallow, deep, grid)

    def votes_for(anchors: int) -> torch.Tensor:
        return pool(ranking.select(anchors, 0.5).float()[..., None], grid, pooling)[..., 0]

    saliency = pool(deep[..., None], grid, pooling)[..., 0]
    expected = allocate(budget, asked, grid[0] * grid[1], clips, votes_for, saliency)
    copies = copies_per_clip(clips, 2)
    if budget < sum(copies):
        copies = copies_per_clip(clips, 1)
    assert copies == expected.copies
    layout = QueuedLayout.build(grid, pooling, 3, 0.5, clips, copies, DEVICE)
    found = allocate_queued(layout, shallow.to(DEVICE), deep.to(DEVICE), asked, budget)
    total = ranking.total(expected.anchors, 0.5)
    assert found.found.tolist() == [expected.anchors, total]
    mask = ranking.select(expected.anchors, 0.5)
    assert torch.equal(found.is_anchor.cpu() > 0, mask)
    assert found.anchor_index[:, :total].cpu().tolist() == [row.nonzero().flatten().tolist() for row in mask]
    cells = KeptCells.build(expected.kept)
    assert found.kept.tolist() == cells.valid.sum(1).tolist()
    for own, index, valid in zip(found.cell.cpu(), cells.index, cells.valid, strict=True):
        assert own[: int(valid.sum())].tolist() == index[valid].tolist()
    assert tuple(found.distinct.tolist()) == expected.distinct
