"""What became of every pooled token."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from aot.reports.fates import Fate, fates
from aot.types import Role
from tests.support.kept_by_hand import kept, made_of


def test_tokens_that_were_not_traced_have_no_fates() -> None:
    with pytest.raises(ValueError, match=r"^sources: expected those of a traced run, got None$"):
        fates(kept((2, 3), 2, [7, 0, 11]))


def test_what_became_of_tokens_that_were_merged() -> None:
    """The second token stands for four, the third for two; what both hold of cell 4 adds up to a half."""
    sources = made_of(
        (0, 0, 1.0),
        (1, 1, 0.5), (1, 2, 0.25), (1, 3, 0.125), (1, 4, 0.0625), (1, 5, 0.0625),
        (2, 7, 0.875), (2, 4, 0.125),
    )  # fmt: skip
    roles = [Role.KEPT, Role.MERGED, Role.MERGED]
    found = fates(kept((2, 4), 1, [0, 1, 7], roles=roles, mass=[1.0, 4.0, 2.0], sources=sources))
    assert (found.dtype, found.shape) == (torch.uint8, (1, 8))
    assert found[0].tolist() == [
        Fate.KEPT, Fate.GATHERED, Fate.MERGED, Fate.MERGED, Fate.MERGED, Fate.DISCARDED, Fate.DISCARDED, Fate.GATHERED,
    ]  # fmt: skip


def test_what_became_of_anchors_and_of_what_repeats_them() -> None:
    """A keyframe said twice, and a later frame with one token that changed and one that did not."""
    roles = [Role.KEYFRAME, Role.KEYFRAME, Role.DISTINCT, Role.MERGED, Role.MERGED]
    sources = made_of(
        (0, 0, 1.0), (1, 1, 1.0), (2, 3, 1.0), (3, 0, 0.5), (3, 4, 0.5), (4, 1, 1.0),
        is_global=[True, False, True, True, False],
    )  # fmt: skip
    tokens = kept((1, 3), 2, [0, 1, 3, 0, 1], roles=roles, mass=[1.0, 1.0, 1.0, 2.0, 1.0], sources=sources)
    assert fates(tokens).tolist() == [
        [Fate.GLOBAL_ANCHOR, Fate.LOCAL_ANCHOR, Fate.DISCARDED],
        [Fate.DISTINCT, Fate.MERGED, Fate.DISCARDED],
    ]


def test_a_token_kept_as_it_is_and_in_another_at_its_place_has_gathered() -> None:
    sources = made_of((0, 0, 0.5), (0, 1, 0.5), (1, 0, 1.0))
    tokens = kept((1, 2), 1, [0, 0], roles=[Role.MERGED, Role.KEPT], mass=[2.0, 1.0], sources=sources)
    assert fates(tokens).tolist() == [[Fate.GATHERED, Fate.MERGED]]


def test_a_token_of_few_patches_is_merged_where_half_of_those_are() -> None:
    """Of 3 x 1 patches in two pooled tokens, the second has one: two thirds of a token's mass are all of it."""
    all_patches = made_of((0, 0, 2 / 3), (0, 1, 1 / 3), source_mass=[4 / 3, 2 / 3])
    tokens = kept((2, 1), 1, [0], roles=[Role.MERGED], mass=[2.0], sources=all_patches)
    assert fates(tokens).tolist() == [[Fate.GATHERED, Fate.MERGED]]
    few = [(0, 0, 0.5), (0, 1, 0.25), (0, 2, 0.25)]
    tokens = kept((1, 3), 1, [0], roles=[Role.MERGED], mass=[1.0], sources=made_of(*few))
    assert fates(tokens).tolist() == [[Fate.GATHERED, Fate.DISCARDED, Fate.DISCARDED]]
    unequal = made_of(*few, source_mass=[1.75, 0.5, 0.75])
    assert fates(replace(tokens, sources=unequal)).tolist() == [[Fate.GATHERED, Fate.MERGED, Fate.DISCARDED]]
