"""OTT-Vid's picks in Triton are those of torch, and the host never waits. The interpreter runs the kernels here."""

from __future__ import annotations

import sys

import pytest
import torch
from torch.nn import functional

from aot.compression.aot import sinkhorn
from aot.compression.methods import build_method, ottvid
from aot.config.schema import Config
from aot.types import Pooling, VisualTokens
from tests.support.compile_kernels import AMPERE, HOPPER, Job, cubin_bytes
from tests.support.syncs import queued

pytest.importorskip("triton")
pytestmark = pytest.mark.gpu
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize(
    ("batch", "items", "different", "steps"), [(3, 40, 40, 40), (2, 300, 300, 17), (2, 12, 3, 12), (1, 1, 1, 1)]
)
def test_picks(monkeypatch: pytest.MonkeyPatch, batch: int, items: int, different: int, steps: int) -> None:
    """Also of items that repeat, where the lower index decides."""
    generator = torch.Generator().manual_seed(items)
    values = torch.randn(batch, different, 6, generator=generator, dtype=torch.float64)
    unit = functional.normalize(values[:, torch.arange(items) % different], dim=-1)
    similarity, weight = (unit @ unit.mT).to(DEVICE), torch.rand(batch, items, generator=generator).double().to(DEVICE)
    weight = weight / weight.sum(1, keepdim=True)
    found = []
    for runs in (False, True):
        monkeypatch.setattr(ottvid, "runs_triton", lambda device, runs=runs: runs)
        found.append(ottvid.representatives(similarity, weight, steps))
    assert torch.equal(*found)
    assert all(len(row.unique()) == steps for row in found[0])


class _Skipped:
    """A kernel that is not run."""

    def __init__(self, launches: list[str], name: str) -> None:
        self._launches, self._name = launches, name

    def __getitem__(self, grid: object) -> object:
        return lambda *args, **settings: self._launches.append(self._name)


def test_the_host_never_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the sizes of LLaVA-OneVision. The rounds in which pairs of frames share merges dominate."""
    from aot.compression.aot import sinkhorn_kernel
    from aot.compression.methods import ottvid_kernel

    kernels: list[str] = []
    for module in (sinkhorn_kernel, ottvid_kernel):
        for kernel in [kernel for kernel in vars(module) if kernel.endswith("_kernel")]:
            monkeypatch.setattr(module, kernel, _Skipped(kernels, kernel))
    for module in (ottvid, sinkhorn):
        monkeypatch.setattr(module, "runs_triton", lambda device: True)
    tokens = VisualTokens(
        torch.empty(32, 729, 3584, dtype=torch.bfloat16, device="meta"), (27, 27), Pooling("bilinear"),
        tuple(map(float, range(32))), {-1: torch.empty(32, 729, device="meta")},
    )  # fmt: skip
    with queued() as device:
        kept = build_method(Config(method="ottvid")).compress(tokens, 627)
    assert kept.features.is_meta and kept.features.shape == (627, 3584)
    assert not device.waits
    assert sorted(kernels) == ["plan_kernel", "represent_kernel", "scaling_kernel"]
    assert device.launches <= 480


@pytest.mark.skipif(sys.platform != "linux", reason="Triton compiles for CUDA on Linux")
def test_the_kernel_builds() -> None:
    types = {"similarity": "*fp64", "weight": "*fp64", "gains": "*fp64", "picks": "*i64"}
    jobs: list[Job] = [
        ("represent_kernel", types, {"block": block, "rows": rows}, capability)
        for block, rows in ((256, 16), (1024, 4))
        for capability in (AMPERE, HOPPER)
    ]
    assert min(cubin_bytes("aot.compression.methods.ottvid_kernel", jobs)) > 1000
