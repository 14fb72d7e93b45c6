"""Links to the frame before, and trees of them."""

from __future__ import annotations

import pytest
import torch

from aot.compression.methods.flashvid import merge_trees, nearest_before, tree_roots
from tests.support.tolerances import assert_close


@pytest.mark.parametrize(("length", "published"), [(2, 1.0), (3, 1.5), (6, 3.0)])
def test_a_chain_of_equal_tokens(length: int, published: float) -> None:
    """The published sums are divided by the root and its children alone."""
    values = torch.nn.functional.normalize(torch.ones(length, 1, 4), dim=-1)
    similarity, parent = nearest_before(values, torch.ones(length, 1, dtype=torch.bool))
    linked = similarity > 0.8
    assert linked[:, 0].tolist() == [False] + [True] * (length - 1)
    mean, sizes = merge_trees(values, parent, linked)
    assert_close(mean[0], values[0], "float32")
    assert sizes[0, 0] == length
    wrong, _ = merge_trees(values, parent, linked, children_count_once=True)
    assert wrong[0].norm().item() == pytest.approx(published)


def test_tokens_that_are_not_free_neither_link_nor_are_linked_to() -> None:
    values = torch.eye(3).expand(2, 3, 3)
    free = torch.tensor([[True, True, False], [True, False, True]])
    similarity, parent = nearest_before(values, free)
    assert torch.isinf(similarity[0]).all()
    assert similarity[1].tolist() == [1.0, -torch.inf, 0.0]
    assert parent[1, [0, 2]].tolist() == [0, 0]


def test_a_tree_is_the_mean_of_all_its_tokens() -> None:
    """Two tokens of the last frame join one of the second, which joins the first frame's second."""
    values = torch.tensor([[1.0, 2.0], [3.0, 5.0], [7.0, 11.0]])[..., None]
    parent = torch.tensor([[0, 0], [0, 1], [1, 1]])
    linked = torch.tensor([[False, False], [False, True], [True, True]])
    mean, sizes = merge_trees(values, parent, linked)
    assert sizes[0].tolist() == [1, 4]
    assert mean[0, :, 0].tolist() == [1.0, (2 + 5 + 7 + 11) / 4]
    assert tree_roots(parent, linked).tolist() == [[0, 1], [2, 1], [1, 1]]
    assert (mean[1, 0].item(), sizes[1, 0].item()) == (3.0, 1.0)
    published, _ = merge_trees(values, parent, linked, children_count_once=True)
    assert published[0, :, 0].tolist() == [1.0, (2 + 5 + 7 + 11) / 2]
