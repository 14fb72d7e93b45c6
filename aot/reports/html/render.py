"""Render the page from the template, the style sheet and the script in this folder."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from aot.reports.fates import Fate
from aot.reports.html.content import ShownRun, ShownVideo, drawn, shown_frames
from aot.reports.html.timeline import timeline
from aot.text import visible

__all__ = ["render_page", "style_sheet"]

_MOST_OPEN = 4
_BASELINES = ("none", "random", "uniform")
_FATES = {
    Fate.LOCAL_ANCHOR: ("local anchor", "kept for the attention it received within its part of the frame"),
    Fate.GLOBAL_ANCHOR: ("global anchor", "kept for the attention it received in the whole frame"),
    Fate.DISTINCT: ("distinct", "kept because it changed since the keyframe"),
    Fate.KEPT: ("kept", "kept as it is"),
    Fate.GATHERED: ("kept, others merged in", "kept, with other tokens merged into it"),
    Fate.MERGED: ("merged into others", "not kept itself; kept tokens hold at least half of it"),
    Fate.DISCARDED: ("discarded", "not kept; kept tokens hold less than half of it"),
}


def render_page(video: ShownVideo, runs: Sequence[ShownRun]) -> str:
    """Return the HTML page of one or more `runs`, which all have the same frames and grid.

    The page loads no other file. All texts are escaped.
    """
    from jinja2 import Environment, StrictUndefined

    script = files(__package__).joinpath("page.js").read_text("utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files(__package__).joinpath("page.html").read_text("utf-8"))
    count = len(runs[0].tokens.timestamps_s)
    page = template.render(
        video=video,
        runs=runs,
        timelines=[timeline(run.frames, most) for run, most in zip(runs, _axes(runs), strict=True)],
        open_runs=_open_runs(runs),
        legend=_legend(runs),
        megabytes=_megabytes,
        frames=count,
        shown=len(shown_frames(count)),
        configs=[json.dumps(run.config.to_dict(), indent=2, ensure_ascii=False) for run in runs],
        style=style_sheet(),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        data=_for_script({**drawn(video, runs), "names": {int(fate): name for fate, (name, _) in _FATES.items()}}),
    )
    return visible(page)


def style_sheet() -> str:
    """Return the style sheet of all pages, which has a light and a dark form."""
    return files(__package__).joinpath("page.css").read_text("utf-8")


def _megabytes(size_bytes: int | None) -> str:
    return "not known" if size_bytes is None else f"{size_bytes / 1e6:,.0f}"


def _legend(runs: Sequence[ShownRun]) -> list[dict[str, Any]]:
    """Return the fates that occur, each with its number of tokens in each run."""
    counts = [run.fates.flatten().bincount(minlength=len(Fate)).tolist() for run in runs]
    return [
        {"fate": int(fate), "name": name, "meaning": meaning, "counts": [count[fate] for count in counts]}
        for fate, (name, meaning) in _FATES.items()
        if any(count[fate] for count in counts)
    ]


def _axes(runs: Sequence[ShownRun]) -> list[int]:
    """Return the maximum of each run's axis: the largest number of tokens in a frame.

    Runs that keep all tokens have their own axes; all other runs share one axis.
    """
    most = [max(1, *(frame.kept for frame in run.frames)) for run in runs]
    shared = [each for each, run in zip(most, runs, strict=True) if run.kept_tokens < run.visual_tokens]
    return [max(shared) if run.kept_tokens < run.visual_tokens else each for each, run in zip(most, runs, strict=True)]


def _open_runs(runs: Sequence[ShownRun]) -> set[int]:
    """Return the indices of at most four runs that are shown at first.

    Of more than four runs, baselines are left out, unless all runs are baselines.
    """
    numbers = range(len(runs))
    telling = [number for number in numbers if runs[number].name.split()[0] not in _BASELINES]
    return set(numbers if len(runs) <= _MOST_OPEN else (telling or list(numbers))[:_MOST_OPEN])


def _for_script(data: Any) -> str:
    """Return `data` as JSON, escaped so that it cannot end the enclosing HTML element."""
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
