"""AOT without waiting for the device keeps what the torch version keeps. Without a CUDA device Triton's interpreter
runs the kernels.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from aot.compression.aot.method import AnchorTransport
from aot.compression.aot.on_device import method as aot_queued
from aot.compression.ops.read_later import FactsReadLater
from aot.config.schema import AnchorConfig, AOTConfig, ClipConfig, InterConfig, IntraConfig
from aot.types import CompressedTokens, Role, VisualTokens
from tests.support.syncs import counted_syncs
from tests.support.synthetic_tokens import random_tokens
from tests.support.tolerances import assert_close

pytest.importorskip("triton")
pytestmark = pytest.mark.gpu
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CASES: dict[str, AOTConfig] = {
    "published": AOTConfig(),
    "merged": AOTConfig(inter=InterConfig(keyframe="merged")),
    "original": AOTConfig(inter=InterConfig(keyframe="original"), clips=ClipConfig(frames=3)),
    "within frames": AOTConfig(inter=InterConfig(enabled=False), anchors=AnchorConfig(count=7)),
    "token": AOTConfig(intra=IntraConfig(mass="token"), clips=ClipConfig(mode="dynamic", segments=3)),
}


def on_device(visual: VisualTokens) -> VisualTokens:
    saliency = {layer: values.to(DEVICE) for layer, values in visual.saliency.items()}
    embeddings = None if visual.frame_embeddings is None else visual.frame_embeddings.to(DEVICE)
    return replace(visual, features=visual.features.to(DEVICE), saliency=saliency, frame_embeddings=embeddings)


def queued(monkeypatch: pytest.MonkeyPatch, method: AnchorTransport, visual: VisualTokens, budget: int) -> Any:
    with monkeypatch.context() as patched:
        patched.setattr(aot_queued, "runs_triton", lambda device: True)
        return method.compress(on_device(visual), budget)


def same(found: CompressedTokens, expected: CompressedTokens) -> None:
    for field in ("frame", "row", "col", "role"):
        assert getattr(found, field).tolist() == getattr(expected, field).tolist()
        assert getattr(found, field).dtype == getattr(expected, field).dtype
    assert_close(found.mass, expected.mass, "float32")
    assert_close(found.features, expected.features, "float32")
    assert (found.grid, found.clips, found.timestamps_s) == (expected.grid, expected.clips, expected.timestamps_s)
    assert list(found.facts) == list(expected.facts)
    for name, value in expected.facts.items():
        assert found.facts[name] == (pytest.approx(value, abs=1e-5) if isinstance(value, float) else value)


@pytest.mark.parametrize("kind", ["bilinear", "average", "none"])
@pytest.mark.parametrize("name", CASES)
def test_twins(monkeypatch: pytest.MonkeyPatch, name: str, kind: Any) -> None:
    visual = replace(random_tokens(5, 5, (8, 7), kind), traced=True)
    budget = 26
    method = AnchorTransport(CASES[name], 0.3)
    expected = method.compress(visual, budget)
    found = queued(monkeypatch, method, visual, budget)
    assert isinstance(found.facts, FactsReadLater)
    same(found, expected)
    ours, theirs = found.sources, expected.sources
    assert ours is not None and theirs is not None
    assert (ours.count, ours.token.tolist()) == (theirs.count, theirs.token.tolist())
    assert ours.source.tolist() == theirs.source.tolist()
    assert_close(ours.weight, theirs.weight, "float32")
    assert ours.is_global is not None and theirs.is_global is not None
    assert torch.equal(ours.is_global, theirs.is_global)


@pytest.mark.parametrize("budget", [2, 3, 140])
def test_extreme_budgets(monkeypatch: pytest.MonkeyPatch, budget: int) -> None:
    visual = random_tokens(2, 8, (8, 7))
    method = AnchorTransport(AOTConfig(), budget / 8 / 16)
    if budget == 140:
        visual = random_tokens(2, 8, (8, 11))
        method = AnchorTransport(AOTConfig(), 0.7)
    same(queued(monkeypatch, method, visual, budget), method.compress(visual, budget))


@pytest.mark.parametrize("nonsense", ["features", "saliency", "both"])
def test_nonsense_is_no_reason_to_read_what_nobody_wrote(monkeypatch: pytest.MonkeyPatch, nonsense: str) -> None:
    """Encoders on CUDA hand on NaN, which is refused when the tokens are there."""
    visual = random_tokens(5, 5, (8, 7))
    if nonsense != "saliency":
        visual = replace(visual, features=torch.full_like(visual.features, torch.nan))
    if nonsense != "features":
        visual = replace(visual, saliency={layer: values * torch.nan for layer, values in visual.saliency.items()})
    found = queued(monkeypatch, AnchorTransport(AOTConfig(), 0.3), visual, 26)
    assert len(found.features) == 26
    for values, size in ((found.frame, 5), (found.row, 4), (found.col, 4), (found.role, len(Role))):
        assert ((values >= 0) & (values < size)).all()
    own = found.cell[found.role != int(Role.MERGED)].tolist()
    assert own == sorted(set(own))


def test_the_host_never_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    visual = random_tokens(0, 8, (8, 7))
    for module in ("anchors", "intra_frame", "inter_frame", "token_order"):
        kernels = __import__(f"aot.compression.aot.on_device.{module}", fromlist=["kernels"])
        for name in [name for name in vars(kernels) if name.endswith("_kernel")]:
            monkeypatch.setattr(kernels, name, _Skipped())
    monkeypatch.setattr(aot_queued, "runs_triton", lambda device: True)
    method, launches = AnchorTransport(AOTConfig(), 0.25), []
    _Skipped.launches = []
    method.compress(visual, 32)  # the tables of a grid, on the host, are built once
    _Skipped.launches = launches
    with counted_syncs() as waits:
        method.compress(visual, 32)
    assert not waits
    assert len(launches) == 29


class _Skipped:
    """A kernel that is not run: the interpreter reads back what a device would not."""

    launches: list[int]

    def __getitem__(self, grid: Any) -> Any:
        return lambda *args, **kwargs: self.launches.append(1)
