"""Decide whether Triton kernels can run on a device; each kernel has an equivalent in torch."""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch
from torch import Tensor

__all__ = ["block_of", "needs_grad", "on_device", "runs_triton"]


def runs_triton(device: torch.device) -> bool:
    """Return whether `device` is a CUDA device on which Triton works (this needs a C compiler)."""
    return device.type == "cuda" and _has_triton()


def needs_grad(*values: Tensor) -> bool:
    """Return whether autograd records operations on one of `values`.

    Kernels have no backward. Whatever kept features depend on smoothly is then computed in torch;
    selections are constants, so their kernels run all the same.
    """
    return torch.is_grad_enabled() and any(each.requires_grad for each in values)


def on_device(device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which `device` is the current CUDA device; without effect on other types.

    Triton launches on the current device, even if the arguments are on another device.
    """
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def block_of(count: int, least: int = 32) -> int:
    """Return the lowest power of 2 that is at least `count` and at least `least`.

    Each new value compiles kernels again, which takes seconds; `least` avoids many small values.
    """
    return max(least, 1 << (count - 1).bit_length())


@cache
def _has_triton() -> bool:
    # Importing Triton is not enough: it builds its launcher with a C compiler.
    try:
        from triton.runtime import driver

        driver.active.get_current_target()  # builds the launcher
    except ImportError:
        return False
    except Exception as error:  # a missing C compiler surfaces as various exceptions
        reason = " ".join(str(error).split())[:200]
        warnings.warn(f"Triton does not work here ({reason}); slower torch operations are used instead", stacklevel=2)
        return False
    return True
