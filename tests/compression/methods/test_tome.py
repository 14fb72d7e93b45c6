"""ToMe: exact budgets after a tower that merges, and where its tokens come from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aot.compression.in_tower.merged import as_sequences, merged_tokens
from aot.compression.methods import build_method
from aot.compression.methods.tome import ToMe, ToMeSettings
from aot.config.schema import Config
from aot.errors import BudgetError, ConfigError
from aot.testing import merged_video
from aot.types import CompressedTokens, Needs, Pooling, Role, VisualTokens
from tests.support.merging_oracle import Token, center_cells, straight_line_merge

GRIDS = [(5, 5), (6, 6), (9, 9)]


def video(ratio: float, frames: int, grid: tuple[int, int], seed: int = 0, kind: str = "bilinear") -> VisualTokens:
    generator = torch.Generator().manual_seed(seed)
    still = torch.randn(1, grid[0] * grid[1], 8, generator=generator, dtype=torch.float64)
    moving = torch.randn(frames, grid[0] * grid[1], 8, generator=generator, dtype=torch.float64)
    return merged_video(ToMe(ratio), still + 0.4 * moving, grid, Pooling(kind))  # type: ignore[arg-type]


def per_frame(grid: tuple[int, int]) -> int:
    return -(-grid[0] // 2) * -(-grid[1] // 2)


def tokens_of(video: VisualTokens, frame: int) -> list[Token]:
    assert video.merged is not None
    owner, patches = video.merged.owner, video.merged.owner.shape[1]
    count = len(video.features) // len(owner)
    found = []
    for index in range(frame * count, (frame + 1) * count):
        own = (owner[frame] == index).nonzero()[:, 0] + frame * patches
        found.append(Token(video.features[index].numpy(), own.tolist(), int(video.merged.anchor[index])))
    return found


def straight_line(video: VisualTokens, budget: int) -> list[Token]:
    """Frame by frame down to equal counts but for one more merge in some, then in the order of their patches."""
    frames = len(video.timestamps_s)
    merges = max(0, len(video.features) - budget)
    across = max(0, frames - budget)
    each, more = divmod(merges - across, frames)
    chosen = {(2 * k + 1) * frames // (2 * more) for k in range(more)}
    kept: list[Token] = []
    for frame in range(frames):
        tokens = tokens_of(video, frame)
        for count in (each, int(frame in chosen)):
            tokens = straight_line_merge(tokens, [token.state for token in tokens], count, by_similarity=True)
        kept += tokens
    kept = straight_line_merge(kept, [token.state for token in kept], across, by_similarity=True)
    return sorted(kept, key=lambda token: np.mean(token.patches))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("ratio", "budget"), [(0.3, 53), (0.3, 60), (0.3, 54), (0.3, 31), (0.3, 4), (0.05, 1)])
def test_compress_is_the_straight_line_program(ratio: float, budget: int, seed: int) -> None:
    tokens = video(ratio, 7, (9, 9), seed)
    kept = ToMe(ratio).compress(tokens, budget)
    expected = straight_line(tokens, budget)
    assert len(kept.features) == len(expected) == min(budget, len(tokens.features))
    assert np.allclose(kept.features.numpy(), [token.state for token in expected], atol=1e-9)
    anchors = np.array([token.anchor for token in expected])
    assert kept.frame.tolist() == (anchors // 81).tolist()
    assert kept.row.tolist() == center_cells(anchors % 81 // 9).tolist()
    assert kept.col.tolist() == center_cells(anchors % 9).tolist()
    assert np.allclose(kept.mass.numpy(), [token.size * 25 / 81 for token in expected])
    assert kept.role.tolist() == [int(Role.MERGED if token.size > 1 else Role.KEPT) for token in expected]


def lengths(frames: int, most: int) -> list[int]:
    return [min(most, frames - first) for first in range(0, frames, most)]


@given(st.floats(0.005, 0.999), st.integers(1, 23), st.integers(1, 23), st.sampled_from(GRIDS))
def test_segments_of_any_length_meet_the_ratio(ratio: float, frames: int, most: int, grid: tuple[int, int]) -> None:
    config = Config(method="tome", ratio=ratio)
    method, so_far, before = build_method(config), 0, 0
    for length in lengths(frames, most):
        so_far += length
        budget = config.token_budget(so_far, per_frame(grid))
        if budget > before:
            kept = method.compress(video(ratio, length, grid), budget - before)
            assert len(kept.features) == budget - before
            counts = torch.bincount(kept.frame, minlength=length)
            if budget - before >= length:
                assert counts.max() - counts.min() <= 1
        before = budget


def compressed(ratio: float, frames: int, grid: tuple[int, int], kind: str = "bilinear") -> CompressedTokens:
    tokens = video(ratio, frames, grid, kind=kind)
    return ToMe(ratio).compress(tokens, len(tokens.features) - 1)


@pytest.mark.parametrize(("kind", "cells"), [("bilinear", 16), ("average", 9), ("none", 49)])
def test_masses_are_all_there(kind: str, cells: int) -> None:
    kept = compressed(0.25, 5, (7, 7), kind)
    assert kept.mass.sum().item() == pytest.approx(5 * cells, rel=1e-5)
    assert kept.grid[0] ** 2 == cells
    assert kept.row.max() < kept.grid[0] and kept.col.max() < kept.grid[1]
    assert (kept.frame.diff() >= 0).all()


def test_a_ratio_that_divides_needs_no_more_merging() -> None:
    tokens = video(0.2, 4, (9, 9))
    kept = ToMe(0.2).compress(tokens, 20)
    assert len(tokens.features) == 20 == kept.facts["tower_tokens"]
    assert 0 < kept.facts["tower_share"] < 1  # type: ignore[operator]


def test_nothing_merged_is_every_token_in_order() -> None:
    features = torch.randn(3, 16, 4)
    tokens = merged_video(ToMe(0.999), features, (4, 4), Pooling("none"))
    kept = merged_tokens(tokens, as_sequences(tokens), ToMe(0.5).clips(3))
    assert torch.equal(kept.features, features.flatten(0, 1))
    assert (kept.role == Role.KEPT).all() and (kept.mass == 1).all()


def test_settings() -> None:
    config = Config(method="tome", ratio=0.2, methods={"tome": {"schedule": "linear"}})
    assert build_method(config) == ToMe(0.2, ToMeSettings("linear"))
    assert build_method(Config(method="tome", ratio=0.2)) == ToMe(0.2)
    with pytest.raises(ConfigError, match=r"methods\.tome\.schedule"):
        build_method(Config(method="tome", ratio=0.2, methods={"tome": {"schedule": "none"}}))
    with pytest.raises(ConfigError, match=r"methods\.tome\.ratio"):
        build_method(Config(method="tome", ratio=0.2, methods={"tome": {"ratio": 0.1}}))


def test_equal_settings_share_an_encoding() -> None:
    assert ToMe(0.1).needs == ToMe(0.1).needs != ToMe(0.2).needs
    assert ToMe(0.1, ToMeSettings("linear")).needs != ToMe(0.1).needs
    assert ToMe(0.1).needs != Needs()


def test_nothing_is_an_error() -> None:
    with pytest.raises(BudgetError, match="use --ratio"):
        ToMe(0.1).compress(video(0.1, 2, (5, 5)), 0)


def test_tokens_of_a_plain_tower_are_refused() -> None:
    tokens = VisualTokens(torch.randn(1, 4, 3), (2, 2), Pooling("none"), (0.0,), {})
    with pytest.raises(ValueError, match="inside the tower"):
        ToMe(0.5).compress(tokens, 2)
