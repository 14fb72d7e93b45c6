"""Whether the Triton kernels run on a device; each has a twin in torch for where they do not."""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch

__all__ = ["on_device", "runs_triton"]


def runs_triton(device: torch.device) -> bool:
    """CUDA devices, where Triton is installed and finds the C compiler it needs."""
    return device.type == "cuda" and _has_triton()


def on_device(device: torch.device) -> AbstractContextManager[object]:
    """Triton launches on the current device, whatever its arguments are on."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


@cache
def _has_triton() -> bool:
    try:
        from triton.runtime import driver

        driver.active.get_current_target()  # builds Triton's launcher
    except ImportError:
        return False
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        warnings.warn(f"Triton does not work here ({reason}); slower kernels take its place", stacklevel=2)
        return False
    return True
