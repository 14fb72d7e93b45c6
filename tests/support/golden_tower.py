"""Make the tiny tower of the golden values of reductions inside the tower, from formulas."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["BLOCKS", "TinyBlock", "checksums", "golden_states"]

FRAMES, TOKENS, WIDTH, HEADS, BLOCKS = 12, 36, 16, 2, 3


def golden_states() -> Tensor:
    """Return the input of the tower, float64 [12, 36, 16]: three scenes of 5, 4 and 3 frames."""
    t, i, d = np.ogrid[:FRAMES, :TOKENS, :WIDTH]
    col, row, scene = i % 6, i // 6, (t >= 5).astype(int) + (t >= 9)
    still = np.sin(0.35 * (d + 1) * col + 0.2 * d + 1.1 * scene) + np.cos(0.27 * (d + 1) * row - 0.6 * scene * (d + 1))
    return torch.from_numpy(still + 0.4 * np.sin(0.37 * (d + 1) * ((7 * i + 11 * t) % 36)) + 0.05 * t * np.cos(0.9 * d))


def checksums(values: Tensor) -> tuple[float, float]:
    """Return the sum, and the sum weighted by (1 + k mod 97) / 97."""
    flat = values.double().flatten()
    weights = (1 + torch.arange(len(flat)) % 97).double() / 97
    return flat.sum().item(), (weights * flat).sum().item()


@dataclass(frozen=True)
class TinyBlock:
    """A pre-norm block of width 16 with two heads, an MLP of width 32 and weights from sines."""

    number: int
    dtype: torch.dtype = torch.float64

    def normalize(self, states: Tensor, second: bool = False) -> Tensor:
        d, step = torch.arange(WIDTH).double(), self.number + second
        weight, bias = 1 + 0.1 * torch.sin(0.3 * d + step), 0.05 * torch.cos(0.4 * d + step)
        return functional.layer_norm(states, (WIDTH,), weight.to(self.dtype), bias.to(self.dtype), 1e-6)

    def project(self, states: Tensor, m: int, outputs: int = WIDTH) -> Tensor:
        inputs, gain = states.shape[-1], 2.0 if m < 2 else 1.0
        o, c = torch.arange(outputs).double()[:, None], torch.arange(inputs).double()
        weight = gain * torch.sin(0.7 * o * (c + 1) + 0.4 * c + 1.3 * m + 0.9 * self.number) / inputs**0.5
        bias = 0.1 * torch.sin(0.5 * o[:, 0] + m + self.number)
        return functional.linear(states, weight.to(self.dtype), bias.to(self.dtype))

    def mix(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return the attention output before its projection."""
        q, k, v = (each.unflatten(-1, (HEADS, -1)).transpose(-3, -2) for each in (query, key, value))
        found = torch.softmax(q @ k.mT * (WIDTH // HEADS) ** -0.5, -1) @ v
        return found.transpose(-3, -2).flatten(-2)

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return self.project(self.mix(query, key, value), 3)

    def feed_forward(self, states: Tensor) -> Tensor:
        hidden = functional.gelu(self.project(self.normalize(states, second=True), 4, 32), approximate="tanh")
        return self.project(hidden, 5)

    def __call__(self, states: Tensor) -> Tensor:
        """Return the states after the whole block."""
        normed = self.normalize(states)
        states = states + self.attend(*(self.project(normed, m) for m in range(3)))
        return states + self.feed_forward(states)
