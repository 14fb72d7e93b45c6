"""The test that other packages run on their methods finds what is wrong with them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch

from aot.compression.methods import Card
from aot.compression.methods.subset import check_budget, keep_subset, kept_tokens, pooled_cells
from aot.errors import BudgetError, ConfigError
from aot.testing import check_method
from aot.types import CompressedTokens, Needs, SourceWeights, VisualTokens


@dataclass(frozen=True)
class First:
    """The first tokens of a video, which is all that a method must be."""

    card: ClassVar = Card("after pooling")
    needs: ClassVar = Needs()
    more: int = 0

    def compress(self, tokens: VisualTokens, budget: int) -> CompressedTokens:
        return keep_subset(tokens, torch.arange(budget + self.more))


def test_a_plain_method_passes() -> None:
    check_method(First)
    check_method("uniform")


class Asked(First):
    """A method that reads the question, whose width is that of the features."""

    needs: ClassVar = Needs(question=True)

    def compress(self, tokens: VisualTokens, budget: int) -> CompressedTokens:
        assert tokens.question is not None and tokens.question.shape[1:] == tokens.features.shape[2:]
        assert tokens.question.dtype == tokens.features.dtype
        return super().compress(tokens, budget)


def test_a_method_that_reads_the_question_gets_one() -> None:
    check_method(Asked)


def test_a_wrong_setting_is_named_without_another_method() -> None:
    with pytest.raises(ConfigError, match=r"^unknown setting mor "):
        check_method(First, {"mor": 1})


class RefusesEverything(First):
    def compress(self, tokens: VisualTokens, budget: int) -> CompressedTokens:
        raise BudgetError("too few; use --ratio 0.5 or more")


class RefusesWhatItAnnounces(RefusesEverything):
    card: ClassVar = Card("after pooling", least="half of all")


class RefusesWithoutRemedy(RefusesWhatItAnnounces):
    def compress(self, tokens: VisualTokens, budget: int) -> CompressedTokens:
        raise BudgetError("too few")


class Random(First):
    def compress(self, tokens: VisualTokens, budget: int) -> CompressedTokens:
        frames, per_frame = pooled_cells(tokens)
        return keep_subset(tokens, torch.randperm(frames * per_frame)[:budget].sort().values)


class Scaling(First):
    """Changes the values of its input."""

    def compress(self, tokens: VisualTokens, budget: int) -> CompressedTokens:
        tokens.features.mul_(2)
        return keep_subset(tokens, torch.arange(budget))


class Brighter(First):
    def compress(self, tokens: VisualTokens, budget: int) -> CompressedTokens:
        kept = keep_subset(tokens, torch.arange(budget))
        return replace(kept, features=kept.features + 1)


class Claims(First):
    """Says that each token is three times the first token of the video."""

    def compress(self, tokens: VisualTokens, budget: int) -> CompressedTokens:
        index = torch.arange(budget)
        kept = keep_subset(tokens, index)
        claim = SourceWeights(budget, index, torch.zeros_like(index), torch.full((budget,), 3.0))
        return kept_tokens(tokens, kept.features, index, sources=claim)


class Single(First):
    """Knows no video of one frame."""

    def compress(self, tokens: VisualTokens, budget: int) -> CompressedTokens:
        if len(tokens.timestamps_s) == 1:
            raise IndexError("no neighbor")
        return super().compress(tokens, budget)


class Loose(First):
    card: ClassVar = Card("after pooling", exact=False)

    def compress(self, tokens: VisualTokens, budget: int) -> CompressedTokens:
        return keep_subset(tokens, torch.arange(max(1, budget - 1)))


@pytest.mark.parametrize(
    ("method", "told"),
    [
        (RefusesEverything, r"refused its budget \(too few.*\), and its card names no least ratio"),
        (RefusesWhatItAnnounces, r"also refused the ratio 0.5, which its error recommended"),
        (RefusesWithoutRemedy, r'refused its budget without a remedy, "use --ratio X"'),
        (Random, r"draws from torch's global generator"),
        (Random, r"kept different tokens of the same video in a second run"),
        (Scaling, r"changed its input"),
        (Brighter, r"features that differ from the pooled tokens at their positions, but no sources"),
        (Claims, r"source weights that are not positive, or that sum to more than 1"),
        (Single, r"1 frames of 5 x 5 patches, .*: it raised IndexError: no neighbor"),
    ],
)
def test_what_is_wrong_is_told(method: Any, told: str) -> None:
    with pytest.raises(AssertionError, match=told) as error:
        check_method(method)
    lines = str(error.value).splitlines()
    assert lines[0] == f"{method.__qualname__} breaks the contract of aot.compression.methods.Method:"
    assert 2 <= len(lines) <= 14
    assert all(line.startswith("- ") for line in lines[1:13])


def test_settings_and_cards_count() -> None:
    with pytest.raises(AssertionError, match=r"ratio 0.1 \(1 of 9 tokens\): it kept 2 tokens where exactly 1 were due"):
        check_method(First, {"more": 1})
    check_method(Loose)


def test_a_least_ratio_that_is_announced_and_true() -> None:
    class Half(First):
        card: ClassVar = Card("after pooling", least="half of all")

        def compress(self, tokens: VisualTokens, budget: int) -> CompressedTokens:
            frames, per_frame = pooled_cells(tokens)
            check_budget(tokens, budget, least=-(-frames * per_frame // 2), why=" for half of the video")
            return super().compress(tokens, budget)

    check_method(Half)
