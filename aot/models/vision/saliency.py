"""Record saliency and keys of chosen vision blocks, while the tower runs its usual kernel.

The saliency of a patch is the attention that the patch receives: the sum over queries, averaged
over heads (docs/algorithm.md, section 0). No CLS token is needed. At most one frame's attention
matrix is in memory.
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

__all__ = [
    "Recording",
    "attend",
    "attention_modules",
    "is_recorded",
    "kernel_name",
    "make_recordable",
    "record",
    "recorded_attention",
    "resolve_layer",
]

# Names of recording functions have this prefix, then the name of the kernel that is called.
_PREFIX = "aot_recorded_"
# Number of blocks in LLaVA-OneVision's tower. Published layer numbers refer to this tower.
_PUBLISHED_DEPTH = 26


@dataclass(frozen=True, slots=True)
class Recording:
    """Recorded tensors by layer number: saliency [B, N], and keys [B, N, heads, d].

    Each tensor holds one sequence, or a batch of sequences of equal length.
    """

    saliency: Mapping[int, list[Tensor]] = field(default_factory=dict)
    keys: Mapping[int, list[Tensor]] = field(default_factory=dict)


class _Recorder:
    """Collect saliency and keys of attention modules for one `recorded_attention` context."""

    def __init__(self, salient: Sequence[nn.Module], keyed: Sequence[nn.Module]) -> None:
        self.saliency: dict[nn.Module, list[Tensor]] = {module: [] for module in salient}
        self.keys: dict[nn.Module, list[Tensor]] = {module: [] for module in keyed}

    def record(self, module: nn.Module, query: Tensor, key: Tensor, scaling: float, lengths: list[int] | None) -> None:
        """Record from `query` and `key` [B, H, N, d]; `lengths` splits N into packed sequences."""
        if module in self.saliency:
            for queries, keys in zip(_sequences(query, lengths), _sequences(key, lengths), strict=True):
                self.saliency[module].append(received_attention(queries, keys, scaling))
        if module in self.keys:
            self.keys[module] += [keys.transpose(1, 2).clone() for keys in _sequences(key, lengths)]


def _sequences(values: Tensor, lengths: list[int] | None) -> Sequence[Tensor]:
    """Split `values` [B, H, N, d] into sequences of `lengths`; None means a single sequence."""
    return [values] if lengths is None else torch.split(values, lengths, dim=2)


# A context variable: a forward pass sees only the recorders of its own thread (or task).
_recorders: ContextVar[tuple[_Recorder, ...]] = ContextVar("aot_recorders", default=())
_switching = Lock()


def kernel_name(tower: Any) -> str:
    """Return the name of the tower's attention kernel, without the prefix for recording."""
    return str(tower.config._attn_implementation).removeprefix(_PREFIX)


def make_recordable(tower: nn.Module) -> None:
    """Make the blocks of `tower` attend through `_attend`, which runs the same kernel.

    This happens once per network and is never undone. A pass in another thread is not disturbed,
    because the kernel is the same under its old and its new name.
    """
    from transformers import AttentionInterface

    with _switching:
        configs: dict[int, Any] = {id(module.config): module.config for module in attention_modules(tower)}
        for config in configs.values():
            name = config._attn_implementation
            if not name.startswith(_PREFIX):
                # What records is never compiled, since it depends on the context.
                recorded = torch.compiler.disable(partial(_attend, name))  # type: ignore[no-untyped-call]
                AttentionInterface.register(_PREFIX + name, recorded)
                config._attn_implementation = _PREFIX + name


