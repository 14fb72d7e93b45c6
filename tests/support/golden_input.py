"""Make the video of the golden values of the compared methods, from formulas without a seed."""

from __future__ import annotations

import numpy as np
import torch

from aot.types import Pooling, VisualTokens

FRAMES, GRID = 32, (14, 14)


def golden_features() -> np.ndarray:
    """Return pooled tokens, float64 [32, 196, 16]."""
    t, i, d = np.ogrid[:FRAMES, :196, :16]
    col, row, scene = i % 14, i // 14, t // 9
    still = np.sin(0.05 * (d + 1) * col + 0.2 * d) + np.cos(0.07 * (d + 1) * row)
    return still + 0.6 * np.sin(0.9 * scene * (d + 1) + 0.02 * t * (7 * i % 5))


def golden_attention() -> np.ndarray:
    """Return the attention received by each pooled token, float64 [32, 196], about 1 per frame."""
    t, i = np.ogrid[:FRAMES, :196]
    col, row = i % 14, i // 14
    return (1 + 0.5 * np.sin(0.7 * col + 0.3 * t) * np.cos(0.9 * row) + 1e-4 * (53 * i % 196) / 196) / 196


def golden_tokens(dtype: torch.dtype = torch.float32) -> VisualTokens:
    """Return the golden video as pooled tokens, with no pooling left to do."""
    features, attention = torch.from_numpy(golden_features()), torch.from_numpy(golden_attention())
    return VisualTokens(
        features=features.to(dtype),
        grid=GRID,
        pool=Pooling("none"),
        timestamps_s=tuple(float(t) for t in range(FRAMES)),
        saliency={-1: attention.to(dtype)},
        frame_embeddings=features.mean(1).to(dtype),
        pooling_attention=attention.to(dtype),
    )
