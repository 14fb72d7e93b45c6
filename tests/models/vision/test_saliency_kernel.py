"""The kernel's twin is the torch version, whose twin is eager attention (test_saliency.py)."""

from __future__ import annotations

import sys

import pytest
import torch

from aot.models.vision import saliency
from aot.models.vision.saliency import received_attention, torch_received_attention
from tests.support.compile_kernels import AMPERE, HOPPER, Job, cubin_bytes
from tests.support.tolerances import assert_close

pytest.importorskip("triton")
pytestmark = pytest.mark.gpu
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Triton's interpreter multiplies no bfloat16.
DTYPES = [torch.float32, torch.float16] + [torch.bfloat16] * (DEVICE == "cuda")
SHAPES = [(2, 3, 100, 72), (1, 2, 64, 16), (2, 1, 729, 72), (1, 2, 130, 40), (1, 1, 1, 8)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_twins(shape: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    from aot.models.vision.saliency_kernel import received_attention as fused

    frames, heads, patches, width = shape
    generator = torch.Generator().manual_seed(patches)
    query = 2 * torch.randn(shape, generator=generator)
    key = torch.randn(frames, patches, heads, width, generator=generator).transpose(1, 2)  # as a projection gives it
    query, key = (values.to(DEVICE, dtype) for values in (query, key))
    expected, found = (run(query, key, width**-0.5) for run in (torch_received_attention, fused))
    assert found.dtype == torch.float32
    assert_close(found, expected, "float32")
    assert_close(found.sum(1), [patches] * frames, "sum")


def test_cuda_devices_take_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    from aot.models.vision import saliency_kernel

    monkeypatch.setattr(saliency, "runs_triton", lambda device: True)
    monkeypatch.setattr(saliency_kernel, "received_attention", lambda query, key, scaling: "fused")
    query = key = torch.zeros(1, 1, 4, 8)
    assert received_attention(query, key, 1.0) == "fused"
    assert torch_received_attention(query, key, 1.0).tolist() == [[1.0] * 4]  # the twin stays what it is


@pytest.mark.skipif(sys.platform != "linux", reason="Triton compiles for CUDA on Linux")
def test_it_compiles_to_machine_code() -> None:
    types = {"normalizers": "*fp32", "received": "*fp32", "scaling": "fp32"}
    jobs: list[Job] = [
        (
            kernel,
            {"query": real, "key": real, **types},
            {"own_tile": 2 * other, "other_tile": other, "units": 64, "more_units": 16},
            gpu,
        )
        for kernel in ("normalizer_kernel", "received_kernel")
        for real, other, gpu in (("*bf16", 64, AMPERE), ("*bf16", 64, HOPPER), ("*fp32", 32, HOPPER))
    ]
    assert min(cubin_bytes("aot.models.vision.saliency_kernel", jobs)) > 1000
