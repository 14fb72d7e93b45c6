"""Methods that pick or cluster step by step: no wait for the device, few launches, and the tokens of the torch version.

Without a CUDA device Triton's interpreter runs the kernels, and tensors without values show what is launched.
"""

from __future__ import annotations

import importlib
from dataclasses import replace
from typing import Any

import pytest
import torch

from aot.compression.methods import build_method, simplecluster
from aot.compression.ops import facility_location, farthest, kmeans
from aot.config.schema import Config
from aot.types import CompressedTokens, Pooling, VisualTokens
from tests.support.syncs import queued
from tests.support.synthetic_tokens import random_tokens
from tests.support.tolerances import assert_close

pytest.importorskip("triton")
pytestmark = pytest.mark.gpu
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
METHODS = ("floc", "standout", "unified-stc", "simplecluster", "vqtoken")


def runs_triton(patch: pytest.MonkeyPatch, runs: bool) -> None:
    for module in (facility_location, farthest, kmeans, simplecluster):
        patch.setattr(module, "runs_triton", lambda device: runs)


def video(seed: int, device: torch.device) -> VisualTokens:
    tokens = random_tokens(seed, 5, (8, 7))
    return replace(tokens, features=tokens.features.to(device), saliency={-1: tokens.saliency[-2].to(device)})


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", METHODS)
def test_the_tokens_of_the_torch_version(monkeypatch: pytest.MonkeyPatch, name: str, seed: int) -> None:
    method, tokens = build_method(Config(method=name)), replace(video(seed, DEVICE), traced=True)
    found: list[CompressedTokens] = []
    for runs in (False, True):
        runs_triton(monkeypatch, runs)
        found.append(method.compress(tokens, 20))
    for field in ("frame", "row", "col", "role", "mass"):
        assert torch.equal(*(getattr(each, field) for each in found))
    assert_close(found[1].features, found[0].features, "float32")
    for fact, value in found[0].facts.items():
        assert found[1].facts[fact] == pytest.approx(value, abs=1e-4)
    ours, theirs = (each.sources for each in found)
    assert (ours is None) == (theirs is None) == (name in ("floc", "standout"))  # which merge nothing
    if ours is not None and theirs is not None:
        assert torch.equal(ours.source, theirs.source)


class _Skipped:
    """A kernel that is not run."""

    def __init__(self, launches: list[str], name: str) -> None:
        self._launches, self._name = launches, name

    def __getitem__(self, grid: Any) -> Any:
        return lambda *args, **settings: self._launches.append(self._name)


@pytest.mark.parametrize(
    ("name", "launches"),
    [("floc", 680), ("standout", 70), ("unified-stc", 160), ("simplecluster", 410), ("vqtoken", 285)],
)
def test_the_host_never_waits(monkeypatch: pytest.MonkeyPatch, name: str, launches: int) -> None:
    """At the sizes of LLaVA-OneVision.

    The rounds of k-means dominate: at most 10 of 30 small launches in `simplecluster`, and 50 of four
    kernels in `vqtoken`, most of which return at once. In `floc`, every pick is a launch.
    """
    runs_triton(monkeypatch, True)
    kernels: list[str] = []
    for file in ("facility_kernel", "farthest_kernel", "kmeans_queued"):
        module = importlib.import_module(f"aot.compression.ops.{file}")
        for kernel in [kernel for kernel in vars(module) if kernel.endswith("_kernel")]:
            monkeypatch.setattr(module, kernel, _Skipped(kernels, kernel))
    tokens = VisualTokens(
        torch.empty(32, 729, 3584, dtype=torch.bfloat16, device="meta"), (27, 27), Pooling("bilinear"),
        tuple(map(float, range(32))), {-1: torch.empty(32, 729, device="meta")},
    )  # fmt: skip
    with queued() as device:
        kept = build_method(Config(method=name)).compress(tokens, 627)
    assert kept.features.is_meta and kept.features.shape == (627, 3584)
    assert not device.waits
    assert device.launches + len(kernels) <= launches
