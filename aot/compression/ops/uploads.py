"""Copy from the host to a device without waiting for it."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["uploaded"]


def uploaded(values: Tensor, device: torch.device) -> Tensor:
    """Return `values` on `device`, in order with the work queued there.

    A copy from ordinary memory makes the host wait until the device has done all its work. A copy
    from pinned memory is queued. torch keeps pinned memory until its copy is done.
    """
    if device.type != "cuda" or values.is_cuda:
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)
