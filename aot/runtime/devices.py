"""Find the device on which a module computes; its weights may be on another device."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["input_device"]


def input_device(module: nn.Module) -> torch.device:
    """Return the device on which `module` expects its inputs.

    If accelerate spreads the weights over devices or loads them for each call, its hooks name the
    device in `execution_device`. The hooks move the inputs of `module`, but not the tensors that
    the caller adds to its outputs. The caller must move such tensors to the returned device.
    """
    for part in module.modules():
        hook = getattr(part, "_hf_hook", None)
        for each in getattr(hook, "hooks", (hook,)):
            device = getattr(each, "execution_device", None)
            if device is not None:
                return torch.device(device)
    return next(module.parameters()).device
