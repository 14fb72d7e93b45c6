"""Find, for each learned newline of a prompt, the line of a frame that the newline ends."""

from __future__ import annotations

import torch
from torch import Tensor

from aot.types import CompressedTokens

__all__ = ["ended_lines"]


def ended_lines(token: Tensor, newline: Tensor, tokens: CompressedTokens) -> Tensor:
    """Return, for each newline of a prompt, the line of the pooled grid that it ends: int64 [L].

    A single newline ends the whole video and has line -1. If there are as many newlines as lines in
    all frames, the newlines end these lines in order. Otherwise each newline ends the line of the
    last visual token before it.

    Args:
        token: [P], for each row of the prompt, the index of its token in `tokens`; negative if the
            row is not a visual token.
        newline: [L], the rows of the newlines, ascending.
        tokens: the compressed tokens of the video.
    """
    lines = tokens.grid[0]
    # LLaVA-OneVision: one newline after the video.
    if len(newline) < 2:
        return torch.full_like(newline, -1)
    # One newline per line of every frame, even for lines without kept tokens.
    if len(newline) == lines * len(tokens.timestamps_s):
        return torch.arange(len(newline), device=newline.device) % lines
    row = torch.arange(len(token), device=token.device)
    # Find the last visual row before each newline.
    latest = torch.where(token >= 0, row, 0).cummax(0).values[newline]
    return tokens.row.to(token.device)[token[latest]].to(torch.int64)
