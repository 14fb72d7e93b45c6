"""Compile parts of a network with torch.compile, for programs that answer many questions.

In a vision tower of SigLIP or CLIP, the blocks are compiled: norms, additions and activations
become few kernels, and attention stays the tower's. In the language model, the norms and MLPs are
compiled, for prompts of any length; a cache with slots would be compiled anew for each layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from aot.errors import first_line
from aot.runtime.devices import input_device

__all__ = ["compile_parts"]

# Frames or prompts, and rows of each, in an example. For 1 torch compiles special code: prompts are
# read one at a time, and frames nearly always in batches.
_FRAMES, _PROMPTS = (2, 5), (1, 5)


def compile_parts(tower: Any, language: Any) -> str | None:
    """Compile parts of `tower` and `language`, and run them once, so that no answer waits for it.

    Returns:
        A notice if the compiler does not work here; then nothing is compiled.
    """
    blocks, parts = list(_blocks(tower)), list(_norms_and_mlps(language))
    try:
        for part in (*blocks, *parts):
            part.compile(dynamic=True)
        with torch.no_grad():  # as towers are run
            _run_one_of_each(blocks, (*_FRAMES, tower.config.hidden_size), attention_mask=None)
        with torch.inference_mode():  # as prompts are read
            _run_one_of_each(parts, (*_PROMPTS, language.config.hidden_size))
    except Exception as error:  # a missing C++ compiler, an old GPU and others surface as various exceptions
        for part in (*blocks, *parts):
            part._compiled_call_impl = None
        return f"the model runs without torch.compile, which does not work here: {first_line(error)}"
    return None


def _blocks(tower: Any) -> Iterator[nn.Module]:
    """Yield the blocks of a tower that `aot.models.vision.tower` runs one by one."""
    yield from getattr(getattr(tower, "encoder", None), "layers", ()) if hasattr(tower, "embeddings") else ()


def _norms_and_mlps(language: Any) -> Iterator[nn.Module]:
    for layer in language.layers:
        yield from (layer.input_layernorm, layer.post_attention_layernorm, layer.mlp)


def _run_one_of_each(parts: list[nn.Module], shape: tuple[int, int, int], **more: Any) -> None:
    """Run the first module of each class; those of one class share what is compiled."""
    for part in {type(each): each for each in reversed(parts)}.values():
        weight: Tensor = next(part.parameters())
        part(torch.zeros(shape, dtype=weight.dtype, device=input_device(part)), **more)
