"""The input behind the golden values of the methods: formulas only, 32 frames of 14 x 14 pooled tokens, width 16."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from aot.types import Needs, Pooling, VisualTokens

Array = npt.NDArray[np.float64]

FRAMES, SIDE, WIDTH = 32, 14, 16


def golden_features() -> Array:
    """E [32, 196, 16]: a lattice that changes every nine frames, and of which four fifths drift."""
    t, i, d = np.arange(FRAMES)[:, None, None], np.arange(SIDE * SIDE)[None, :, None], np.arange(WIDTH)
    col, row, scene = i % SIDE, i // SIDE, t // 9
    still = np.sin(0.05 * (d + 1) * col + 0.2 * d) + np.cos(0.07 * (d + 1) * row)
    return still + 0.6 * np.sin(0.9 * scene * (d + 1) + 0.02 * t * ((7 * i) % 5))


def golden_attention() -> Array:
    """att [32, 196], about 1 / 196 each."""
    t, i = np.arange(FRAMES)[:, None], np.arange(SIDE * SIDE)[None]
    wave = 0.5 * np.sin(0.7 * (i % SIDE) + 0.3 * t) * np.cos(0.9 * (i // SIDE))
    return (1 + wave + 1e-4 * (53 * i % 196) / 196) / 196


def golden_tokens(needs: Needs, dtype: torch.dtype = torch.float64) -> VisualTokens:
    """Both as visual tokens that are not pooled any further; every layer asked for has the same attention."""
    attention = torch.from_numpy(golden_attention()).to(dtype)
    return VisualTokens(
        features=torch.from_numpy(golden_features()).to(dtype),
        grid=(SIDE, SIDE),
        pool=Pooling("none"),
        timestamps_s=tuple(float(t) for t in range(FRAMES)),
        saliency=dict.fromkeys(needs.saliency_layers, attention),
    )
