"""Make visual tokens without an encoder, from formulas and seeds."""

from __future__ import annotations

import numpy as np
import torch

from aot.config.schema import AnchorConfig
from aot.types import CompressedTokens, Pooling, Role, VisualTokens
from tests.support import oracle

Array = oracle.Array
Grid = oracle.Grid

SHALLOW, DEEP = AnchorConfig().shallow_layer, AnchorConfig().deep_layer
# The oracle uses "keyframe" for a keyframe's own tokens also in a clip of one frame.
ROLE_NAMES = {Role.KEPT: "keyframe", Role.KEYFRAME: "keyframe", Role.DISTINCT: "distinct", Role.MERGED: "merged"}


def golden_like(frames: int) -> tuple[Array, Array, Array]:
    """Return saliencies [F, 729] and features [F, 729, 16] by the golden formula, for any F."""
    t, j = np.arange(frames, dtype=np.float64)[:, None], np.arange(729)
    col, row = (j % 27).astype(np.float64), (j // 27).astype(np.float64)
    shallow = 1 + 0.5 * np.sin(0.7 * col + 0.3 * t) * np.cos(0.9 * row) + 1e-4 * (53 * j % 729) / 729
    deep = 1 + 0.5 * np.cos(0.5 * col - 0.2 * t) * np.sin(0.6 * row + 0.4) + 1e-4 * (37 * j % 729) / 729
    d = np.arange(16)
    still = np.sin(0.05 * (d + 1) * col[:, None] + 0.2 * d) + 0.3 * np.sin((13 * j[:, None] + 7 * d) % 101)
    moving = np.cos(0.07 * (d + 1) * row[:, None] - 0.1 * t[:, :, None] * (d + 1))
    return shallow, deep, still + moving


def random_saliency(rng: np.random.Generator, frames: int, grid: Grid) -> Array:
    """Return a few bright blobs over noise, as attention maps have: positive [F, N]."""
    positions = oracle.grid_positions(grid)
    blobs = rng.random((frames, 4, 1, 2))
    distances = ((positions[None, None] - blobs) ** 2).sum(-1)
    return (rng.random((frames, 4, 1)) * np.exp(-distances / 0.02)).sum(1) + 0.2 * rng.random(distances[:, 0].shape)


def random_features(rng: np.random.Generator, frames: int, grid: Grid, width: int = 8) -> Array:
    """Return features of a picture that drifts, [F, N, D]."""
    patches = grid[0] * grid[1]
    return rng.normal(size=(patches, width)) + 0.3 * rng.normal(size=(frames, patches, width)).cumsum(0)


def visual_tokens(
    shallow: Array,
    deep: Array,
    features: Array,
    grid: Grid = oracle.GOLDEN_GRID,
    kind: oracle.PoolKind = "bilinear",
    dtype: torch.dtype = torch.float64,
    embeddings: Array | None = None,
) -> VisualTokens:
    """Return visual tokens of given arrays."""
    saliency_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    return VisualTokens(
        features=torch.from_numpy(features).to(dtype),
        grid=grid,
        pool=Pooling(kind),
        timestamps_s=tuple(float(t) for t in range(len(features))),
        saliency={
            SHALLOW: torch.from_numpy(shallow).to(saliency_dtype),
            DEEP: torch.from_numpy(deep).to(saliency_dtype),
        },
        frame_embeddings=None if embeddings is None else torch.from_numpy(embeddings),
    )


def random_tokens(
    seed: int,
    frames: int,
    grid: Grid = oracle.GOLDEN_GRID,
    kind: oracle.PoolKind = "bilinear",
    dtype: torch.dtype = torch.float32,
) -> VisualTokens:
    """Return visual tokens of a seed."""
    rng = np.random.default_rng(seed)
    shallow, deep = random_saliency(rng, frames, grid), random_saliency(rng, frames, grid)
    features = random_features(rng, frames, grid)
    return visual_tokens(shallow, deep, features, grid, kind, dtype, embeddings=features.mean(1))


def labels(kept: CompressedTokens) -> list[tuple[int, int, int, str]]:
    """Return (frame, row, col, role) of every token in order, with the oracle's role names."""
    roles = [ROLE_NAMES[Role(role)] for role in kept.role.tolist()]
    return list(zip(kept.frame.tolist(), kept.row.tolist(), kept.col.tolist(), roles, strict=True))
