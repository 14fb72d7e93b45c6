"""Draw where the time of an answer goes, as a web page in one file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

from aot.bench.rows import ceilings_text, decode_text, legend_text, rows_of, title_of
from aot.bench.video import ArmTimes, VideoTimes
from aot.reports.html.render import style_sheet
from aot.text import visible

__all__ = ["render_bench_page"]

_WIDTH = 1000.0
_UNTIL_FIRST = ("encode", "compress", "prefill")
_WHOLE = ("decode", *_UNTIL_FIRST, "tokens")
_DIGIT_WIDTH = 8.5


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of a bar in a chart that is 1000 units wide."""

    stage: str
    left: float
    width: float
    ms: float

    @property
    def has_number(self) -> bool:
        """Return whether the number fits into the part."""
        return self.width > _DIGIT_WIDTH * (len(self.number) + 1)

    @property
    def number(self) -> str:
        """Return the time as text."""
        return f"{self.ms:,.0f}" if self.ms >= 100 else f"{self.ms:.1f}"


@dataclass(frozen=True, slots=True)
class _Bar:
    """The bar of one arm; `faster` is the median ratio to the first arm, or None."""

    title: str
    total_ms: float
    faster: float | None
    parts: tuple[_Part, ...]


@dataclass(frozen=True, slots=True)
class _Chart:
    title: str
    stages: tuple[str, ...]
    bars: tuple[_Bar, ...]


def render_bench_page(times: VideoTimes, facts: Mapping[str, str], command: str, notices: Sequence[str] = ()) -> str:
    """Return a page with bars of the stages, all numbers, and the `command` that repeats it.

    The page loads no other file. `facts` are named texts about model and machine, `notices`
    sentences about the measurement.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files(__package__).joinpath("page.html").read_text("utf-8"))
    page = template.render(
        style=style_sheet(),
        facts=facts,
        charts=(
            _chart("From decoded frames to the first token", _UNTIL_FIRST, times, "first_token_ms"),
            _chart("From the file to the last token", _WHOLE, times),
        ),
        arms=[title_of(arm) for arm in times.arms],
        rows=list(rows_of(times)),
        notes=(
            f"{times.rounds} interleaved round{'s' * (times.rounds > 1)}; medians (minimum-maximum)",
            decode_text(times),
            ceilings_text(times.ceilings),
            legend_text(),
            *notices,
        ),
        command=command,
    )
    return visible(page)


def _chart(title: str, stages: Sequence[str], times: VideoTimes, compared: str | None = None) -> _Chart:
    lengths = [{stage: _ms(arm, stage, times) for stage in stages} for arm in times.arms]
    longest = max(sum(each.values()) for each in lengths)
    faster = {
        each.arm: each.faster[compared].median
        for each in times.comparisons
        if compared and each.against == times.arms[0].name
    }
    bars = tuple(
        _Bar(_title(arm), sum(each.values()), faster.get(arm.name), _parts(each, _WIDTH / longest))
        for arm, each in zip(times.arms, lengths, strict=True)
    )
    return _Chart(title, tuple(stages), bars)


def _title(arm: ArmTimes) -> str:
    return f"{title_of(arm)}, {arm.kept_tokens:,} visual tokens"


def _ms(arm: ArmTimes, stage: str, times: VideoTimes) -> float:
    """Return the median time of a stage; the medians of a bar need not add up exactly."""
    if stage == "decode":
        return times.decode_ms.median
    if stage == "tokens":
        return arm.figures["answer_ms"].median - arm.figures["first_token_ms"].median
    return arm.figures[f"{stage}_ms"].median


def _parts(lengths: Mapping[str, float], scale: float) -> tuple[_Part, ...]:
    parts, left = list[_Part](), 0.0
    for stage, ms in lengths.items():
        if ms > 0:
            parts.append(_Part(stage, left, ms * scale, ms))
            left += ms * scale
    return tuple(parts)
