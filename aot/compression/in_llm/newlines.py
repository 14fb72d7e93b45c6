"""The line of a frame that each learned newline of a prompt ends."""

from __future__ import annotations

import torch
from torch import Tensor

from aot.types import CompressedTokens

__all__ = ["ended_lines"]


def ended_lines(token: Tensor, newline: Tensor, tokens: CompressedTokens) -> Tensor:
    """Return the line of the pooled grid that each newline of a prompt ends: int64 [L].

    A single newline ends the whole video and has line -1. If there are as many newlines as the
    video has lines, each line has its own. Otherwise each newline ends the line of the visual token
    before it.

    Args:
        token: [P], the index into `tokens` of every row of the prompt; negative for other rows.
        newline: [L], the rows of the newlines, ascending.
        tokens: the compressed tokens of the video.
    """
    lines = tokens.grid[0]
    # LLaVA-OneVision: one newline after the video.
    if len(newline) < 2:
        return torch.full_like(newline, -1)
    # All rows of all frames keep their newline, also empty rows.
    if len(newline) == lines * len(tokens.timestamps_s):
        return torch.arange(len(newline), device=newline.device) % lines
    row = torch.arange(len(token), device=token.device)
    # The last visual row before each newline.
    latest = torch.where(token >= 0, row, 0).cummax(0).values[newline]
    return tokens.row.to(token.device)[token[latest]].to(torch.int64)
