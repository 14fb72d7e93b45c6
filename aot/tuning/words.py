"""Say what was found, in sentences for the terminal, the page and the preset."""

from __future__ import annotations

import math
from collections.abc import Sequence

from aot.tuning.losses import Estimate
from aot.tuning.verdict import Choice, Measured, Tuned

__all__ = ["answer", "counted", "explanations", "loss_text", "percent"]

_FEW = 4  # with fewer videos, nothing is said about others
_RELIABLE = 10  # with fewer videos, the variance between videos is not known well


def answer(tuned: Tuned) -> list[str]:
    """Return the result: what to keep, how sure this is, and what comes next, a sentence each."""
    if tuned.choice is None:
        return _nothing(tuned)
    return [*_kept(tuned, tuned.choice), *_sure(tuned, tuned.choice), *_others(tuned, tuned.choice)]


def explanations(tuned: Tuned) -> list[str]:
    """Return what the figures mean."""
    if tuned.by == "accuracy":
        meaning = "Loss: accuracy with all tokens minus that with the kept tokens, in points, on the same questions."
    else:
        less = 100 * (1 - math.exp(-tuned.limit))
        meaning = (
            "Loss: divergence of the next-token distributions from those with all tokens, along the answer with all "
            f"tokens, in nats. At the limit of {tuned.limit:g}, each token of that answer is on average {less:.1f} % "
            "less likely than with all tokens. Same answer: share of questions whose greedy answer does not change."
        )
    return [
        meaning,
        "Intervals are 95 %, from a bootstrap over videos. Sure is the share of resampled sets of videos in which the "
        "mean loss is within the limit. A method that is told apart from the limit or from a better method is "
        "measured on fewer videos.",
    ]


def percent(share: float) -> str:
    """Return a share as a percentage with as many digits as it needs."""
    return f"{100 * share:.4g} %"


def counted(number: int, noun: str) -> str:
    """Return "1 video" or "2 videos"."""
    return f"{number} {noun}{'s' * (number != 1)}"


def loss_text(tuned: Tuned, value: float) -> str:
    """Return a loss without its unit, with two digits of the limit (a point has one decimal)."""
    usual = 1 if tuned.by == "accuracy" else 2
    digits = max(usual, 1 - math.floor(math.log10(tuned.limit))) if tuned.limit else usual + 1
    return f"{round(value, digits) + 0.0:.{digits}f}"  # adding 0 turns -0 into 0


def _with_interval(tuned: Tuned, loss: Estimate) -> str:
    unit = "points of accuracy" if tuned.by == "accuracy" else "nats"
    text = f"{loss_text(tuned, loss.mean)} {unit}"
    if loss.low is None or loss.high is None:
        return text
    return f"{text} ({loss_text(tuned, loss.low)} to {loss_text(tuned, loss.high)})"


def _from(tuned: Tuned) -> str:
    return "" if tuned.full_accuracy is None else f", from {100 * tuned.full_accuracy:.1f} % with all tokens"


def _limit(tuned: Tuned) -> str:
    return f"{tuned.limit:g} {'point' if tuned.by == 'accuracy' else 'nat'}{'s' * (tuned.limit != 1)}"


def _kept(tuned: Tuned, choice: Choice) -> list[str]:
    found = choice.measured
    assert found.loss is not None
    same = "" if found.same_answers is None else f", and {100 * found.same_answers:.0f} % of the answers are the same"
    loss = f"{_with_interval(tuned, found.loss)}{_from(tuned)}"
    return [
        f"Keep {percent(found.ratio)} with {found.method}: the loss is {loss}{same}, on "
        f"{counted(tuned.questions, 'question')} about {counted(tuned.videos, 'video')}; the limit is {_limit(tuned)}."
    ]


def _sure(tuned: Tuned, choice: Choice) -> list[str]:
    within = choice.measured.loss.within if choice.measured.loss else None
    if within is None or tuned.videos < _FEW:
        only = "this video" if tuned.videos == 1 else f"these {tuned.videos} videos"
        return [f"This holds for {only} only: so few say nothing about others. Give at least {_RELIABLE}."]
    sure = f"Sure: {_share(within)}"
    if tuned.videos < _RELIABLE:
        return [
            f"{sure}, but from {tuned.videos} videos this and all intervals are not reliable; give at least "
            f"{_RELIABLE}."
        ]
    if choice.is_settled:
        return [f"{sure}, so this is settled for videos like these."]
    more = choice.videos_to_settle
    if more is None:
        return [f"{sure}. The loss is so close to the limit that no number of videos settles it; a larger ratio may."]
    return [f"{sure}; about {counted(more, 'more video')} like these would settle it."]


def _share(within: float) -> str:
    return "more than 99 %" if within > 0.99 else f"{100 * within:.0f} %"


def _others(tuned: Tuned, choice: Choice) -> list[str]:
    sentences = []
    if choice.tied and tuned.videos >= _FEW:
        sentences += _tied(tuned, choice)
    below = tuned.closest
    if below and below.loss:
        sentences.append(
            f"At {percent(below.ratio)} the best is {below.method}, with a loss of {_with_interval(tuned, below.loss)}"
            f"{_on(tuned, below)}."
        )
    elif choice.measured.ratio == min(each.ratio for each in tuned.measured):
        sentences.append("No smaller ratio was tried; --ratios adds some.")
    return sentences


def _tied(tuned: Tuned, choice: Choice) -> list[str]:
    name, ratio = choice.measured.method, choice.measured.ratio
    failing = {each.method for each in tuned.measured if each.ratio == ratio and each.state == "fails"}
    within = [each for each in choice.tied if each not in failing]
    above = [each for each in choice.tied if each in failing]
    sentences = []
    if within:
        sentences.append(f"{_listed([name, *within])} cannot be told apart here; {name} has the lowest loss.")
    if above:
        whose = "its own loss is" if len(above) == 1 else "their own losses are"
        sentences.append(f"{_listed(above)} cannot be told apart from {name} here, although {whose} above the limit.")
    return sentences


def _on(tuned: Tuned, measured: Measured) -> str:
    videos = measured.loss.videos if measured.loss else 0
    return f" on {videos} of {counted(tuned.videos, 'video')}" if videos < tuned.videos else ""


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)


def _nothing(tuned: Tuned) -> list[str]:
    first = (
        f"Keep all tokens: no method stays within {_limit(tuned)} at {percent(max(m.ratio for m in tuned.measured))}"
        " or less."
    )
    near = tuned.closest
    if near is None or near.loss is None:
        return [first]
    is_few = tuned.videos < _RELIABLE
    return [
        first,
        f"The smallest loss is {_with_interval(tuned, near.loss)}{_from(tuned)}, with {near.method} at "
        f"{percent(near.ratio)}{_on(tuned, near)}. A larger limit or larger --ratios would find more.",
        *([f"From {counted(tuned.videos, 'video')} this is not reliable; give at least {_RELIABLE}."] * is_few),
    ]
