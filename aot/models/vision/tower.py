"""Run a vision tower block by block, with the unchanged modules of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["hidden_states"]


def hidden_states(tower: Any, pixels: Tensor, layers: Sequence[int], least_blocks: int = 0) -> list[Tensor]:
    """Return the hidden states [F, N, D] of `layers`, as a call of the whole tower does.

    SigLIP and CLIP run faster here: only the wanted states are kept, blocks after the last needed
    block do not run, and the states are contiguous. Otherwise SigLIP's states would have the
    strides of a transposed convolution output, which make additions and layer norms slow.

    Args:
        tower: the vision tower.
        pixels: [F, 3, H, W], normalized.
        layers: numbers as in `output_hidden_states`. 0 is the embeddings, k is the output of block
            number k - 1, and negative numbers count from the end.
        least_blocks: the minimum number of blocks to run, because attention in them is recorded.
    """
    blocks = getattr(getattr(tower, "encoder", None), "layers", None)
    if blocks is None or not hasattr(tower, "embeddings") or _is_hooked(tower):
        # Another architecture, or hooks that only a call of the whole tower runs.
        states = tower(pixels, output_hidden_states=True).hidden_states
        return [states[layer] for layer in layers]
    numbers = [range(len(blocks) + 1)[layer] for layer in layers]
    hidden = tower.embeddings(pixels)
    # CLIP has a norm before its blocks, which transformers misspells.
    if hasattr(tower, "pre_layrnorm"):
        hidden = tower.pre_layrnorm(hidden)
    hidden = hidden.contiguous()
    wanted = {0: hidden} if 0 in numbers else {}
    for number, block in enumerate(blocks[: max(*numbers, least_blocks)], 1):
        hidden = _output(block(hidden, attention_mask=None))
        if number in numbers:
            wanted[number] = hidden
    return [wanted[number] for number in numbers]


def _output(found: Any) -> Tensor:
    """Return a block's hidden states, which some versions of transformers wrap in a tuple."""
    return found if isinstance(found, torch.Tensor) else found[0]


def _is_hooked(tower: Any) -> bool:
    """Return whether a call of `tower` also runs hooks, e.g. to move data between devices."""
    return bool(tower._forward_pre_hooks or tower._forward_hooks or "forward" in vars(tower))
