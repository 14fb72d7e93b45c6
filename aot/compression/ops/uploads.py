"""Copy from the host to a device without waiting for it."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["uploaded"]


def uploaded(values: Tensor, device: torch.device) -> Tensor:
    """Return `values` on `device`; on CUDA, the copy is queued after the work on the device.

    For a copy from pageable memory, the host waits until the device has finished all work. A copy
    from pinned memory is queued. torch keeps the pinned memory until the copy is done.
    """
    if device.type != "cuda" or values.is_cuda:
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)
