"""Rotary positions of many tokens in advance, in the supported versions of transformers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Turns", "of_three_axes"]


@dataclass(frozen=True, slots=True)
class Turns:
    """How the heads of tokens at N positions are turned: cosines and sines [B, N, d].

    The first half of the sines is negated, so that a head needs no sign changes.
    """

    cosines: Tensor
    sines: Tensor

    @classmethod
    def of(cls, cosines: Tensor, sines: Tensor) -> Turns:
        """Return the turns of cosines and sines as a model's rotary module computes them."""
        half = sines.shape[-1] // 2
        return cls(cosines, torch.cat([-sines[..., :half], sines[..., half:]], -1))

    def at(self, number: int) -> Turns:
        """Return the turn of one of the positions."""
        return Turns(self.cosines[:, number : number + 1], self.sines[:, number : number + 1])

    def at_index(self, index: Tensor) -> Turns:
        """Return the turn of a position whose number [1] is on the device."""
        return Turns(self.cosines.index_select(1, index), self.sines.index_select(1, index))

    def __call__(self, heads: Tensor) -> Tensor:
        """Turn heads [B, H, d], all of one position."""
        return torch.addcmul(heads * self.cosines, heads.roll(heads.shape[-1] // 2, -1), self.sines)


def of_three_axes(rotary: tuple[Tensor, Tensor], config: Any) -> list[Tensor]:
    """Merge cosines and sines [3, 1, T, d] of time, height and width to [1, T, d].

    transformers 5.16 leaves that to the attention of Qwen2.5-VL.
    """
    sections = 2 * list(config.rope_parameters["mrope_section"])
    split = [torch.split(values, sections, -1) for values in rotary]
    return [torch.cat([part[number % 3] for number, part in enumerate(parts)], -1) for parts in split]
