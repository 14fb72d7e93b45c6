"""The sentences say how sure the choice is, and nothing more than the videos allow."""

from __future__ import annotations

from dataclasses import replace

import pytest

from aot.tuning.losses import Estimate
from aot.tuning.page import render_page
from aot.tuning.verdict import Choice, Measured, Tuned, WorstQuestion, WorstVideo
from aot.tuning.words import answer, loss_text

LOSS = Estimate(20, 0.6, 0.1, 1.1, 0.24, 0.94)
CHOSEN = Measured("standout", 0.07, "passes", LOSS, None, 36.0, 2.0)
BELOW = Measured("vidcom2", 0.05, "fails", replace(LOSS, videos=10, mean=2.0, low=1.2, high=2.8), None, 26.0, 2.0)
CHOICE = Choice(CHOSEN, ("vidcom2", "attention"), is_settled=False, videos_to_settle=25)
WORST = WorstVideo("<b>.mp4", 12.5, (WorstQuestion("what <i>?", "a & b", "a & b", "c", 100.0),))
OTHERS = (Measured("vidcom2", 0.07, "not measured"), Measured("standout", 0.05, "refused"))
TUNED = Tuned("accuracy", 1.0, 20, 460, 512.0, 0.92, CHOICE, BELOW, (CHOSEN, BELOW, *OTHERS), (WORST,))


def test_a_choice() -> None:
    assert answer(TUNED) == [
        "Keep 7 % with standout: the loss is 0.6 points of accuracy (0.1 to 1.1), from 92.0 % with all tokens, on "
        "460 questions about 20 videos; the limit is 1 point.",
        "Sure: 94 %; about 25 more videos like these would settle it.",
        "standout, vidcom2 and attention cannot be told apart here; standout has the lowest loss.",
        "At 5 % the best is vidcom2, with a loss of 2.0 points of accuracy (1.2 to 2.8) on 10 of 20 videos.",
    ]
    settled = replace(CHOICE, measured=replace(CHOSEN, loss=replace(LOSS, within=1.0)), is_settled=True)
    assert answer(replace(TUNED, choice=settled))[1] == (
        "Sure: more than 99 %, so this is settled for videos like these."
    )
    never = answer(replace(TUNED, choice=replace(CHOICE, videos_to_settle=None)))[1]
    assert "no number of videos settles it; a larger ratio may" in never


def test_tied_methods_above_the_limit_are_named_apart() -> None:
    above = [replace(BELOW, method=name, ratio=0.07) for name in ("vidcom2", "attention")]
    one = answer(replace(TUNED, measured=(CHOSEN, above[0])))
    assert one[2:4] == [
        "standout and attention cannot be told apart here; standout has the lowest loss.",
        "vidcom2 cannot be told apart from standout here, although its own loss is above the limit.",
    ]
    both = answer(replace(TUNED, measured=(CHOSEN, *above)))
    assert both[2].startswith("vidcom2 and attention cannot be told apart from standout here, although their own")


def test_fewer_than_ten_videos_settle_nothing() -> None:
    settled = replace(TUNED, videos=6, choice=replace(CHOICE, is_settled=True))
    assert answer(settled)[1] == (
        "Sure: 94 %, but from 6 videos this and all intervals are not reliable; give at least 10."
    )
    assert answer(replace(settled, choice=None))[-1] == "From 6 videos this is not reliable; give at least 10."


@pytest.mark.parametrize("videos", [1, 2, 3])
def test_few_videos(videos: int) -> None:
    sentences = answer(replace(TUNED, videos=videos))
    assert "only: so few say nothing about others" in sentences[1]
    assert not any("Sure" in each or "told apart" in each for each in sentences)


def test_no_choice() -> None:
    first, second = answer(replace(TUNED, choice=None))
    assert first == "Keep all tokens: no method stays within 1 point at 7 % or less."
    assert second.startswith(
        "The smallest loss is 2.0 points of accuracy (1.2 to 2.8), from 92.0 % with all tokens, with vidcom2 at "
        "5 % on 10 of 20 videos."
    )


@pytest.mark.parametrize(
    ("by", "limit", "value", "text"),
    [
        ("accuracy", 1.0, 0.96, "1.0"), ("accuracy", 0.5, 0.26, "0.26"), ("accuracy", 1.0, -0.04, "0.0"),
        ("divergence", 0.05, 0.0393, "0.039"),
        ("divergence", 0.001, 0.00052, "0.0005"), ("divergence", 0.0, 0.0123, "0.012"),
    ],
)  # fmt: skip
def test_losses_have_the_digits_of_the_limit(by: str, limit: float, value: float, text: str) -> None:
    assert loss_text(replace(TUNED, by=by, limit=limit), value) == text


def test_the_page() -> None:
    page = render_page(TUNED, {"model": "<m>"}, {"Ask": "aot ask <clip>"})
    assert page.count('class="chosen"') == 1 and page.count('<circle class="mark partly"') == 1
    assert "&lt;b&gt;.mp4" in page and "what &lt;i&gt;?" in page and "a &amp; b" in page and "&lt;m&gt;" in page
    assert all(sentence in page for sentence in answer(TUNED))
    assert "<code>aot ask &lt;clip&gt;</code>" in page and "The videos that lose most at 7 % with standout" in page
    nothing = render_page(replace(TUNED, choice=None), {}, {})
    assert 'class="chosen"' not in nothing and "The videos that lose most at 5 % with vidcom2" in nothing
