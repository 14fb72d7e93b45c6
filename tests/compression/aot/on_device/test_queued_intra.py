"""Phase I in Triton gives what the torch version gives. Without a CUDA device Triton's interpreter runs the kernels."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from aot.compression.aot.intra_frame import transport_within_frames
from aot.compression.aot.on_device.layout import QueuedLayout
from aot.compression.ops.grid import pooling_weights
from aot.compression.ops.products import weighted_sums
from aot.types import Clip, Pooling
from tests.support.tolerances import assert_close

pytest.importorskip("triton")
pytestmark = pytest.mark.gpu
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# Triton's interpreter multiplies no bfloat16.
HALF = torch.bfloat16 if DEVICE.type == "cuda" else torch.float16
CASES: dict[str, dict[str, Any]] = {
    "published": {},
    "paper": {"spatial_weight": 0.0, "nearest_blend": 0.0},
    "token": {"mass": "token"},
    "late": {"tolerance": 3e-4},
    "never": {"tolerance": 1e-12, "max_iterations": 9},
    "one": {"max_iterations": 1},
    "two": {"max_iterations": 2},
    "six": {"tolerance": 1e-12, "max_iterations": 6},
}


def both(features: torch.Tensor, anchors: int, settings: dict[str, Any]) -> tuple[Any, ...]:
    """Kept cells' tokens, weights, iterations and marginal error, of torch and of Triton; and the kept cells."""
    from aot.compression.aot.on_device.anchors import QueuedAllocation
    from aot.compression.aot.on_device.intra_frame import IntraWeights, transport_queued

    frames, patches, _ = features.shape
    grid, pooling = (9, patches // 9), Pooling("bilinear")
    generator = torch.Generator().manual_seed(anchors)
    mask = torch.zeros(frames, patches, dtype=torch.bool)
    for row in mask:
        row[torch.randperm(patches, generator=generator)[:anchors]] = True
    layout = QueuedLayout.build(grid, pooling, 3, 0.5, Clip.runs(frames, 2), [2] * -(-frames // 2), DEVICE)
    kept = [layout.cells - 3 * frame for frame in range(frames)]
    cells = torch.stack([torch.randperm(layout.cells, generator=generator) for _ in kept]).to(torch.int32)
    index = mask.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
    moved = transport_within_frames(features, mask.to(DEVICE), anchors, grid, **settings)
    assert moved is not None
    weights = moved.weights(pooling_weights(grid, pooling).to(moved.mixing)[cells.to(DEVICE)])
    expected = weighted_sums(weights, features).to(features.dtype)
    allocation = QueuedAllocation(
        torch.tensor([anchors, anchors], dtype=torch.int32, device=DEVICE),
        mask.to(DEVICE, torch.int8), index.to(DEVICE, torch.int32), cells.to(DEVICE),
        torch.tensor(kept, dtype=torch.int32, device=DEVICE), torch.zeros(frames, dtype=torch.int32, device=DEVICE),
    )  # fmt: skip
    of_rule = {"epsilon": 0.1, "max_iterations": 100, "tolerance": 1e-2} | {
        name: value for name, value in settings.items() if name in ("max_iterations", "tolerance")
    }
    found = transport_queued(
        layout, allocation, features,
        IntraWeights(
            settings.get("spatial_weight", 0.5), settings.get("nearest_blend", 0.1), 1.0,
            settings.get("mass") == "token", **of_rule,
        ),
    )  # fmt: skip
    return expected, weights, moved.plan, found, kept


def features(frames: int, patches: int, dtype: torch.dtype, width: int = 40) -> torch.Tensor:
    generator = torch.Generator().manual_seed(patches)
    shared = torch.randn(patches, width, generator=generator)
    return (shared + 0.5 * torch.randn(frames, patches, width, generator=generator)).to(DEVICE, dtype)


@pytest.mark.parametrize("name", CASES)
def test_twins(name: str) -> None:
    expected, weights, plan, found, kept = both(features(3, 81, torch.float32), 20, CASES[name])
    assert int(found.iterations) == int(plan.iterations.max())
    assert_close(found.errors.sum(1), plan.marginal_error, "float32")
    for frame, count in enumerate(kept):
        assert_close(found.weights[frame, :count], weights[frame, :count], "float32")
        assert_close(found.tokens[frame, :count], expected[frame, :count], "float32")


@pytest.mark.parametrize("anchors", [1, 80, 135])
def test_any_number_of_anchors(anchors: int) -> None:
    patches = 81 if anchors < 81 else 144
    expected, _, _, found, kept = both(features(2, patches, torch.float32), anchors, {})
    for frame, count in enumerate(kept):
        assert_close(found.tokens[frame, :count], expected[frame, :count], "float32")


def test_half_precision_features_keep_the_weights_precise() -> None:
    expected, weights, _, found, kept = both(features(2, 81, HALF), 20, {})
    for frame, count in enumerate(kept):
        assert_close(found.weights[frame, :count], weights[frame, :count], "float32")
        assert_close(found.tokens[frame, :count], expected[frame, :count], "bfloat16")


@pytest.mark.skipif(DEVICE.type != "cuda", reason="this machine has no CUDA device")
def test_products_of_wide_features_are_exact() -> None:
    """So wide that copies of tiles to come are under way while matrix units multiply. Ties are left to other tests."""
    wide = features(4, 729, HALF, 1024)
    _, weights, _, found, kept = both(wide, 126, {"nearest_blend": 0.0})
    _, _, _, again, _ = both(wide, 126, {"nearest_blend": 0.0})
    for frame, count in enumerate(kept):
        assert torch.equal(found.weights[frame, :count], again.weights[frame, :count])
        assert_close(found.weights[frame, :count], weights[frame, :count], "float32")
