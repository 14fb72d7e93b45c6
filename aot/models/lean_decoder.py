"""One token of each sequence through a decoder: the modules' own weights, without what the modules do beside.

A single token needs no causal mask and no shapes worked out anew, and the queries that share a key head are rows of one
product. So a step has half the operations that it has through the modules, and next to nothing happens between them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from aot.models.decoders import is_plain_decoder
from aot.models.rotary import of_three_axes
from aot.models.slots import Slots

__all__ = ["LeanDecoder", "why_not_lean"]


def why_not_lean(body: Any, cache: Any) -> str | None:
    """Return why a language model (without its head) has to be called as a whole; None if it need not."""
    if not is_plain_decoder(body) or not all(isinstance(layer, Slots) for layer in cache.layers):
        return f"{body.config.model_type} is not read layer by layer here"
    if len({each.device for each in body.parameters()}) > 1 or any(
        hasattr(part, "_hf_hook") for part in body.modules()
    ):
        return "the model is spread over devices, or moved to one when it is called"
    return None


class LeanDecoder:
    """A language model (without its head) that `why_not_lean` has nothing against."""

    def __init__(self, body: Any) -> None:
        self._layers = [_Layer(layer) for layer in body.layers]
        self._rotary, self._config, self._norm = body.rotary_emb, body.config, _norm(body.norm)

    def __call__(
        self, states: Tensor, position: Tensor, layers: Sequence[Slots], masks: Sequence[Tensor | None]
    ) -> Tensor:
        """Embeddings [B, D] of words at a position [B, 1] or [3, B, 1] to states [B, D] behind the last layer, normed.

        masks: of each layer, [B, 1, 1, L], which keys are seen; None: all.
        """
        rotary = self._rotary(states, position)
        cosines, sines = of_three_axes(rotary, self._config) if rotary[0].ndim == 4 else rotary
        half = sines.shape[-1] // 2
        signed = torch.cat([-sines[..., :half], sines[..., half:]], -1)
        for layer, slots, mask in zip(self._layers, layers, masks, strict=True):
            states = layer(states, cosines, signed, slots, mask)
        return self._norm(states)


class _Layer:
    def __init__(self, layer: Any) -> None:
        attention = layer.self_attn
        self._width, self._scale = attention.head_dim, attention.scaling
        self._before, self._between = _norm(layer.input_layernorm), _norm(layer.post_attention_layernorm)
        self._queries, self._keys = _linear(attention.q_proj), _linear(attention.k_proj)
        self._values, self._out = _linear(attention.v_proj), _linear(attention.o_proj)
        self._norms = (_norm(attention.q_norm), _norm(attention.k_norm)) if hasattr(attention, "q_norm") else None
        self._mlp = _mlp(layer.mlp)

    def __call__(self, states: Tensor, cosines: Tensor, sines: Tensor, slots: Slots, mask: Tensor | None) -> Tensor:
        states = states + self._attend(self._before(states), cosines, sines, slots, mask)
        return states + self._mlp(self._between(states))

    def _attend(self, states: Tensor, cosines: Tensor, sines: Tensor, slots: Slots, mask: Tensor | None) -> Tensor:
        batch = len(states)
        queries, keys, values = (
            project(states).view(batch, -1, self._width) for project in (self._queries, self._keys, self._values)
        )
        if self._norms:
            queries, keys = self._norms[0](queries), self._norms[1](keys)
        heads, key_heads = queries.shape[1], keys.shape[1]
        both = torch.cat([queries, keys], 1)
        both = both * cosines + both.roll(self._width // 2, -1) * sines
        grouped = both[:, :heads].view(batch, key_heads, -1, self._width)  # queries of one key head together
        seen_keys, seen_values = slots.update(both[:, heads:, None], values[:, :, None])
        attended = functional.scaled_dot_product_attention(
            grouped, seen_keys, seen_values, attn_mask=mask, scale=self._scale
        )
        return self._out(attended.reshape(batch, -1))


_Function = Callable[[Tensor], Tensor]


def _linear(module: nn.Module) -> _Function:
    """What a projection computes; quantised ones know best themselves."""
    return partial(functional.linear, weight=module.weight, bias=module.bias) if type(module) is nn.Linear else module


def _norm(module: Any) -> _Function:
    weight, eps = module.weight, module.variance_epsilon
    if weight.is_cuda:
        return partial(functional.rms_norm, normalized_shape=weight.shape, weight=weight, eps=eps)

    def normed(states: Tensor) -> Tensor:  # half the operations that `rms_norm` is made of off CUDA
        wide = states.float()
        scale = wide.square().mean(-1, keepdim=True).add_(eps).rsqrt_()
        scaled: Tensor = weight * (wide * scale).to(states.dtype)
        return scaled

    return normed


def _mlp(module: Any) -> _Function:
    """What follows attention; experts pick themselves."""
    if not all(hasattr(module, name) for name in ("gate_proj", "up_proj", "down_proj", "act_fn")):
        return lambda states: module(states[:, None])[:, 0]
    gate, up, down = (_linear(getattr(module, name)) for name in ("gate_proj", "up_proj", "down_proj"))
    act = functional.silu if isinstance(module.act_fn, nn.SiLU) else module.act_fn
    return lambda states: down(act(gate(states)) * up(states))
