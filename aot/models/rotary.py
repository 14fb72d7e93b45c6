"""Rotary embeddings of the versions of transformers that are supported."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["of_three_axes"]


def of_three_axes(rotary: tuple[Tensor, Tensor], config: Any) -> list[Tensor]:
    """From [3, 1, T, d], of time, height and width, to [1, T, d]: transformers 5.16 leaves that to the attention of
    Qwen2.5-VL.
    """
    sections = 2 * list(config.rope_parameters["mrope_section"])
    split = [torch.split(values, sections, -1) for values in rotary]
    return [torch.cat([part[number % 3] for number, part in enumerate(parts)], -1) for parts in split]
