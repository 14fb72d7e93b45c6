"""Make the golden video of three scenes from sines of indices, without a generator."""

from __future__ import annotations

import numpy as np
import torch

from aot.types import Pooling, VisualTokens

FRAMES, GRID, WIDTH = 12, (6, 6), 16


def scene_features() -> np.ndarray:
    """Return pooled tokens, float64 [12, 36, 16]."""
    t, i, d = np.ogrid[:FRAMES, :36, :WIDTH]
    col, row, scene = i % 6, i // 6, (t >= 5).astype(int) + (t >= 9)
    still = np.sin(0.35 * (d + 1) * col + 0.2 * d + 1.1 * scene) + np.cos(0.27 * (d + 1) * row - 0.6 * scene * (d + 1))
    return still + 0.4 * np.sin(0.37 * (d + 1) * ((7 * i + 11 * t) % 36)) + 0.05 * t * np.cos(0.9 * d)


def scene_tokens(grid: tuple[int, int] = GRID, dtype: torch.dtype = torch.float64) -> VisualTokens:
    """Return the golden video as pooled tokens, with no pooling left to do."""
    features = torch.from_numpy(scene_features()).to(dtype)
    return VisualTokens(features, grid, Pooling("none"), tuple(map(float, range(FRAMES))), saliency={})


def checksums(values: torch.Tensor) -> tuple[float, float]:
    """Return the sum of a tensor, and the sum with weights (1 + k mod 97) / 97."""
    flat = values.double().flatten()
    return float(flat.sum()), float(((1 + torch.arange(len(flat)) % 97) / 97 * flat).sum())


def scene_saliency() -> torch.Tensor:
    """Return the attention received, float64 [12, 36]; cell 7 is a sink."""
    t, i = np.ogrid[:FRAMES, :36]
    noise = 0.3 * ((17 * i + 5 * t) % 36) / 36
    return torch.from_numpy(1 + 0.5 * np.sin(0.7 * (i % 6) + 0.3 * t) * np.cos(0.9 * (i // 6)) + noise + 2 * (i == 7))
