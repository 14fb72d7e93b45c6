"""Reuse pays on a fast GPU only if its blocks launch about as few operations as exact ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import SiglipVisionConfig, SiglipVisionModel

from aot.bench.operations import StageWork, counted_operations
from aot.compression.in_tower import stc
from aot.models.vision.reusing_tower import FrameBatch, siglip_parts, with_reuse
from aot.models.vision.tower import hidden_states
from tests.support.syncs import queued

DEPTH, KERNELS = 3, 2
BATCH = FrameBatch.of((0, 0, 0, 3, 3, 3), 0, 6)


def tower_on(device: str, *, with_reuse_of: float | None = None) -> Any:
    """Return SigLIP's tower with random weights; its frames reuse, with a share of tokens."""
    sizes = SiglipVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=DEPTH, num_attention_heads=4, image_size=32,
        patch_size=8, vision_use_head=False,
    )  # fmt: skip
    found = SiglipVisionModel(sizes)
    tower = getattr(found, "vision_model", found).eval().to(device)
    if with_reuse_of is None:
        return tower
    return with_reuse(tower, "encoder.layers", siglip_parts, BATCH.group(with_reuse_of, 0, torch.device(device)))


@torch.no_grad()
def work_of(tower: Any) -> StageWork:
    """Return the work of all blocks, and of nothing else."""
    pixels = torch.zeros(6, 3, 32, 32)
    with counted_operations() as works:
        hidden_states(tower, pixels, [0])
        works.begin("blocks")
        hidden_states(tower, pixels, [DEPTH])
    works.now.launches -= works.stages[""].launches
    return works.now


def rows_of_kernels(keys: Tensor, reference_of: Tensor, references: int, always: int, count: int) -> Tensor:
    """Stand in for the kernels, whose launches torch does not see."""
    return torch.empty(references * keys.shape[1] + len(reference_of) * count, dtype=torch.int64).zero_()


@pytest.mark.parametrize(("runs", "most"), [(False, 35), (True, 24)])
def test_launches_of_a_block(monkeypatch: pytest.MonkeyPatch, runs: bool, most: int) -> None:
    queued_rows = pytest.importorskip("aot.compression.in_tower.stc_kernels")
    monkeypatch.setattr(stc, "runs_triton", lambda device: runs)
    monkeypatch.setattr(queued_rows, "computed_rows_queued", rows_of_kernels)
    work = work_of(tower_on("cpu", with_reuse_of=0.25))
    # Zeroing the rows stands for one of the kernels.
    assert work.launches + runs * (KERNELS - 1) * DEPTH <= most * DEPTH
    assert not work.waits
    exact = work_of(tower_on("cpu"))
    assert exact.launches == 12 * DEPTH
    assert work.flops < exact.flops


@torch.no_grad()
def test_no_block_waits() -> None:
    tower = tower_on("meta", with_reuse_of=0.25)
    with queued() as device:
        found = hidden_states(tower, torch.zeros(6, 3, 32, 32, device="meta"), [DEPTH])
    assert found[0].shape == (6, 16, 32)
    assert not device.waits
    assert device.launches


@torch.no_grad()
def test_blocks_take_states_of_any_layout() -> None:
    """A stock tower's embeddings have channels first in memory; blocks write into copies of that layout."""
    block = tower_on("cpu", with_reuse_of=0.25).encoder.layers[0]
    states = torch.randn(6, 32, 16).mT
    assert torch.equal(block(states), block(states.contiguous()))
