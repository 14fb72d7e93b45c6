"""Saliency and keys of chosen vision blocks, read while the tower runs its usual attention kernel.

For an encoder without CLS token the saliency of a patch is the attention it receives: the mean over
heads of the sum over queries (docs/algorithm.md, section 0). No attention matrix larger than one frame's is held.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn

from aot.compression.ops.kernels import runs_triton

__all__ = ["Recording", "attention_modules", "kernel_name", "recorded_attention", "resolve_layer"]

_PREFIX = "aot_recorded_"  # before a kernel's name: the attention function that records, then calls the kernel
_PUBLISHED_DEPTH = 26  # blocks in LLaVA-OneVision's tower, which the published layer numbers refer to


@dataclass(frozen=True, slots=True)
class Recording:
    """By layer, one tensor for each sequence, or batch of equally long ones, that its attention read: saliency
    [B, N], and keys [B, N, heads, d].
    """

    saliency: Mapping[int, list[Tensor]] = field(default_factory=dict)
    keys: Mapping[int, list[Tensor]] = field(default_factory=dict)


class _Recorder:
    """Collects what chosen attention modules show, for one thread's `recorded_attention`."""

    def __init__(self, salient: Sequence[nn.Module], keyed: Sequence[nn.Module]) -> None:
        self.saliency: dict[nn.Module, list[Tensor]] = {module: [] for module in salient}
        self.keys: dict[nn.Module, list[Tensor]] = {module: [] for module in keyed}

    def record(self, module: nn.Module, query: Tensor, key: Tensor, scaling: float, lengths: list[int] | None) -> None:
        """Record queries and keys [B, H, N, d]; `lengths` where N packs several sequences."""
        if module in self.saliency:
            for queries, keys in zip(_sequences(query, lengths), _sequences(key, lengths), strict=True):
                self.saliency[module].append(received_attention(queries, keys, scaling))
        if module in self.keys:
            self.keys[module] += [keys.transpose(1, 2).clone() for keys in _sequences(key, lengths)]


def _sequences(values: Tensor, lengths: list[int] | None) -> Sequence[Tensor]:
    return [values] if lengths is None else torch.split(values, lengths, dim=2)


# Of the running thread (or task): a forward pass runs where it was begun, so no other sees these recorders.
_recorders: ContextVar[tuple[_Recorder, ...]] = ContextVar("aot_recorders", default=())
_switching = Lock()


def kernel_name(tower: Any) -> str:
    """Return the name of the attention kernel that a tower runs, whether it can be recorded or not."""
    return str(tower.config._attn_implementation).removeprefix(_PREFIX)


def _make_recordable(modules: Sequence[nn.Module]) -> None:
    """Let the modules attend through `_attend` from now on: with the same kernel, and the same numbers.

    This happens once for a network and is never undone. A pass of another thread that is under way then goes on with
    the same kernel, under either name.
    """
    from transformers import AttentionInterface

    with _switching:
        configs: dict[int, Any] = {id(module.config): module.config for module in modules}
        for config in configs.values():
            name = config._attn_implementation
            if not name.startswith(_PREFIX):
                AttentionInterface.register(_PREFIX + name, partial(_attend, name))
                config._attn_implementation = _PREFIX + name


def _attend(name: str, module: nn.Module, query: Tensor, key: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Record for this thread's recorders, and attend with the kernel called `name`."""
    recorders = [each for each in _recorders.get() if module in each.saliency or module in each.keys]
    if recorders:
        packed = kwargs.get("cu_seq_lens_q")
        lengths = None if packed is None else packed.diff().tolist()
        scaling = kwargs.get("scaling") or query.shape[-1] ** -0.5
        for recorder in recorders:
            recorder.record(module, query, key, scaling, lengths)
    # FlashAttention asks the module's configuration which library to call, so it is shown the kernel's own name.
    shown = _Shown(module, config=_Shown(module.config, _attn_implementation=name))
    return _kernel(name, module)(shown, query, key, *args, **kwargs)


def _kernel(name: str, module: nn.Module) -> Any:
    from transformers import AttentionInterface

    if name == "eager":  # each family's file has its own
        return sys.modules[type(module).__module__].eager_attention_forward
    return AttentionInterface()[name]


class _Shown:
    """Another object, some attributes of which read differently."""

    def __init__(self, shown: Any, **own: Any) -> None:
        self.__dict__.update(own, _shown=shown)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._shown, name)


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
        from aot.models.vision.saliency_kernel import received_attention as fused

        return fused(query, key, scaling)
    return torch_received_attention(query, key, scaling)


def torch_received_attention(query: Tensor, key: Tensor, scaling: float) -> Tensor:
    """Return what `received_attention` returns, by torch alone; the twin of the Triton kernel, on any device."""
    frames = []
    for q, k in zip(query, key, strict=True):
        attention = torch.softmax((q.float() * scaling) @ k.float().mT, dim=-1)
        frames.append(attention.sum(-2).mean(0))
    return torch.stack(frames)


@contextmanager
def recorded_attention(
    tower: Any, saliency_layers: tuple[int, ...], key_layers: tuple[int, ...] = ()
) -> Iterator[Recording]:
    """Within the context, forward passes of `tower` in this thread append to the recording; those of other threads do
    not. Layers are the names the caller uses; see `resolve_layer`.
    """
    if not saliency_layers and not key_layers:
        yield Recording()
        return
    modules = attention_modules(tower)
    of_layer = {layer: modules[resolve_layer(layer, len(modules))] for layer in (*saliency_layers, *key_layers)}
    recorder = _Recorder([of_layer[layer] for layer in saliency_layers], [of_layer[layer] for layer in key_layers])
    _make_recordable(modules)
    token = _recorders.set((*_recorders.get(), recorder))
    try:
        yield Recording(
            {layer: recorder.saliency[of_layer[layer]] for layer in saliency_layers},
            {layer: recorder.keys[of_layer[layer]] for layer in key_layers},
        )
    finally:
        _recorders.reset(token)
