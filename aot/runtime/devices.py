"""Find the device on which a part of a network computes; its weights may be elsewhere."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["input_device"]


def input_device(module: nn.Module) -> torch.device:
    """Return the device that a module expects its inputs on.

    If accelerate spreads the weights over devices or loads them for each call, its hooks know the
    device. The hooks move inputs, but not tensors that are added to outputs; those need this
    device.
    """
    for part in module.modules():
        hook = getattr(part, "_hf_hook", None)
        for each in getattr(hook, "hooks", (hook,)):
            device = getattr(each, "execution_device", None)
            if device is not None:
                return torch.device(device)
    return next(module.parameters()).device
