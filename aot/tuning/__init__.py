"""Find the smallest ratio that stays within a stated loss on the user's own videos.

`search` decides what to measure next, `run` measures it, `losses` has the intervals, `verdict` and
`words` state what was found, and `preset` and `page` write it down.
"""

from __future__ import annotations

from aot.tuning.page import render_page
from aot.tuning.preset import is_own_preset, preset_text
from aot.tuning.run import Goal, tune
from aot.tuning.verdict import Choice, Measured, Tuned
from aot.tuning.words import answer, counted, explanations, loss_text, percent

__all__ = [
    "Choice",
    "Goal",
    "Measured",
    "Tuned",
    "answer",
    "counted",
    "explanations",
    "is_own_preset",
    "loss_text",
    "percent",
    "preset_text",
    "render_page",
    "tune",
]
