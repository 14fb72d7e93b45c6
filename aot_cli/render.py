"""Reports as tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

__all__ = [
    "accuracy_table",
    "answer_table",
    "clip_table",
    "fact_table",
    "family_table",
    "frame_table",
    "print_result",
    "print_side",
    "seconds",
]


def print_result(*parts: RenderableType) -> None:
    """To stdout; as wide as needed when it is not a terminal, so that nothing is cut off in a file."""
    _print(Console(highlight=False), parts)


def print_side(*parts: RenderableType) -> None:
    """To stderr."""
    _print(Console(stderr=True, highlight=False), parts)


def _print(console: Console, parts: Iterable[RenderableType]) -> None:
    if not console.is_terminal:
        console.width = 160
    for part in parts:
        console.print(part)


def seconds(value: float) -> str:
    """A time in the video, to the hundredth."""
    return f"{value:.2f}"


def fact_table(title: str, facts: Mapping[str, Any]) -> Table:
    """Two columns: name, value. Values are shown as text, never as markup."""
    table = Table(title=title, title_justify="left", box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(name, Text(str(value)))
    return table


def frame_table(frames: Sequence[Mapping[str, Any]]) -> Table:
    """One row per frame: what was kept, with a bar."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name, justify in (
        ("frame", "right"), ("time s", "right"), ("clip", "right"), ("", "left"), ("similar", "right"),
        ("own", "right"), ("distinct", "right"), ("merged", "right"), ("kept", "right"), ("retention", "left"),
    ):  # fmt: skip
        table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    most = max((frame["kept"] for frame in frames), default=0) or 1
    grouped = not all(frame["is_keyframe"] for frame in frames)
    for frame in frames:
        similarity, is_key = frame["similarity"], grouped and frame["is_keyframe"]
        bar = "█" * round(5 * frame["kept"] / most)
        table.add_row(
            str(frame["frame"]), seconds(frame["timestamp_s"]), str(frame["clip"]),
            "key" if is_key else "", "" if similarity is None else f"{similarity:.3f}",
            str(frame["own"]), str(frame["distinct"]), str(frame["merged"]), str(frame["kept"]),
            f"{frame['retention']:6.1%} {bar}", style="bold" if is_key else None,
        )  # fmt: skip
    return table


def clip_table(clips: Sequence[Mapping[str, Any]]) -> Table:
    """One row per clip: its keyframe and the frames that are held against it."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("clip", justify="right")
    table.add_column("keyframe", justify="right")
    table.add_column("time s", justify="right")
    table.add_column("frames")
    table.add_column("their times s", overflow="fold")
    for clip in clips:
        first, last = clip["members"][0], clip["members"][-1]
        table.add_row(
            str(clip["clip"]), str(clip["keyframe"]), seconds(clip["timestamps_s"][0]),
            str(first) if first == last else f"{first}-{last}",
            " ".join(seconds(t) for t in clip["timestamps_s"]),
        )  # fmt: skip
    return table


def answer_table(answers: Sequence[Mapping[str, str]], all_tokens: int, kept_tokens: int) -> Table:
    """One row per question: the right answer, and the answers with all tokens and with those kept."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_lines=True)
    for name in ("question", "right answer", f"with all {all_tokens} tokens", f"with {kept_tokens} tokens"):
        table.add_column(name, overflow="fold")
    for row in answers:
        table.add_row(*(Text(row[name]) for name in ("question", "right", "all", "kept")))
    return table


def accuracy_table(results: Mapping[str, Any]) -> Table:
    """One row per condition: accuracies in percent with 95 % intervals, paired differences of micro, tokens, times."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("method", no_wrap=True)
    for name in (
        "ratio", "tokens", "micro %", "95 % interval", "macro %", "vs none", "vs random", "compress ms", "1st token ms",
        "answer ms",
    ):  # fmt: skip
        table.add_column(name, justify="right", no_wrap=True)
    for row in results["conditions"]:
        micro = row["micro"]
        table.add_row(
            row["name"], f"{row['ratio']:.0%}", f"{row['kept_tokens']:.0f}", _percent(micro["mean"]),
            f"{_percent(micro['low'])} to {_percent(micro['high'])}", _percent(row["macro"]["mean"]),
            *(_difference(row["against"].get(name)) for name in ("none", "random")),
            *(f"{row[name]:.1f}" for name in ("compress_ms", "first_token_ms", "answer_ms")),
        )  # fmt: skip
    return table


def family_table(results: Mapping[str, Any]) -> Table:
    """One row per condition: accuracy in percent of every family of questions; their numbers in the first row."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("method", "ratio", *results["families"]):
        table.add_column(name, justify="left" if name == "method" else "right")
    table.add_row("questions", "", *map(str, results["families"].values()), style="dim")
    for row in results["conditions"]:
        values = (f"{100 * row['families'][name]['mean']:.0f}" for name in results["families"])
        table.add_row(row["name"], f"{row['ratio']:.0%}", *values)
    return table


def _difference(paired: Mapping[str, Any] | None) -> str:
    """A paired difference in points, with an asterisk if its interval does not hold zero."""
    if paired is None:
        return ""
    micro = paired["micro"]
    return f"{100 * micro['mean']:+.1f}{'*' if micro['low'] > 0 or micro['high'] < 0 else ' '}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
