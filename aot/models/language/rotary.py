"""Compute rotary position embeddings in advance, with any supported version of transformers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Rotations", "of_three_axes"]


@dataclass(frozen=True, slots=True)
class Rotations:
    """Rotary embeddings of N positions, [B, N, d]; sines of channels below d / 2 are negated."""

    cosines: Tensor
    sines: Tensor

    @classmethod
    def of(cls, cosines: Tensor, sines: Tensor) -> Rotations:
        """Return the embeddings for the cosines and sines of a model's rotary module."""
        # Rotation is x * cos + rotate_half(x) * sin, where rotate_half negates one half. Here the
        # sines carry the sign, once for all heads and layers.
        half = sines.shape[-1] // 2
        return cls(cosines, torch.cat([-sines[..., :half], sines[..., half:]], -1))

    def at(self, number: int) -> Rotations:
        """Return the rotary embedding with the index `number`."""
        return Rotations(self.cosines[:, number : number + 1], self.sines[:, number : number + 1])

    def at_index(self, index: Tensor) -> Rotations:
        """Return the rotary embedding with the index `index`, int64 [1] on the device."""
        return Rotations(self.cosines.index_select(1, index), self.sines.index_select(1, index))

    def __call__(self, heads: Tensor) -> Tensor:
        """Rotate `heads` [B, H, d] of one token per sequence."""
        return torch.addcmul(heads * self.cosines, heads.roll(heads.shape[-1] // 2, -1), self.sines)


def of_three_axes(rotary: tuple[Tensor, Tensor], config: Any) -> list[Tensor]:
    """Merge cosines and sines [3, 1, T, d] of time, height and width into [1, T, d]."""
    # The channels are divided into sections, which belong to time, height, width, time and so on.
    # In transformers 5.16, Qwen2.5-VL's attention merges the axes, not the rotary module.
    sections = 2 * list(config.rope_parameters["mrope_section"])
    split = [torch.split(values, sections, -1) for values in rotary]
    return [torch.cat([part[number % 3] for number, part in enumerate(parts)], -1) for parts in split]
