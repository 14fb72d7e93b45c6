"""Where the parts of a network compute, which may be several devices, and not where their weights are kept."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["input_device"]


def input_device(module: nn.Module) -> torch.device:
    """The device that a module's inputs belong on.

    accelerate's hooks know it where weights are spread over devices, or fetched for each call; their inputs are moved
    by the hooks, but what is added to the outputs is not.
    """
    for part in module.modules():
        hook = getattr(part, "_hf_hook", None)
        for each in getattr(hook, "hooks", (hook,)):
            device = getattr(each, "execution_device", None)
            if device is not None:
                return torch.device(device)
    return next(module.parameters()).device
