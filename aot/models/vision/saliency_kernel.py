"""Compute received attention in Triton, without an attention matrix in memory.

`saliency.torch_received_attention` computes the same in torch. Two kernels serve all frames and
heads. The first computes the divisor of each query's softmax, with one program per tile of queries.
The second sums the attention that each key receives, with one program per tile of keys. Both
multiply all queries with all keys.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from aot.compression.ops.kernels import on_device

__all__ = ["normalizer_kernel", "received_attention", "received_kernel"]

# Rows of a program's own tile, and rows of each tile that its own tile is multiplied with.
_OWN, _OTHER = 128, 64
_LOG2_E = 1 / math.log(2)


def received_attention(query: Tensor, key: Tensor, scaling: float) -> Tensor:
    """Return the attention received by each key, as `saliency.torch_received_attention` does.

    Args:
        query: [B, H, N, d], of any strides.
        key: [B, H, N, d], of any strides.
        scaling: the factor of the products of queries and keys.

    Returns:
        float32 [B, N], summed over queries and averaged over heads.
    """
    batch, heads, patches, width = query.shape
    # Full tiles of float32 do not fit into registers.
    shrink = 1 if query.dtype.itemsize == 2 else 2
    own, other = _OWN // shrink, _OTHER // shrink
    units, more_units = _unit_blocks(width)
    normalizers = query.new_empty(batch, heads, patches, dtype=torch.float32)
    received = torch.empty_like(normalizers)
    # The kernels compute powers of 2, which are faster than powers of e.
    sizes = (*query.stride(), *key.stride(), heads, patches, width, scaling * _LOG2_E)
    tiles = {"own_tile": own, "other_tile": other, "units": units, "more_units": more_units}
    with on_device(query.device):
        for kernel, outputs in ((normalizer_kernel, (normalizers,)), (received_kernel, (normalizers, received))):
            kernel[(triton.cdiv(patches, own), heads, batch)](
                query, key, *outputs, *sizes, **tiles, num_warps=4, num_stages=2
            )
    return received.mean(1)


def _unit_blocks(width: int) -> tuple[int, int]:
    """Return powers of 2, at least 16, that cover `width`: (64, 16) for 72, (64, 0) for 64."""
    first = max(16, 1 << (width.bit_length() - 1))
    return first, max(16, triton.next_power_of_2(width - first)) if width > first else 0


@triton.jit
def _rows(values, patch_step, unit_step, rows, patches, first_unit, width, units: tl.constexpr):
    """Load a tile [rows, units] of one head, with zeros outside the matrix."""
    unit = first_unit + tl.arange(0, units)
    pointers = values + rows[:, None] * patch_step + unit[None, :] * unit_step
    return tl.load(pointers, mask=(rows < patches)[:, None] & (unit < width)[None, :], other=0.0)


@triton.jit
def normalizer_kernel(
    query, key, normalizers,
    query_frame, query_head, query_patch, query_unit, key_frame, key_head, key_patch, key_unit,
    heads, patches, width, scaling,
    own_tile: tl.constexpr, other_tile: tl.constexpr, units: tl.constexpr, more_units: tl.constexpr,
):  # fmt: skip
    """Store log2 of each query's softmax divisor. `query_frame` and similar names are strides."""
    frame, head = tl.program_id(2).to(tl.int64), tl.program_id(1)
    query += frame * query_frame + head * query_head
    key += frame * key_frame + head * key_head
    # 1. A tile of queries, in two blocks of units unless d is a power of 2.
    own = tl.program_id(0) * own_tile + tl.arange(0, own_tile)
    q = _rows(query, query_patch, query_unit, own, patches, 0, width, units)
    if more_units > 0:
        q_more = _rows(query, query_patch, query_unit, own, patches, units, width, more_units)
    # 2. The running maximum and sum of powers over all keys (online softmax).
    highest = tl.full((own_tile,), float("-inf"), tl.float32)
    total = tl.zeros((own_tile,), tl.float32)
    for first in range(0, patches, other_tile):
        other = first + tl.arange(0, other_tile)
        k = _rows(key, key_patch, key_unit, other, patches, 0, width, units)
        logits = tl.dot(q, tl.trans(k), input_precision="ieee")
        if more_units > 0:
            k_more = _rows(key, key_patch, key_unit, other, patches, units, width, more_units)
            logits = tl.dot(q_more, tl.trans(k_more), logits, input_precision="ieee")
        # Keys beyond the last one must not count.
        logits = tl.where((other < patches)[None, :], logits * scaling, float("-inf"))
        higher = tl.maximum(highest, tl.max(logits, axis=1))
        total = total * tl.exp2(highest - higher) + tl.sum(tl.exp2(logits - higher[:, None]), axis=1)
        highest = higher
    pointers = normalizers + (frame * heads + head) * patches + own
    tl.store(pointers, highest + tl.log2(total), mask=own < patches)


@triton.jit
def received_kernel(
    query, key, normalizers, received,
    query_frame, query_head, query_patch, query_unit, key_frame, key_head, key_patch, key_unit,
    heads, patches, width, scaling,
    own_tile: tl.constexpr, other_tile: tl.constexpr, units: tl.constexpr, more_units: tl.constexpr,
):  # fmt: skip
    """Store the attention received by each key. `query_frame` and similar names are strides."""
    frame, head = tl.program_id(2).to(tl.int64), tl.program_id(1)
    query += frame * query_frame + head * query_head
    key += frame * key_frame + head * key_head
    # 1. A tile of keys, in two blocks of units unless d is a power of 2.
    own = tl.program_id(0) * own_tile + tl.arange(0, own_tile)
    k = _rows(key, key_patch, key_unit, own, patches, 0, width, units)
    if more_units > 0:
        k_more = _rows(key, key_patch, key_unit, own, patches, units, width, more_units)
    # 2. The sum of softmax weights over all queries.
    at = (frame * heads + head) * patches
    total = tl.zeros((own_tile,), tl.float32)
    for first in range(0, patches, other_tile):
        other = first + tl.arange(0, other_tile)
        q = _rows(query, query_patch, query_unit, other, patches, 0, width, units)
        logits = tl.dot(k, tl.trans(q), input_precision="ieee")
        if more_units > 0:
            q_more = _rows(query, query_patch, query_unit, other, patches, units, width, more_units)
            logits = tl.dot(k_more, tl.trans(q_more), logits, input_precision="ieee")
        # Rows beyond the last query have an infinite divisor and add nothing.
        normalizer = tl.load(normalizers + at + other, mask=other < patches, other=float("inf"))
        total += tl.sum(tl.exp2(logits * scaling - normalizer[None, :]), axis=1)
    tl.store(received + at + own, total, mask=own < patches)
