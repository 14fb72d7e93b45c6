"""TempMe's merging: clips, exact budgets, and tokens that stand for several frames."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aot.compression.methods import build_method
from aot.compression.methods.tempme import TempMe, TempMeSettings
from aot.config.schema import Config
from aot.errors import BudgetError, ConfigError
from aot.testing import merged_video
from aot.types import Role, VisualTokens
from tests.support.merging_oracle import Token, center_cells, straight_line_merge


def video(ratio: float, frames: int, side: int, seed: int = 0) -> VisualTokens:
    generator = torch.Generator().manual_seed(seed)
    still = torch.randn(1, side * side, 8, generator=generator, dtype=torch.float64)
    moving = torch.randn(frames, side * side, 8, generator=generator, dtype=torch.float64)
    return merged_video(TempMe(ratio), still + 0.3 * moving, (side, side))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("budget", [109, 108, 90, 20, 1])
def test_compress_is_the_straight_line_program(budget: int, seed: int) -> None:
    tokens = video(0.31, 14, 9, seed)
    assert tokens.merged is not None
    owner, anchors = tokens.merged.owner.flatten(), tokens.merged.anchor.tolist()
    every = [
        Token(state.numpy(), (owner == index).nonzero()[:, 0].tolist(), anchors[index])
        for index, state in enumerate(tokens.features)
    ]
    expected = straight_line_merge(every, [token.state for token in every], len(every) - budget)
    expected = sorted(expected, key=lambda token: np.mean(token.patches))
    kept = TempMe(0.31).compress(tokens, budget)
    assert len(kept.features) == budget
    assert np.allclose(kept.features.numpy(), [token.state for token in expected], atol=1e-9)
    indices = np.array([token.anchor for token in expected])
    assert kept.frame.tolist() == (indices // 81).tolist()
    assert kept.row.tolist() == center_cells(indices % 81 // 9).tolist()
    assert kept.col.tolist() == center_cells(indices % 9).tolist()
    assert np.allclose(kept.mass.numpy(), [token.size * 25 / 81 for token in expected])
    assert kept.role.tolist() == [int(Role.MERGED if token.size > 1 else Role.KEPT) for token in expected]
    assert [(clip.first, clip.stop) for clip in kept.clips] == [(0, 12), (12, 14)]


@given(st.floats(0.005, 0.999), st.integers(1, 40), st.integers(1, 40), st.sampled_from([3, 5, 6]))
def test_segments_of_any_length_meet_the_ratio(ratio: float, frames: int, most: int, side: int) -> None:
    config = Config(method="tempme", ratio=ratio)
    method, so_far, before = build_method(config), 0, 0
    for first in range(0, frames, most):
        length = min(most, frames - first)
        so_far += length
        budget = config.token_budget(so_far, (-(-side // 2)) ** 2)
        if budget > before:
            kept = method.compress(video(ratio, length, side), budget - before)
            assert len(kept.features) == budget - before
            assert kept.mass.sum().item() == pytest.approx(length * (-(-side // 2)) ** 2, rel=1e-4)
        before = budget


def test_halves_that_round_up_still_find_enough_tokens() -> None:
    """Half a token a frame: 21 frames get 10, the next 22 get 12, one above their own 11."""
    config = Config(method="tempme", ratio=0.125)
    assert [config.token_budget(frames, 4) for frames in (21, 43)] == [10, 22]
    assert len(TempMe(0.125).compress(video(0.125, 22, 3), 12).features) == 12


@pytest.mark.parametrize(
    ("frames", "lengths"), [(1, [1]), (8, [8]), (11, [8, 3]), (12, [12]), (31, [12, 12, 6, 1]), (64, [12] * 5 + [4])]
)
def test_clips_are_the_longest_that_join_evenly(frames: int, lengths: list[int]) -> None:
    clips = TempMe(0.1).clips(frames)
    assert [len(clip) for clip in clips] == lengths
    assert all(one.stop == other.first for one, other in pairwise(clips))
    assert (clips[0].first, clips[-1].stop) == (0, frames)


def test_a_still_clip_merges_across_its_frames() -> None:
    """What does not move is one token for several frames; in one frame it would be one for each."""
    still = torch.randn(1, 25, 8, generator=torch.Generator().manual_seed(0)).expand(8, -1, -1)
    tokens = merged_video(TempMe(0.4), still.contiguous(), (5, 5))
    assert tokens.merged is not None
    owner = tokens.merged.owner
    frames_of = [len(set((owner == index).nonzero()[:, 0].tolist())) for index in range(len(tokens.features))]
    assert np.mean(frames_of) > 2


def test_settings() -> None:
    config = Config(method="tempme", ratio=0.2, methods={"tempme": {"across_share": 0.4}})
    assert build_method(config) == TempMe(0.2, TempMeSettings(across_share=0.4))
    for wrong in (0.0, 1.0):
        with pytest.raises(ConfigError, match=r"methods\.tempme\.later_share"):
            build_method(Config(method="tempme", ratio=0.2, methods={"tempme": {"later_share": wrong}}))


def test_more_across_is_less_elsewhere() -> None:
    plans = [TempMe(0.2, TempMeSettings(across_share=share)).plan(12, 81, 25, 12) for share in (0.2, 0.4)]
    before = [sum(step.before for step in plan) for plan in plans]
    in_frames = [sum(step.after for step in plan[:8]) for plan in plans]
    assert before[0] < 2 * before[1] and in_frames[0] > in_frames[1]


def test_nothing_is_an_error() -> None:
    with pytest.raises(BudgetError, match="use --ratio"):
        TempMe(0.1).compress(video(0.1, 2, 5), 0)