def _attend(name: str, module: nn.Module, query: Tensor, key: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Record for the recorders of this thread, then attend with the kernel `name`."""
    if is_recorded(module):
        # FlashAttention packs sequences and gives their cumulative lengths.
        packed = kwargs.get("cu_seq_lens_q")
        lengths = None if packed is None else packed.diff().tolist()
        record(module, query, key, kwargs.get("scaling") or query.shape[-1] ** -0.5, lengths)
    # FlashAttention reads the kernel's name from the module's configuration, so it must see the
    # name without the prefix.
    shown = _Shown(module, config=_Shown(module.config, _attn_implementation=name))
    return _kernel(name, module)(shown, query, key, *args, **kwargs)


def attend(module: Any, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
    """Return the attention output [B, n, H, d] by the kernel of `module`; record nothing.

    `query` is [B, H, n, d], `key` and `value` are [B, H, N, d].
    """
    name = module.config._attn_implementation.removeprefix(_PREFIX)
    shown = _Shown(module, config=_Shown(module.config, _attn_implementation=name))
    found: Tensor = _kernel(name, module)(
        shown, query, key, value, None, dropout=0.0, scaling=scaling, is_causal=False
    )[0]
    return found


def is_recorded(module: nn.Module) -> bool:
    """Return whether this thread records the attention of `module`."""
    return any(module in each.saliency or module in each.keys for each in _recorders.get())


def record(module: nn.Module, query: Tensor, key: Tensor, scaling: float, lengths: list[int] | None = None) -> None:
    """Record for this thread's recorders of `module`; for the arguments see `_Recorder.record`."""
    for recorder in _recorders.get():
        recorder.record(module, query, key, scaling, lengths)


def _kernel(name: str, module: nn.Module) -> Any:
    """Return the attention function `name` for `module`."""
    from transformers import AttentionInterface

    # Eager attention is not registered: each model file of transformers has its own function.
    if name == "eager":
        return sys.modules[type(module).__module__].eager_attention_forward
    return AttentionInterface()[name]


class _Shown:
    """View of an object with other values for some attributes."""

    def __init__(self, shown: Any, **own: Any) -> None:
        self.__dict__.update(own, _shown=shown)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._shown, name)


def attention_modules(tower: nn.Module) -> list[nn.Module]:
    """Return the tower's self-attention modules in order of blocks."""
    return [module for module in tower.modules() if hasattr(module, "qkv") or _projects_apart(module)]


def _projects_apart(module: nn.Module) -> bool:
    """Return whether queries and keys have separate projections, unlike Qwen-VL's `qkv`."""
    return hasattr(module, "q_proj") and hasattr(module, "k_proj")


def resolve_layer(layer: int, depth: int) -> int:
    """Return the block index, 0 .. `depth` - 1, of the layer number `layer`.

    Negative numbers count from the last block. If the tower has no such block, the number refers to
    LLaVA-OneVision's 26 blocks, and the result is the block at the same relative depth.
    """
    if -depth <= layer < depth:
        return layer % depth
    wanted = layer if layer >= 0 else layer + _PUBLISHED_DEPTH
    return min(max(round(wanted * depth / _PUBLISHED_DEPTH), 0), depth - 1)


def received_attention(query: Tensor, key: Tensor, scaling: float) -> Tensor:
    """Return the attention received by each key: float32 [B, N] from inputs [B, H, N, d]."""
    if runs_triton(query.device):
        from aot.models.vision.saliency_kernel import received_attention as fused

        return fused(query, key, scaling)
    return torch_received_attention(query, key, scaling)


def torch_received_attention(query: Tensor, key: Tensor, scaling: float) -> Tensor:
    """Compute `received_attention` with torch instead of Triton, on any device."""
    frames = []
    # Frame by frame, so that one frame's attention matrix [H, N, N] is the largest tensor.
    for q, k in zip(query, key, strict=True):
        attention = torch.softmax((q.float() * scaling) @ k.float().mT, dim=-1)
        frames.append(attention.sum(-2).mean(0))
    return torch.stack(frames)


@contextmanager
def recorded_attention(
    tower: Any, saliency_layers: tuple[int, ...], key_layers: tuple[int, ...] = ()
) -> Iterator[Recording]:
    """Record the forward passes of `tower` that this thread runs within the context.

    Each pass appends to the recording, whose keys are the numbers in `saliency_layers` and
    `key_layers`. `resolve_layer` says which block a number means.
    """
    if not saliency_layers and not key_layers:
        yield Recording()
        return
    # 1. The module of each layer number; several numbers may mean the same module.
    modules = attention_modules(tower)
    of_layer = {layer: modules[resolve_layer(layer, len(modules))] for layer in (*saliency_layers, *key_layers)}
    recorder = _Recorder([of_layer[layer] for layer in saliency_layers], [of_layer[layer] for layer in key_layers])
    # 2. Record until the context ends. Contexts of one thread may be nested.
    make_recordable(tower)
    token = _recorders.set((*_recorders.get(), recorder))
    try:
        yield Recording(
            {layer: recorder.saliency[of_layer[layer]] for layer in saliency_layers},
            {layer: recorder.keys[of_layer[layer]] for layer in key_layers},
        )
    finally:
        _recorders.reset(token)
