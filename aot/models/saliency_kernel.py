"""Received attention in Triton: all frames and heads in one launch, and no attention matrix in memory.

The twin of the torch version in `aot.models.saliency`. A program takes a tile of queries of one head over all keys
twice: to find what each query's softmax divides by, and to sum up what the keys receive.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from aot.core.kernels import on_device

__all__ = ["attention_sums_kernel", "received_attention"]

_TILE = 64


def received_attention(query: Tensor, key: Tensor, scaling: float) -> Tensor:
    """[B, H, N, d] queries and keys to [B, N] float32; see `aot.models.saliency.received_attention`."""
    batch, heads, patches, width = query.shape
    tile = _TILE if query.dtype.itemsize == 2 else _TILE // 2  # a full tile of float32 does not fit into registers
    tiles = triton.cdiv(patches, tile)
    sums = query.new_empty(batch, heads * tiles, patches, dtype=torch.float32)
    with on_device(query.device):
        attention_sums_kernel[(batch, heads, tiles)](
            query, key, sums, *query.stride(), *key.stride(), heads, patches, width, scaling,
            tile=tile, tile_width=max(16, triton.next_power_of_2(width)), num_warps=8, num_stages=1,
        )  # fmt: skip
    return sums.sum(1) / heads


@triton.jit
def attention_sums_kernel(
    query, key, sums,
    query_frame, query_head, query_patch, query_unit, key_frame, key_head, key_patch, key_unit,
    heads, patches, width, scaling, tile: tl.constexpr, tile_width: tl.constexpr,
):  # fmt: skip
    """Sums over one tile of queries of the softmax over all keys; arguments like query_frame are strides."""
    frame, head, part = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    units = tl.arange(0, tile_width)
    places = tl.arange(0, tile)
    rows = part * tile + places
    q_at = query + frame * query_frame + head * query_head + rows[:, None] * query_patch + units[None, :] * query_unit
    q = tl.load(q_at, mask=(rows[:, None] < patches) & (units[None, :] < width), other=0.0)
    k_at = key + frame * key_frame + head * key_head + units[:, None] * key_unit
    highest = tl.full((tile,), float("-inf"), tl.float32)
    total = tl.zeros((tile,), tl.float32)
    for first in range(0, patches, tile):
        columns = first + places
        k = tl.load(
            k_at + columns[None, :] * key_patch, mask=(units[:, None] < width) & (columns[None, :] < patches), other=0.0
        )
        logits = tl.dot(q, k, input_precision="ieee") * scaling
        logits = tl.where(columns[None, :] < patches, logits, float("-inf"))
        higher = tl.maximum(highest, tl.max(logits, axis=1))
        total = total * tl.exp(highest - higher) + tl.sum(tl.exp(logits - higher[:, None]), axis=1)
        highest = higher
    out = sums + ((frame * heads + head) * tl.num_programs(2) + part) * patches
    for first in range(0, patches, tile):
        columns = first + places
        k = tl.load(
            k_at + columns[None, :] * key_patch, mask=(units[:, None] < width) & (columns[None, :] < patches), other=0.0
        )
        logits = tl.dot(q, k, input_precision="ieee") * scaling
        shares = tl.exp(logits - highest[:, None]) / total[:, None]
        received = tl.sum(tl.where(rows[:, None] < patches, shares, 0.0), axis=0)
        tl.store(out + columns, received, mask=columns < patches)
