"""Lay out the measurements of all arms as rows of text, for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from aot.bench.ceilings import Ceilings
from aot.bench.timing import Figure
from aot.bench.video import STAGES, ArmTimes, Comparison, VideoTimes

__all__ = ["Row", "ceilings_text", "decode_text", "legend_text", "rows_of", "spread", "title_of"]

_TITLES = {"stock": "transformers", "none": "all tokens"}
_FIGURES = {
    "encode_ms": "encode ms", "compress_ms": "compress ms", "prefill_ms": "prefill ms",
    "first_token_ms": "first token ms", "tokens_per_s": "tokens/s after it", "answer_ms": "whole answer ms",
}  # fmt: skip
_COMPARED = ("first_token_ms", "tokens_per_s", "answer_ms")


@dataclass(frozen=True, slots=True)
class Row:
    """A row with a cell for each arm; a detail belongs to the row above it."""

    title: str
    cells: tuple[str, ...]
    is_detail: bool = False


def title_of(arm: ArmTimes) -> str:
    """Return the name of an arm for its reader."""
    return _TITLES.get(arm.name, arm.name)


def decode_text(times: VideoTimes) -> str:
    """Return a sentence about decoding, which comes before every run and is not part of it."""
    return f"decoding the file takes {spread(times.decode_ms)} ms before that"


def ceilings_text(ceilings: Ceilings) -> str:
    """Return a sentence about the rates that the machine reaches at most."""
    flops, copied = ceilings.flops_per_s / 1e12, ceilings.copy_bytes_per_s / 1e9
    return f"at most: {flops:.3g} TFLOP/s (a large product), {copied:.3g} GB/s (a large copy, read and written)"


def legend_text() -> str:
    """Return a sentence about the words in the titles of rows."""
    return (
        "vs: median of the rounds' ratios (least-most); ops: launches on CUDA, else operations of torch; "
        "waits: values that the host reads"
    )


def rows_of(times: VideoTimes) -> Iterator[Row]:
    """Yield times with ratios, memory, achieved rates, and launches with waits."""
    arms = times.arms
    for name, title in _FIGURES.items():
        yield Row(title, tuple(spread(arm.figures[name]) for arm in arms))
        if name in _COMPARED:
            for against in arms[:-1]:
                yield from _ratios(times, name, against)
    yield Row("peak host MB", tuple(_in(arm.host_bytes, 1e6) for arm in arms))
    if arms[0].device_bytes is not None:
        yield Row("peak device MB", tuple(_in(arm.device_bytes, 1e6) for arm in arms))
    rates = {"encode_flops_per_s": "encode TFLOP/s", "prefill_flops_per_s": "prefill TFLOP/s"}
    for name, title in rates.items():
        yield Row(title, tuple(_in(arm.achieved.get(name), 1e12) for arm in arms))
    yield Row("weights GB/s, tokens", tuple(_in(arm.achieved.get("tokens_bytes_per_s"), 1e9) for arm in arms))
    yield from _work(arms)


def _ratios(times: VideoTimes, name: str, against: ArmTimes) -> Iterator[Row]:
    found = {each.arm: each for each in times.comparisons if each.against == against.name}
    cells = tuple(_ratio(found.get(arm.name), name) for arm in times.arms)
    yield Row(f"vs {title_of(against)}", cells, is_detail=True)


def _ratio(comparison: Comparison | None, name: str) -> str:
    if comparison is None:
        return ""
    faster = comparison.faster[name]
    return f"{_short(faster.median)} x ({_short(faster.least)}-{_short(faster.most)})" if faster.most else ""


def _work(arms: tuple[ArmTimes, ...]) -> Iterator[Row]:
    """Yield launches and waits of each stage, for later tokens as means of one token."""
    for stage in STAGES:
        yield Row(f"{'a token' if stage == 'tokens' else stage} ops, waits", tuple(_counts(arm, stage) for arm in arms))


def _counts(arm: ArmTimes, stage: str) -> str:
    found = [each for each in arm.counts if each.stage == stage and each.launches is not None]
    per = max(arm.output_tokens - 1, 1) if stage == "tokens" else 1
    return "".join(
        f"{counts.launches / per:.4g}, {(counts.waits or 0) / per:.2g}" for counts in found if counts.launches
    )


def _in(value: float | None, unit: float) -> str:
    return "not known" if value is None else f"{value / unit:.3g}" if value < 100 * unit else f"{value / unit:.0f}"


def spread(figure: Figure) -> str:
    """Return "median (least-most)", or "" if the stage did not run."""
    if not figure.most:
        return ""
    return f"{_short(figure.median)} ({_short(figure.least)}-{_short(figure.most)})"


def _short(value: float) -> str:
    """Return `value` with three digits or more, so that three columns fit into 80."""
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f}"
