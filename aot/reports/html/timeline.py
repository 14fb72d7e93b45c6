"""Lay out a chart of tokens per frame over time: bars, similarity and clip boundaries."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from aot.reports.retention import FrameRetention

__all__ = ["WIDTH", "Bar", "Timeline", "timeline"]

WIDTH, HEIGHT = 1000.0, 150.0
_TICKS = 8


@dataclass(frozen=True, slots=True)
class Bar:
    """The bar of one frame; `parts` lists (kind, top, height) from the bottom up."""

    frame: int
    left: float
    width: float
    parts: tuple[tuple[str, float, float], ...]
    text: str


@dataclass(frozen=True, slots=True)
class Timeline:
    """Hold the geometry of a chart of `width` x `height` units.

    Attributes:
        bars: one per frame.
        boundaries: x coordinates at which clips begin.
        similarity: points of an SVG polyline; empty if no similarity is known.
        least_similarity: the similarity at the bottom of the chart; 1 is at the top.
        most_tokens: the number of tokens at the top of the chart.
        kinds: the kinds of parts that occur.
        ticks: (x, text) of the time axis.
        width: width of the chart.
        height: height of the chart.
    """

    bars: tuple[Bar, ...]
    boundaries: tuple[float, ...]
    similarity: str
    least_similarity: float
    most_tokens: int
    kinds: tuple[str, ...]
    ticks: tuple[tuple[float, str], ...]
    width: float = WIDTH
    height: float = HEIGHT


def timeline(frames: Sequence[FrameRetention], most: int) -> Timeline:
    """Return the chart of `frames`; a bar of `most` tokens has the full height of the chart."""
    # 1. Time scale, with half a frame gap before the first and after the last frame.
    times = [frame.timestamp_s for frame in frames]
    gaps = [after - before for before, after in pairwise(times)]
    gap = min((each for each in gaps if each > 0), default=1.0)
    first, span = times[0] - gap / 2, times[-1] - times[0] + gap
    scale = WIDTH / span
    middles = [(time - first) * scale for time in times]
    width = max(min(0.8 * gap * scale, 60.0), 0.7)
    # 2. The similarity line.
    similar = [frame.similarity for frame in frames if frame.similarity is not None]
    least = min([*similar, 0.9])
    points = (
        f"{x:.1f},{HEIGHT * (1 - (frame.similarity - least) / (1 - least)):.1f}"
        for x, frame in zip(middles, frames, strict=True)
        if frame.similarity is not None
    )
    # 3. Boundaries, unless every frame is a clip of its own.
    grouped = not all(frame.is_keyframe for frame in frames)
    return Timeline(
        bars=tuple(_bar(frame, x - width / 2, width, most) for x, frame in zip(middles, frames, strict=True)),
        boundaries=tuple(
            x - gap * scale / 2
            for x, frame in zip(middles[1:], frames[1:], strict=True)
            if grouped and frame.is_keyframe
        ),
        similarity=" ".join(points),
        least_similarity=least,
        most_tokens=most,
        kinds=tuple(kind for kind in ("own", "distinct", "merged") if any(getattr(frame, kind) for frame in frames)),
        ticks=_ticks(first, span),
    )


def _bar(frame: FrameRetention, left: float, width: float, most: int) -> Bar:
    """Return the bar of `frame`, with stacked parts and a sentence for the tooltip."""
    counts = {"own": frame.own, "distinct": frame.distinct, "merged": frame.merged}
    parts, below = [], 0
    for kind, count in counts.items():
        if count:
            below += count
            parts.append((kind, HEIGHT * (1 - below / most), HEIGHT * count / most))
    by_kind = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
    similar = "" if frame.similarity is None else f"; similarity to the frame before {frame.similarity:.3f}"
    tokens = "1 token" if frame.kept == 1 else f"{frame.kept} tokens"
    text = f"frame {frame.frame} at {frame.timestamp_s:.2f} s: {tokens} ({by_kind or 'none'}){similar}"
    return Bar(frame.frame, left, width, tuple(parts), text)


def _ticks(first: float, span: float) -> tuple[tuple[float, str], ...]:
    """Return about eight ticks (x, text) at round times."""
    # The smallest step of 1, 2, 5 or 10 times a power of ten that gives at most eight intervals.
    ten = 10.0 ** math.floor(math.log10(span / _TICKS))
    step = next(nice * ten for nice in (1, 2, 5, 10) if nice * ten >= span / _TICKS)
    digits = max(0, -math.floor(math.log10(step)))
    numbers = range(math.ceil(max(first, 0) / step), math.floor((first + span) / step) + 1)
    return tuple(((number * step - first) / span * WIDTH, f"{number * step:.{digits}f}") for number in numbers)
