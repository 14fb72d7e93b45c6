"""No method makes the host wait for a device, and each makes few launches, however many frames there are."""

from __future__ import annotations

from dataclasses import replace

import pytest

from aot.compression.methods import build_method, framefusion
from aot.compression.ops import padding, peak_clusters
from aot.compression.ops.source_weights import of_kept
from aot.config.schema import Config
from aot.plugins import METHODS
from aot.testing import Case, synthetic_video
from aot.types import CompressedTokens, Pooling
from tests.support.syncs import queued, without_values
from tests.support.tolerances import assert_close

# Methods with kernels: test_queued_pickers.py, test_ottvid_kernel.py, and tests/compression/aot. Dynamic clips of
# `aot` are read: their number decides which budgets are refused.
ELSEWHERE = {"aot", "aot-dyn", "floc", "ottvid", "simplecluster", "standout", "unified-stc", "vqtoken"}
# The most launches for 32 frames of 196 tokens; a loop over frames or tokens would make more.
LAUNCHES = {
    "attention": 20, "dycoke": 50, "earlytom": 170, "evs": 30, "fastvid": 260, "flashvid": 380, "framefusion": 1100,
    "frames": 20,
    "holitom": 440, "none": 20, "prumerge": 110, "prunevid": 680, "random": 20, "tempme": 100, "tome": 120,
    "tome-pooled": 520, "uniform": 20, "vcast": 110, "vidcom2": 240, "visionzip": 120,
    "echoprune": 60, "kitoke": 860,
}  # fmt: skip
QUEUED = sorted({*METHODS} - ELSEWHERE)
CASE = Case(32, (14, 14), Pooling("none"), 0.1)


@pytest.mark.parametrize("name", QUEUED)
def test_nothing_waits(name: str) -> None:
    case = replace(CASE, ratio=0.3 if name == "dycoke" else CASE.ratio)
    method = build_method(Config(method=name, ratio=case.ratio))
    tokens = without_values(synthetic_video(method.needs, case))
    budget = case.budget(case.ratio)
    with queued() as device:
        kept = method.compress(tokens, budget)
    assert kept.features.device.type == "meta"
    assert not device.waits
    assert len(kept.features) == (budget if name != "none" else CASE.total)
    assert device.launches <= LAUNCHES[name]


def same(found: CompressedTokens, expected: CompressedTokens) -> None:
    for field in ("frame", "row", "col", "role"):
        assert getattr(found, field).tolist() == getattr(expected, field).tolist()
    assert_close(found.mass, expected.mass, "float32")
    assert_close(found.features, expected.features, "float32")
    assert found.clips == expected.clips
    assert dict(found.facts) == dict(expected.facts)
    assert (found.sources is None) == (expected.sources is None)
    for name in ("token", "source", "weight"):
        assert_close(getattr(of_kept(found), name), getattr(of_kept(expected), name), "float32")


@pytest.mark.parametrize("ratio", [0.05, 0.3, 0.9])
@pytest.mark.parametrize("name", QUEUED)
def test_what_is_padded_keeps_the_same(name: str, ratio: float, monkeypatch: pytest.MonkeyPatch) -> None:
    case = replace(CASE, frames=13, grid=(8, 7), pool=Pooling("bilinear"), ratio=ratio)
    budget = max(case.budget(ratio), case.total // 13 * 4)
    method = build_method(Config(method=name, ratio=budget / case.total))
    tokens = replace(synthetic_video(method.needs, case), traced=True)
    expected = method.compress(tokens, budget)
    for module in (padding, peak_clusters, framefusion):
        monkeypatch.setattr(module, "is_queued", lambda device: True)
    same(method.compress(tokens, budget), expected)
