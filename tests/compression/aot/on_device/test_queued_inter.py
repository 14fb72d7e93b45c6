"""Phase II in Triton gives what torch gives. Without a CUDA device Triton's interpreter runs the kernels."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from aot.compression.aot.inter_frame import DistinctRule, transport_within_clips
from aot.compression.aot.on_device.layout import QueuedLayout
from aot.types import Clip, Pooling
from tests.support.tolerances import assert_close

pytest.importorskip("triton")
pytestmark = pytest.mark.gpu
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# Triton's interpreter multiplies no bfloat16.
HALF = torch.bfloat16 if DEVICE.type == "cuda" else torch.float16
RULE: dict[str, Any] = {"epsilon": 0.1, "max_iterations": 100, "tolerance": 1e-2}
CASES: dict[str, dict[str, Any]] = {
    "published": {},
    "weights": {"sigma_frames": 4.0, "lambda_inter": 0.5},
    "never": {"tolerance": 1e-15, "max_iterations": 20},
}


@pytest.mark.parametrize("still", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_twins(name: str, still: bool) -> None:
    twins(name, still, torch.float32, "float64")


@pytest.mark.parametrize("still", [False, True])
def test_tokens_in_half_precision(still: bool) -> None:
    twins("published", still, HALF, "half products")


def twins(name: str, still: bool, dtype: torch.dtype, tolerance: str) -> None:
    """Compare distinct tokens exactly, merged tokens and masses in float32, and shares to `tolerance`."""
    from aot.compression.aot.on_device.anchors import QueuedAllocation
    from aot.compression.aot.on_device.inter_frame import InterWeights, match_queued

    clips = (Clip(0, 3), Clip(3, 4), Clip(4, 6))
    kept = [20, 5, 17, 3, 1, 9]
    wanted = [0, 2, 6, 0, 0, 4]
    generator = torch.Generator().manual_seed(4)
    layout = QueuedLayout.build((10, 9), Pooling("bilinear"), 3, 0.5, clips, (2, 1, 2), DEVICE)
    tokens = torch.randn(6, layout.cells, 40, generator=generator)
    if still:
        tokens[:] = tokens[0].clone()
    tokens = tokens.to(DEVICE, dtype)
    valid = torch.arange(layout.cells) < torch.tensor(kept)[:, None]
    settings = {"sigma_frames": 1.5, "lambda_inter": 1.0, **RULE, **CASES[name]}
    expected = transport_within_clips(
        tokens, valid.to(DEVICE), clips, DistinctRule("count", counts=torch.tensor(wanted, device=DEVICE)), **settings
    )
    none = torch.empty(0)
    allocation = QueuedAllocation(
        none, none, none, none,
        torch.tensor(kept, dtype=torch.int32, device=DEVICE), torch.tensor(wanted, dtype=torch.int32, device=DEVICE),
    )  # fmt: skip
    found = match_queued(layout, allocation, tokens, InterWeights(**settings))
    assert torch.equal(found.distinct.cpu()[valid] > 0, expected.distinct.cpu()[valid])
    rounded = "float32" if dtype == torch.float32 else "bfloat16"  # the torch version's are in the tokens' dtype
    for clip, whole in enumerate(clips):
        if len(whole) > 1:
            count = kept[whole.first]
            assert_close(found.merged[clip, :count], expected.merged[clip, :count], rounded)
            assert_close(found.mass[clip, :count], expected.mass[clip, :count], "float32")
    for offset, absorbed in enumerate(expected.absorbed):
        assert_close(found.absorbed[offset], absorbed, tolerance)
