"""Attention for prompts of any length on CUDA, with kernels that need no plan for each length.

`scaled_dot_product_attention` of torch prefers the kernel of cuDNN on recent GPUs, which plans anew
in each thread and for each length: 50 to 80 ms before the first token of an answer. The switch that
turns this kernel off is global to the process. So the other kernels are called directly here. The
vision tower keeps the choice of torch, because its inputs nearly always have the same shape.
"""

from __future__ import annotations

from threading import Lock
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["causal_attention", "use_prompt_attention", "uses_prompt_attention"]

_NAME, _STOCK = "aot_prompt", "sdpa"
_ALIGNED = 16  # rows of a mask begin at multiples of this, as the kernel demands
_registering = Lock()


def use_prompt_attention(language: Any) -> None:
    """Make a language model attend through `_attend` if it uses the attention of torch.

    Only the name of the function in the model's configuration changes.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    if language.config._attn_implementation != _STOCK:
        return
    with _registering:
        AttentionInterface.register(_NAME, _attend)
        AttentionMaskInterface.register(_NAME, sdpa_mask)
    language.config._attn_implementation = _NAME


def uses_prompt_attention(language: Any) -> bool:
    """Return whether `use_prompt_attention` changed the model, which no other attention has."""
    return bool(language.config._attn_implementation == _NAME)


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """Return attention [B, R, H, d] of `query` [B, H, R, d], as `sdpa_attention_forward` does."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    causal = attention_mask is None and query.shape[2] > 1 and (module.is_causal if is_causal is None else is_causal)
    plain = not more.get("dropout") and more.get("position_bias") is None and more.get("softcap") is None
    if not (plain and _is_supported(query, key, value) and (not causal or query.shape[2] == key.shape[2])):
        found, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, is_causal=is_causal, **more
        )
        return found, None
    if attention_mask is None:
        attended = _flash(query, key, value, causal, scaling)
    else:
        groups = query.shape[1] // key.shape[1]
        key, value = (states.repeat_interleave(groups, 1) for states in (key, value))
        attended = _efficient(query, key, value, _bias(attention_mask, query, key.shape[2]), scaling)
    return attended.transpose(1, 2).contiguous(), None


def causal_attention(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Return causal attention [B, H, T, d]; several query heads may share a key head."""
    if _is_supported(query, key, value):
        return _flash(query, key, value, causal=True, scale=scale)
    return functional.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale, enable_gqa=True)


def _is_supported(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Return whether both kernels support the dtype, the width of a head, and the GPU."""
    width = query.shape[-1]
    return (
        query.is_cuda
        and torch.version.cuda is not None
        and query.dtype in (torch.float16, torch.bfloat16)
        and key.shape[-1] == value.shape[-1] == width <= 256
        and width % 8 == 0
        and torch.cuda.get_device_capability(query.device) >= (8, 0)
    )


def _flash(query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float | None) -> Tensor:
    """Return attention without a mask; several query heads may share a key head."""
    found: Tensor = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, 0.0, causal, scale=scale)[0]
    return found


def _efficient(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, scale: float | None) -> Tensor:
    """Return attention with `bias` [B, H, R, T], which is added to the scores."""
    found: Tensor = torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, bias, False, 0.0, False, scale=scale
    )[0]
    return found


def _bias(mask: Tensor, query: Tensor, length: int) -> Tensor:
    """Return the bias for a mask [B or 1, 1 or H, R, T]: bool, or float values to add."""
    room = -(-length // _ALIGNED) * _ALIGNED
    bias = query.new_zeros(*mask.shape[:-1], room).narrow(-1, 0, length)
    bias = bias.masked_fill_(~mask, float("-inf")) if mask.dtype == torch.bool else bias.copy_(mask)
    return bias.expand(*query.shape[:3], -1)
