"""Measure what the machine can do at most, and what share of it a run reaches."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from aot.bench.timing import copy_bytes_per_second, elapsed_ms
from aot.models.base import VideoModel
from aot.models.composed import ComposedModel

__all__ = ["Ceilings", "bytes_per_token"]

_SIDE = {"cuda": 8192}
_SIDE_ELSEWHERE = 1024
_ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Ceilings:
    """The rates of a large matrix product and of a large copy (bytes read and written)."""

    flops_per_s: float
    copy_bytes_per_s: float

    @classmethod
    def measured(cls, device: torch.device, dtype: torch.dtype) -> Ceilings:
        """Measure both on `device`; the product has factors of `dtype`."""
        side = _SIDE.get(device.type, _SIDE_ELSEWHERE)
        factor = torch.ones(side, side, device=device, dtype=dtype) / side
        best_ms = min(elapsed_ms(lambda: factor @ factor, device) for _ in range(_ROUNDS + 1))
        return cls(2 * side**3 / best_ms * 1e3, copy_bytes_per_second(device))


def bytes_per_token(model: VideoModel) -> int | None:
    """Return the bytes of weights that the language model reads for one token after the first.

    Returns:
        None if a token reads only some of the weights (mixture of experts).
    """
    assert isinstance(model, ComposedModel)
    network, text = model.network, model.network.config.text_config
    if getattr(text, "num_experts", None):
        return None
    # The table of embeddings is not read as a whole, unless the head is the same tensor.
    embedded = {id(weights) for weights in network.get_input_embeddings().parameters()}
    body: int = sum(weights.nbytes for weights in model.language.parameters() if id(weights) not in embedded)
    head: int = sum(weights.nbytes for weights in network.get_output_embeddings().parameters())
    return body + head
