"""The input behind published-program numbers: 32 frames of 14 x 14 tokens, a few scenes, near-ties included."""

from __future__ import annotations

import numpy as np
import torch

from aot.types import Pooling, VisualTokens

FRAMES, SIDE, WIDTH = 32, 14, 16


def golden_features() -> np.ndarray:
    """Pooled tokens, float64 [32, 196, 16]."""
    t, i, d = np.arange(FRAMES)[:, None, None], np.arange(SIDE * SIDE)[:, None], np.arange(WIDTH)
    col, row, scene = i % SIDE, i // SIDE, t // 9
    still = np.sin(0.05 * (d + 1) * col + 0.2 * d) + np.cos(0.07 * (d + 1) * row)
    features: np.ndarray = still + 0.6 * np.sin(0.9 * scene * (d + 1) + 0.02 * t * (7 * i % 5))
    return features


def golden_attention() -> np.ndarray:
    """Attention received by each token, float64 [32, 196]; the mean of a frame is about 1 / 196."""
    t, i = np.arange(FRAMES)[:, None], np.arange(SIDE * SIDE)
    col, row = i % SIDE, i // SIDE
    wave = 1 + 0.5 * np.sin(0.7 * col + 0.3 * t) * np.cos(0.9 * row)
    attention: np.ndarray = (wave + 1e-4 * (53 * i % 196) / 196) / 196
    return attention


def golden_tokens(layers: tuple[int, ...] = (), dtype: torch.dtype = torch.float32) -> VisualTokens:
    """The same as visual tokens that are not pooled any more."""
    attention = torch.from_numpy(golden_attention()).float()
    return VisualTokens(
        features=torch.from_numpy(golden_features()).to(dtype),
        grid=(SIDE, SIDE),
        pool=Pooling("none"),
        timestamps_s=tuple(map(float, range(FRAMES))),
        saliency=dict.fromkeys(layers, attention),
    )
