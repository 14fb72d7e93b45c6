"""Which line of a frame each learned newline of a prompt ends."""

from __future__ import annotations

import torch
from torch import Tensor

from aot.types import CompressedTokens

__all__ = ["ended_lines"]


def ended_lines(token: Tensor, newline: Tensor, tokens: CompressedTokens) -> Tensor:
    """Return for each newline of a prompt the line of the pooled grid that it ends: int64 [L].

    A single newline ends the whole video, which is -1. Where there are as many as the video has lines, every line has
    its own; otherwise each ends the line of the visual token before it.

    Args:
        token: [P] which of `tokens` every row of the prompt is, negative for none.
        newline: [L] the newlines' rows, ascending.
    """
    lines = tokens.grid[0]
    if len(newline) < 2:
        return torch.full_like(newline, -1)
    if len(newline) == lines * len(tokens.timestamps_s):
        return torch.arange(len(newline), device=newline.device) % lines
    row = torch.arange(len(token), device=token.device)
    latest = torch.where(token >= 0, row, 0).cummax(0).values[newline]
    return tokens.row.to(token.device)[token[latest]].to(torch.int64)
