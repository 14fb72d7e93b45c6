"""What every method promises, whatever it does: budgets, provenance, finite values, the same tokens each time."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from merged_video import merged_video

from aot.config import Config
from aot.core.grid import pooled_grid
from aot.errors import BudgetError
from aot.methods import Method, build_method
from aot.registry import METHODS, find
from aot.types import CompressedTokens, Pooling, VisualTokens

COMPRESSING = tuple(name for name in METHODS if name != "none")
SHAPES = [(1, (5, 5)), (2, (6, 6)), (7, (15, 15)), (13, (8, 6))]
RATIOS = (0.03, 0.1, 0.25, 0.5, 0.9)


def video(method: Method, frames: int, grid: tuple[int, int], dtype: torch.dtype = torch.float32) -> VisualTokens:
    """A picture that drifts and changes twice, with all that the method needs."""
    generator = torch.Generator().manual_seed(frames * 100 + grid[0])
    patches, needs = grid[0] * grid[1], method.needs

    def noise(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=generator)

    scene = torch.arange(frames) * 3 // max(frames, 1)
    features = noise(3, patches, 12)[scene] + 0.3 * noise(frames, patches, 12)
    if needs.merging is not None:
        return merged_video(needs.merging, features.to(dtype), grid)
    attention = torch.rand(frames, patches, generator=generator) + 0.1
    return VisualTokens(
        features=features.to(dtype),
        grid=grid,
        pool=Pooling("bilinear", 2),
        timestamps_s=tuple(float(k) for k in range(frames)),
        saliency={layer: torch.rand(frames, patches, generator=generator) + 0.1 for layer in needs.saliency_layers},
        keys={layer: noise(frames, patches, 2, 4).to(dtype) for layer in needs.key_layers},
        frame_embeddings=features.mean(1).to(dtype) if needs.frame_embeddings else None,
        pooling_attention=attention / attention.sum(-1, keepdim=True) if needs.pooling_attention else None,
    )


def made(name: str, ratio: float) -> Method:
    return build_method(Config(method=name, ratio=ratio))


def total(frames: int, grid: tuple[int, int]) -> int:
    return frames * math.prod(pooled_grid(grid, Pooling("bilinear", 2)))


def compressed(
    name: str, frames: int, grid: tuple[int, int], ratio: float, dtype: torch.dtype = torch.float32
) -> tuple[CompressedTokens, int]:
    """What is kept, and the budget; skips where the method refuses it with a remedy."""
    budget = max(1, round(ratio * total(frames, grid)))
    method = made(name, ratio)
    try:
        return method.compress(video(method, frames, grid, dtype), budget), budget
    except BudgetError as refused:
        assert "use --ratio" in str(refused)
        pytest.skip(str(refused))


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize(("frames", "grid"), SHAPES)
@pytest.mark.parametrize("name", COMPRESSING)
def test_budget_and_provenance(name: str, frames: int, grid: tuple[int, int], ratio: float) -> None:
    kept, budget = compressed(name, frames, grid, ratio)
    if find(name).card.exact:
        assert len(kept.features) == budget
    assert 1 <= len(kept.features) <= total(frames, grid) + budget
    rows, cols = kept.grid
    assert (rows, cols) == pooled_grid(grid, Pooling("bilinear", 2))
    for place, size in ((kept.frame, frames), (kept.row, rows), (kept.col, cols)):
        assert place.dtype == torch.int32
        assert len(place) == len(kept.features)
        assert 0 <= place.min() <= place.max() < size
    assert kept.features.dtype == torch.float32
    assert torch.isfinite(kept.features).all()
    assert kept.mass.dtype == torch.float32
    assert (kept.mass > 0).all()
    assert kept.role.dtype == torch.uint8
    assert [clip.first for clip in kept.clips] == [0, *(clip.stop for clip in kept.clips[:-1])]
    assert kept.clips[-1].stop == frames


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize(("frames", "grid"), [(5, (12, 20)), (4, (5, 3)), (3, (1, 7)), (2, (1, 1))])
@pytest.mark.parametrize("name", [name for name in COMPRESSING if made(name, 0.5).needs.merging is None])
def test_frames_of_any_shape_that_are_not_pooled(name: str, frames: int, grid: tuple[int, int], ratio: float) -> None:
    method, (rows, cols) = made(name, ratio), grid
    tokens = replace(video(method, frames, grid), pool=Pooling("none"))
    budget = max(1, round(ratio * frames * rows * cols))
    try:
        kept = method.compress(tokens, budget)
    except BudgetError as refused:
        pytest.skip(str(refused))
    assert kept.grid == grid
    if find(name).card.exact:
        assert len(kept.features) == budget
    assert 0 <= kept.row.min() <= kept.row.max() < rows and 0 <= kept.col.min() <= kept.col.max() < cols
    assert torch.isfinite(kept.features).all()


@pytest.mark.parametrize("name", COMPRESSING)
def test_the_same_video_gives_the_same_tokens_and_is_not_changed(name: str) -> None:
    method = made(name, 0.5)
    tokens = video(method, 8, (15, 15))
    before = replace(tokens, features=tokens.features.clone())
    first, second = (method.compress(tokens, 256) for _ in range(2))
    assert torch.equal(first.features, second.features)
    assert torch.equal(first.frame, second.frame)
    assert torch.equal(tokens.features, before.features)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("name", COMPRESSING)
def test_features_keep_their_dtype(name: str, dtype: torch.dtype) -> None:
    kept, _ = compressed(name, 7, (15, 15), 0.5, dtype)
    assert kept.features.dtype == dtype
    assert torch.isfinite(kept.features).all()


@pytest.mark.parametrize("name", COMPRESSING)
def test_a_still_video_of_equal_tokens(name: str) -> None:
    """Nothing to tell tokens apart by: no division by zero, and the budget holds."""
    method = made(name, 0.5)
    tokens = video(method, 6, (6, 6))
    kept = method.compress(replace(tokens, features=torch.ones_like(tokens.features)), 27)
    assert torch.isfinite(kept.features).all()
    if find(name).card.exact:
        assert len(kept.features) == 27


@pytest.mark.parametrize("name", METHODS)
def test_cards_are_filled_in(name: str) -> None:
    card = find(name).card
    assert card.acts
    assert card.source or card.remark
