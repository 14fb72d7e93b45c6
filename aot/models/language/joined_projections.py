"""Store projections with the same input in one buffer, to compute them in one matrix product.

Each module keeps its parameter as a view of the buffer. Names, shapes, values and the state dict do
not change, and each module can still be called alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["join_projections", "one_tensor"]

# Projections to join, and a module that only decoder layers have: vision towers use the same names
# for projections.
_JOINED = ((("q_proj", "k_proj", "v_proj"), "o_proj"), (("gate_proj", "up_proj"), "down_proj"))


def join_projections(network: nn.Module, device: torch.device) -> None:
    """In each decoder layer, join projections that have the same input; move them to `device`.

    Layers are moved one by one, so extra memory is needed for one layer only. Weights are left
    alone if they are quantized or offloaded, or if a copy would not free memory (mapped files).
    """
    for module in network.modules():
        for names, other in _JOINED:
            if all(hasattr(module, name) for name in (*names, other)):
                _join([getattr(module, name) for name in names], device)


def one_tensor(parts: Sequence[Tensor | None]) -> Tensor | None:
    """Return the concatenation of `parts` along the first axis without a copy.

    Returns:
        None if a part is None, or the parts are not adjacent in one storage.
    """
    tensors = [part.detach() for part in parts if part is not None]
    if not tensors or len(tensors) < len(parts):
        return None
    first = tensors[0]
    end = first.storage_offset()
    for part in tensors:
        same = part.untyped_storage().data_ptr() == first.untyped_storage().data_ptr() and part.dtype == first.dtype
        if not (same and part.storage_offset() == end and part.is_contiguous() and part.shape[1:] == first.shape[1:]):
            return None
        end += part.numel()
    return first.as_strided((sum(map(len, tensors)), *first.shape[1:]), first.stride(), first.storage_offset())


def _join(modules: Sequence[Any], device: torch.device) -> None:
    weights = [module.weight for module in modules if _is_plain(module)]
    biases = [module.bias for module in modules if module.bias is not None] if len(weights) == len(modules) else []
    if len(weights) < len(modules) or len(biases) not in (0, len(modules)):
        return
    # Biases are joined in a separate buffer.
    for parameters in (weights, biases):
        alike = {(each.device, each.dtype, each.shape[1:]) for each in parameters}
        if len(alike) == 1 and all(_may_move(each, device) for each in parameters):
            _into_one(parameters, device)


def _is_plain(module: Any) -> bool:
    return type(module) is nn.Linear and type(module.weight) is nn.Parameter and not hasattr(module, "_hf_hook")


def _may_move(parameter: Tensor, device: torch.device) -> bool:
    """Return whether to move `parameter`: it has values, and moving frees memory or is needed."""
    # A view of a larger storage may be part of a mapped file, which is not copied into memory.
    owned = parameter.untyped_storage().nbytes() == parameter.nbytes
    return not parameter.is_meta and (owned or parameter.device != device)


@torch.no_grad()
def _into_one(parameters: Sequence[nn.Parameter], device: torch.device) -> None:
    rows = sum(map(len, parameters))
    buffer = torch.empty((rows, *parameters[0].shape[1:]), dtype=parameters[0].dtype, device=device)
    parts = buffer.split_with_sizes([len(each) for each in parameters])
    # The old storage of a parameter is freed as soon as it is copied.
    for parameter, part in zip(parameters, parts, strict=True):
        parameter.data = part.copy_(parameter)
