"""Copy from the host to a device without waiting for it."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["uploaded"]


def uploaded(values: Tensor, device: torch.device) -> Tensor:
    """Return `values` on `device`; on CUDA, do not wait for the copy.

    On CUDA, `values` are first copied to pinned memory: a copy from there is only queued, whereas a
    copy from pageable memory waits for the device. torch frees the pinned memory after the copy.
    """
    if device.type != "cuda" or values.is_cuda:
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)
