"""What merging and joining keep count of."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aot.compression.in_tower.token_merging import MergingTokens


def random_tokens(sequences: int, count: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> MergingTokens:
    generator = torch.Generator().manual_seed(seed)
    return MergingTokens.of(torch.randn(sequences, count, 4, generator=generator, dtype=torch.float64).to(dtype))


@given(
    st.integers(0, 10**6),
    st.sampled_from([1, 2, 4]),
    st.integers(1, 30),
    st.floats(0, 1),
    st.floats(0, 1),
    st.booleans(),
)
def test_every_patch_is_in_one_token(
    seed: int, join: int, count: int, first: float, second: float, by_similarity: bool
) -> None:
    patches = random_tokens(4, count, seed)
    tokens = patches.merge(patches.states, round(first * (count - 1)), by_similarity=by_similarity).joined(join)
    tokens = tokens.merge(tokens.states, round(second * (tokens.count - 1)), by_similarity=by_similarity)
    whole = patches.joined(join).states
    for sequence in range(4 // join):
        for index in range(tokens.count):
            own = tokens.owner[sequence] == index
            assert own.sum() == tokens.sizes[sequence, index]
            assert own[tokens.anchor[sequence, index]]
            assert torch.allclose(tokens.states[sequence, index], whole[sequence, own].mean(0))


def test_the_most_similar_merge_first() -> None:
    states = torch.eye(6)[None].clone()
    states[0, 4] = states[0, 1]
    tokens = MergingTokens.of(states).merge(states, 1)
    assert tokens.owner.tolist() == [[0, 2, 1, 3, 2, 4]]  # even indices that are left, then odd ones
    assert tokens.anchor.tolist() == [[0, 2, 1, 3, 5]]


def test_unmerged_tokens_go_on_by_index_or_from_the_most_similar() -> None:
    """0, 2 and 4 are ever more like 1; 4 merges into it."""
    angle = torch.tensor([1.2, 0.0, 0.8, 3.0, 0.1, 3.1], dtype=torch.float64)
    states = torch.stack([angle.cos(), angle.sin()], -1)[None]
    tokens = MergingTokens.of(states)
    assert tokens.merge(states, 1).anchor.tolist() == [[0, 2, 1, 3, 5]]
    assert tokens.merge(states, 1, by_similarity=True).anchor.tolist() == [[2, 0, 1, 3, 5]]


def test_a_metric_of_its_own_decides() -> None:
    tokens = random_tokens(1, 8, dtype=torch.bfloat16)
    metric = torch.tensor([0.0, 1, 2, 3, 4, 5, 6, 7])[None, :, None].expand(-1, -1, 2).clone()
    metric[..., 1] = 10
    merged = tokens.merge(metric, 4)
    assert merged.states.dtype == torch.bfloat16 and merged.sizes.dtype == torch.float32
    assert merged.sizes.sum() == 8 and merged.count == 4
    assert tokens.are_patches and not merged.are_patches


@pytest.mark.parametrize("merges", [-1, 3])
def test_one_token_is_always_left(merges: int) -> None:
    tokens = random_tokens(2, 3)
    assert tokens.merge(tokens.states, 2).count == 1
    with pytest.raises(ValueError, match="merges"):
        tokens.merge(tokens.states, merges)
