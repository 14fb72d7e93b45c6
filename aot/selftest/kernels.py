"""Check that the Triton kernels agree with their torch versions on every CUDA device."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from aot.compression.aot.sinkhorn import sinkhorn
from aot.compression.ops.kernels import runs_triton
from aot.models.vision.saliency import received_attention
from aot.selftest.bundled import devices
from aot.selftest.check import Check, CheckFailedError, CheckSkipped

__all__ = ["checks", "saliency", "transport"]

_RELATIVE_LIMIT = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 5e-3}


def checks() -> Iterator[Check]:
    """Yield the checks of every CUDA device; without CUDA, yield one skipped check."""
    cuda = [device for device in devices() if device.startswith("cuda")]
    if not cuda:
        yield Check("kernels", _skip_without_cuda)
    for device in cuda:
        yield Check(f"transport kernel on {device}", partial(transport, torch.device(device)))
        for dtype in _RELATIVE_LIMIT:
            name = f"saliency kernel on {device} in {str(dtype).removeprefix('torch.')}"
            yield Check(name, partial(saliency, torch.device(device), dtype))


def _skip_without_cuda() -> str:
    raise CheckSkipped("no CUDA device; the torch versions run here, which `kept tokens` below exercises")


def transport(device: torch.device) -> str:
    """Compare plans of the Triton kernel and the torch version, for 603 patches and 126 anchors."""
    _require_triton(device)
    cost = torch.rand(4, 603, 126, generator=torch.Generator().manual_seed(0)).to(device)
    weights = cost.new_full((4, 603), 1 / 603), cost.new_full((4, 126), 1 / 126)
    kernel, twin = (sinkhorn(cost, *weights, joint=True, solver=solver).plan for solver in ("auto", "torch"))
    return _compare(kernel, twin, torch.float32)


def saliency(device: torch.device, dtype: torch.dtype) -> str:
    """Compare the saliency on `device` in `dtype` with the torch version in float32 on the CPU."""
    _require_triton(device)
    generator = torch.Generator().manual_seed(1)
    query, key = (torch.randn(2, 4, 729, 72, generator=generator).to(dtype) for _ in range(2))
    kernel = received_attention(query.to(device), key.to(device), 72**-0.5)
    return _compare(kernel.cpu(), received_attention(query.float(), key.float(), 72**-0.5), dtype)


def _require_triton(device: torch.device) -> None:
    if not runs_triton(device):
        raise CheckSkipped("Triton does not work here; the slower torch versions are used instead")


def _compare(found: Tensor, expected: Tensor, dtype: torch.dtype) -> str:
    difference = float((found - expected).abs().max() / expected.abs().max())
    limit = _RELATIVE_LIMIT[dtype]
    detail = f"largest difference {difference:.1e} of the largest value"
    if not difference <= limit:  # NaN fails too
        raise CheckFailedError(f"{detail} (at most {limit:.0e})")
    return detail
