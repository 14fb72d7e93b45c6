"""Whether the Triton kernels run on a device; each has a twin in torch for where they do not."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

import torch

__all__ = ["runs_triton"]


def runs_triton(device: torch.device) -> bool:
    """CUDA devices, where Triton is installed."""
    return device.type == "cuda" and _has_triton()


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None
