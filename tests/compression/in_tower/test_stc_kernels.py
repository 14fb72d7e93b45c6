"""Which tokens reuse computes, in Triton as in torch. Without a CUDA device the interpreter runs the kernels."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor

from aot.compression.in_tower import stc
from aot.compression.in_tower.stc import ReuseGroup, computed_rows
from tests.support.compile_kernels import AMPERE, HOPPER, Job, cubin_bytes

pytest.importorskip("triton")
pytestmark = pytest.mark.gpu
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def in_torch_and_triton(monkeypatch: pytest.MonkeyPatch, keys: Tensor, group: ReuseGroup) -> tuple[Tensor, Tensor]:
    """Return the computed rows by both, each sorted."""
    found = []
    for runs in (False, True):
        monkeypatch.setattr(stc, "runs_triton", lambda device, runs=runs: runs)
        found.append(computed_rows(keys, group).sort().values)
    return found[0], found[1]


def group_of(*reference_of: int, references: int = 2, share: float = 0.25, always: int = 0) -> ReuseGroup:
    return ReuseGroup(references, torch.tensor(reference_of, device=DEVICE), share, always)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("tokens", "width", "always", "share"), [(81, 130, 0, 0.25), (150, 16, 1, 0.5), (5, 8, 3, 1)])
def test_twins(
    monkeypatch: pytest.MonkeyPatch, tokens: int, width: int, always: int, share: float, dtype: torch.dtype
) -> None:
    keys = torch.randn(5, tokens, width, generator=torch.Generator().manual_seed(tokens)).to(DEVICE, dtype)
    group = group_of(0, 1, 1, share=share, always=always)
    expected, found = in_torch_and_triton(monkeypatch, keys, group)
    assert torch.equal(found, expected)
    assert len(found) == 2 * tokens + 3 * group.count(tokens)


def test_ties_go_to_the_lower_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few different keys, among them zeros."""
    keys = torch.randint(-1, 2, (4, 200, 2), generator=torch.Generator().manual_seed(0)).float().to(DEVICE)
    expected, found = in_torch_and_triton(monkeypatch, keys, group_of(1, 0))
    assert torch.equal(found, expected)


def test_every_row_is_written_in_spite_of_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = torch.randn(4, 90, 8, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    keys[2, ::2] = torch.nan
    keys[3] = torch.nan
    expected, found = in_torch_and_triton(monkeypatch, keys, group_of(0, 1, share=0.8, always=1))
    assert torch.equal(found, expected)


@pytest.mark.skipif(sys.platform != "linux", reason="Triton compiles for CUDA on Linux")
def test_they_compile_to_machine_code() -> None:
    types = {"reference_of": "*i64", "similarity": "*fp32", "rows": "*i64"}
    jobs: list[Job] = [
        ("similarity_kernel", {"keys": real, **types}, {"rows": 8, "tile": 128}, gpu)
        for real in ("*bf16", "*fp32")
        for gpu in (AMPERE, HOPPER)
    ]
    jobs += [("rows_kernel", types, {"tile": 64}, gpu) for gpu in (AMPERE, HOPPER)]
    assert min(cubin_bytes("aot.compression.in_tower.stc_kernels", jobs)) > 1000
