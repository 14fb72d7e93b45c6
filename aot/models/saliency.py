"""Saliency and keys of chosen vision blocks, read while the tower runs its usual attention kernel.

For an encoder without CLS token the saliency of a patch is the attention it receives: the mean over
heads of the sum over queries (docs/algorithm.md, section 0). No attention matrix larger than one frame's is held.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from aot.core.kernels import runs_triton

__all__ = ["Recording", "attention_modules", "recorded_attention", "resolve_layer"]

_NAME = "aot_saliency"
_PUBLISHED_DEPTH = 26  # blocks in LLaVA-OneVision's tower, which the published layer numbers refer to


@dataclass(frozen=True, slots=True)
class Recording:
    """By layer, one tensor for each time that its attention function was called: saliency [B, N], and keys
    [B, N, heads, d]. That is once per forward pass, but once per sequence where a tower packs several into one
    (Qwen-VL, whatever the kernel: it splits them unless the function's own name is a flash attention's).
    """

    saliency: Mapping[int, list[Tensor]] = field(default_factory=dict)
    keys: Mapping[int, list[Tensor]] = field(default_factory=dict)


class _Recorder:
    """What one attention module has shown so far, and the kernel that does the attending, under its own name."""

    def __init__(self, name: str, kernel: Any, *, saliency: bool, keys: bool) -> None:
        self.name, self.kernel = name, kernel
        self.wants_saliency, self.wants_keys = saliency, keys
        self.saliency: list[Tensor] = []
        self.keys: list[Tensor] = []

    def attend(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any = None, **kwargs: Any
    ) -> Any:
        if self.wants_saliency:
            self.saliency.append(received_attention(query, key, kwargs.get("scaling") or query.shape[-1] ** -0.5))
        if self.wants_keys:
            self.keys.append(key.transpose(1, 2).clone())
        with _named(module.config, self.name):
            return self.kernel(module, query, key, value, attention_mask, **kwargs)


@contextmanager
def _named(config: Any, name: str) -> Iterator[None]:
    """Within, a configuration that gives the attention this name: transformers' FlashAttention asks it for the library
    to call.
    """
    before = config._attn_implementation
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = before


_active: dict[nn.Module, _Recorder] = {}


def attention_modules(tower: nn.Module) -> list[nn.Module]:
    """The tower's self-attention modules, first block first; the projections are three, or one as in Qwen-VL."""
    return [module for module in tower.modules() if hasattr(module, "qkv") or _projects_apart(module)]


def _projects_apart(module: nn.Module) -> bool:
    return hasattr(module, "q_proj") and hasattr(module, "k_proj")


def resolve_layer(layer: int, depth: int) -> int:
    """Block index in 0 .. depth - 1; a block the tower does not have becomes the one at its relative depth."""
    if -depth <= layer < depth:
        return layer % depth
    wanted = layer if layer >= 0 else layer + _PUBLISHED_DEPTH
    return min(max(round(wanted * depth / _PUBLISHED_DEPTH), 0), depth - 1)


def received_attention(query: Tensor, key: Tensor, scaling: float) -> Tensor:
    """[B, H, N, d] queries and keys to [B, N] float32: attention each key receives."""
    if runs_triton(query.device):
        from aot.models.saliency_kernel import received_attention as fused

        return fused(query, key, scaling)
    return torch_received_attention(query, key, scaling)


def torch_received_attention(query: Tensor, key: Tensor, scaling: float) -> Tensor:
    """Return what `received_attention` returns, by torch alone; the twin of the Triton kernel, on any device."""
    frames = []
    for q, k in zip(query, key, strict=True):
        attention = torch.softmax((q.float() * scaling) @ k.float().mT, dim=-1)
        frames.append(attention.sum(-2).mean(0))
    return torch.stack(frames)


def _attend(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    return _active[module].attend(module, *args, **kwargs)


@contextmanager
def recorded_attention(
    tower: Any, saliency_layers: tuple[int, ...], key_layers: tuple[int, ...] = ()
) -> Iterator[Recording]:
    """Within the context, forward passes of `tower` append to the recording.

    The tower's attention setting is put back afterwards, also after an exception. Layers are the
    names the caller uses; see `resolve_layer`.
    """
    if not saliency_layers and not key_layers:
        yield Recording()
        return
    from transformers import AttentionInterface

    modules = attention_modules(tower)
    indices = {layer: resolve_layer(layer, len(modules)) for layer in (*saliency_layers, *key_layers)}
    salient, keyed = ({indices[layer] for layer in layers} for layers in (saliency_layers, key_layers))
    before = tower.config._attn_implementation
    outer = {module: _active[module] for module in modules if module in _active}
    name = "sdpa" if before == "eager" else before
    kernel = None if name == _NAME else AttentionInterface()[name]
    mine = {
        module: _Recorder(name, kernel or outer[module].attend, saliency=place in salient, keys=place in keyed)
        for place, module in enumerate(modules)
    }
    AttentionInterface.register(_NAME, _attend)
    try:
        _active.update(mine)
        tower.set_attn_implementation(_NAME)
        yield Recording(
            {layer: mine[modules[indices[layer]]].saliency for layer in saliency_layers},
            {layer: mine[modules[indices[layer]]].keys for layer in key_layers},
        )
    finally:
        for module in mine:
            del _active[module]
        _active.update(outer)
        if tower.config._attn_implementation != before:
            tower.set_attn_implementation(before)
