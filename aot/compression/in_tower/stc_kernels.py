"""Choose in Triton which tokens are computed; `stc.computed_rows` does the same in torch."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from aot.compression.ops.kernels import on_device

__all__ = ["computed_rows_queued", "rows_kernel", "similarity_kernel"]

# Tokens of a program and channels that it loads at a time: 16 bytes per thread in half precision.
_TOKENS, _CHANNELS = 8, 128
_RANKED = 64  # tokens that are ranked by one program, and compared with at a time


def computed_rows_queued(keys: Tensor, reference_of: Tensor, references: int, always: int, count: int) -> Tensor:
    """Return the rows that are computed, int64 [M]; see `aot.compression.in_tower.stc`.

    Args:
        keys: [F, N, D], those of the references first.
        reference_of: int64 [F - R], for each other frame the index of its reference.
        references: R.
        always: the number of leading tokens that are always computed.
        count: k, the number of tokens that each other frame computes.
    """
    (frames, tokens, width), keys = keys.shape, keys.contiguous()
    others = frames - references
    similarity = torch.empty(others, tokens, device=keys.device)
    rows = reference_of.new_empty(references * tokens + others * count)
    with on_device(keys.device):
        similarity_kernel[(triton.cdiv(tokens, _TOKENS), others)](
            keys, reference_of, similarity, references, tokens, width, always, rows=_TOKENS, tile=_CHANNELS
        )
        rows_kernel[(triton.cdiv(tokens, _RANKED), frames)](similarity, rows, references, tokens, count, tile=_RANKED)
    return rows


@triton.jit(do_not_specialize=["references", "tokens", "always"])
def similarity_kernel(
    keys, reference_of, similarity, references, tokens, width, always, rows: tl.constexpr, tile: tl.constexpr
):
    """Store the cosine similarity of keys to the reference's keys; class tokens get -2."""
    frame = tl.program_id(1).to(tl.int64)
    token, unit = tl.program_id(0) * rows + tl.arange(0, rows), tl.arange(0, tile)
    inside = token < tokens
    at = token[:, None] * width + unit[None, :]
    of_frame = keys + (references + frame) * tokens * width
    of_reference = keys + tl.load(reference_of + frame) * tokens * width
    product = tl.zeros((rows, tile), tl.float32)
    square, reference_square = product, product
    for first in range(0, width, tile):
        there = inside[:, None] & (first + unit < width)[None, :]
        key = tl.load(of_frame + at + first, mask=there, other=0.0).to(tl.float32)
        reference_key = tl.load(of_reference + at + first, mask=there, other=0.0).to(tl.float32)
        product += key * reference_key
        square += key * key
        reference_square += reference_key * reference_key
    norms = tl.sqrt(tl.sum(square, axis=1)) * tl.sqrt(tl.sum(reference_square, axis=1))
    cosine = tl.sum(product, axis=1) / tl.maximum(norms, 1e-12)
    # NaN comes last, as in a sort by torch: every rank must be taken once.
    cosine = tl.where(cosine == cosine, cosine, float("inf"))
    tl.store(similarity + frame * tokens + token, tl.where(token < always, -2.0, cosine), mask=inside)


@triton.jit(do_not_specialize=["references", "tokens", "count"])
def rows_kernel(similarity, rows, references, tokens, count, tile: tl.constexpr):
    """Store all rows of references, and the `count` least similar of others.

    Ties go to the lower index.
    """
    frame = tl.program_id(1).to(tl.int64)
    token = tl.program_id(0) * tile + tl.arange(0, tile)
    inside = token < tokens
    row = frame * tokens + token
    if frame < references:
        tl.store(rows + row, row, mask=inside)
        return
    # A token's rank is the number of tokens before it. Tokens beyond the last are before none.
    other_frame = frame - references
    own = tl.load(similarity + other_frame * tokens + token, mask=inside, other=float("inf"))
    rank = tl.zeros((tile,), tl.int32)
    for first in range(0, tokens, tile):
        other = first + tl.arange(0, tile)
        value = tl.load(similarity + other_frame * tokens + other, mask=other < tokens, other=float("inf"))
        is_lower = (other[None, :] < token[:, None]) & (value[None, :] == own[:, None])
        rank += tl.sum(((value[None, :] < own[:, None]) | is_lower).to(tl.int32), axis=1)
    place = references * tokens + other_frame * count + rank
    tl.store(rows + place, row, mask=inside & (rank < count))
