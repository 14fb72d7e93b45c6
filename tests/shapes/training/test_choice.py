from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from aot.shapes.training.choice import Choice, choose_tokens, keep_tokens


@given(st.integers(0, 10_000))
def test_kept_tokens_are_distinct_and_in_order(seed: int) -> None:
    covered = torch.from_numpy(np.random.default_rng(seed).random((3, 192)) < 0.2)
    choice = choose_tokens(covered, np.random.default_rng(seed), 0.2)
    assert (choice.kept.diff(dim=1) > 0).all()
    assert choice.kept.min() >= 0
    assert choice.kept.max() < 192
    assert 0 <= choice.merge <= 1


def test_things_mostly_come_first() -> None:
    covered = torch.zeros(4, 512, dtype=torch.bool)
    covered[:, 100:130] = True
    rng = np.random.default_rng(0)
    shares = [covered.gather(1, choose_tokens(covered, rng, 0.0).kept).sum().item() / 120 for _ in range(200)]
    assert np.mean(shares) > 0.8
    assert min(shares) < 0.3  # but not always: sometimes the choice is blind


def test_merging_keeps_the_mean_of_what_is_alike() -> None:
    torch.manual_seed(0)
    centers = torch.nn.functional.normalize(torch.randn(4, 16), dim=-1) * 10
    features = (centers.repeat_interleave(5, 0) + 0.01 * torch.randn(20, 16))[None]
    kept = torch.tensor([[0, 5, 10, 15]])
    merged = keep_tokens(features, Choice(kept, 1.0))
    torch.testing.assert_close(merged[0], features[0].reshape(4, 5, 16).mean(1))
    torch.testing.assert_close(keep_tokens(features, Choice(kept, 0.0))[0], features[0, ::5])
