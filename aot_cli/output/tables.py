"""Make and print the tables of reports."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from aot_cli.output.safe_console import SafeConsole
from aot_cli.output.screen import one_line, print_text

if TYPE_CHECKING:
    from aot.evaluation import Outcome, Results
    from aot.evaluation.bootstrap import Interval
    from aot.evaluation.fidelity import Fidelity
    from aot.evaluation.results import Difference
    from aot.reports.retention import FrameRetention
    from aot_cli.output.describe import Grouping

__all__ = [
    "FEW_VIDEOS",
    "FIDELITY",
    "AnswerPair",
    "accuracy_tables",
    "answer_table",
    "clip_table",
    "comparison",
    "fact_table",
    "family_tables",
    "fidelity_texts",
    "frame_table",
    "print_result",
    "print_side",
    "seconds",
    "several_runs",
]

FEW_VIDEOS = 10  # with fewer videos, the variance between videos is unknown
# The roles of kept tokens, in Okabe and Ito's palette as in the overlay.
_ROLE_COLORS = {"own": "#56B4E9", "distinct": "#009E73", "merged": "#CC79A7"}
_LONG_TABLE = 40  # a table with more than twice as many rows is cut to this number of rows
_TAIL = 8


@dataclass(frozen=True, slots=True)
class AnswerPair:
    """A question, the right answer, and the model's answers with all and with only kept tokens."""

    question: str
    expected: str
    answer_of_all: str
    answer_of_kept: str


def print_result(*parts: RenderableType) -> None:
    """Print `parts` to stdout; in a file or pipe, lines are wide, so that nothing is cut off."""
    _print(_console(), parts)


def print_side(*parts: RenderableType) -> None:
    """Print to stderr."""
    _print(_console(stderr=True), parts)


def _console(*, stderr: bool = False) -> Console:
    console = SafeConsole(stderr=stderr)
    if not console.is_terminal:
        console.width = 160
    return console


def _print(console: Console, parts: Iterable[RenderableType]) -> None:
    if console.is_terminal:
        console.print(*parts, sep="\n")
        return
    with console.capture() as captured:
        console.print(*parts, sep="\n")
    for line in captured.get().splitlines():
        print_text(line.rstrip(), to_stderr=console.stderr)  # without the padding of tables


def seconds(value: float) -> str:
    """Return a time in seconds with two decimals."""
    return f"{value:.2f}"


def fact_table(title: str, facts: Mapping[str, object]) -> Table:
    """Return a table with two columns, name and value."""
    table = Table(title=one_line(title), title_justify="left", box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(name, str(value))
    return table


def frame_table(frames: Sequence[FrameRetention]) -> Table:
    """Return a table of kept tokens, one row per frame; leave out the middle of a long table."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in (
        "frame", "time s", "clip", "", "similar", "own", "distinct", "merged", "kept", "retention",
    ):  # fmt: skip
        head = Text(name, style=_ROLE_COLORS.get(name, ""))
        table.add_column(head, justify="left" if name in ("", "retention") else "right", no_wrap=True)
    most = max((frame.kept for frame in frames), default=0) or 1
    grouped = not all(frame.is_keyframe for frame in frames)
    left_out = len(frames) - _LONG_TABLE if len(frames) > 2 * _LONG_TABLE else 0
    for number, frame in enumerate(frames):
        if left_out and number == _LONG_TABLE - _TAIL:
            table.add_row("...", f"{left_out} more")
        if left_out and _LONG_TABLE - _TAIL <= number < len(frames) - _TAIL:
            continue
        similarity, is_key = frame.similarity, grouped and frame.is_keyframe
        table.add_row(
            str(frame.frame), seconds(frame.timestamp_s), str(frame.clip),
            "key" if is_key else "", "" if similarity is None else f"{similarity:.3f}",
            str(frame.own), str(frame.distinct), str(frame.merged), str(frame.kept),
            Text(f"{frame.retention:6.1%} ") + _bar(frame, most), style="bold" if is_key else None,
        )  # fmt: skip
    return table


def _bar(frame: FrameRetention, most: int) -> Text:
    """Return a bar for the kept tokens, colored like the headings; five blocks mean `most`."""
    bar, tokens = Text(), 0
    for name, color in _ROLE_COLORS.items():
        tokens += getattr(frame, name)
        bar.append("█" * (round(5 * tokens / most) - len(bar)), style=color)
    return bar


def clip_table(clips: Sequence[Grouping]) -> Table:
    """Return a table with a row per clip: keyframe, frames and times of the frames."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("clip", justify="right")
    table.add_column("keyframe", justify="right")
    table.add_column("time s", justify="right")
    table.add_column("frames")
    table.add_column("their times s", overflow="fold")
    for clip in clips:
        first, last = clip.members[0], clip.members[-1]
        table.add_row(
            str(clip.clip), str(clip.keyframe), seconds(clip.timestamps_s[0]),
            str(first) if first == last else f"{first}-{last}",
            " ".join(seconds(t) for t in clip.timestamps_s),
        )  # fmt: skip
    return table


def comparison(question: str, outcomes: Sequence[Outcome]) -> list[RenderableType]:
    """Return the parts to print: the question, tables of costs and of fidelity, all answers."""
    measured = any(outcome.answered[0].fidelity for outcome in outcomes)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("method", "ratio", "tokens", "load", "encode", "compress", "1st token", "answer ms", "MB"):
        table.add_column(
            name, justify="left" if name == "method" else "right", no_wrap=name != "method", overflow="fold"
        )
    answers = Table.grid(padding=(0, 2, 0, 0))
    answers.add_column(no_wrap=True, style="dim")
    answers.add_column(overflow="fold")
    for outcome in outcomes:
        condition, (row,) = outcome.condition, outcome.answered
        times = (f"{ms:.0f}" for ms in (row.encode_ms, row.compress_ms, row.first_token_ms, row.answer_ms))
        memory = "not known" if row.answer_bytes is None else f"{row.answer_bytes / 1e6:.0f}"
        head = (condition.name, f"{condition.ratio:.0%}", str(row.kept_tokens), f"{row.language_model_load:.1%}")
        table.add_row(*head, *times, memory)
        answers.add_row(row.condition, row.predicted)
    near = [_fidelity_table(outcomes)] if measured else []
    notes = "\n".join([_COSTS, FIDELITY] if measured else [_COSTS])
    return [question, table, *near, answers, "", Text(notes, style="dim")]


def _fidelity_table(outcomes: Sequence[Outcome]) -> Table:
    columns: dict[str, list[str]] = defaultdict(list)
    for outcome in outcomes:
        if near := outcome.answered[0].fidelity:
            for name, text in fidelity_texts(near).items():
                columns[name].append(text)
    heads = [(outcome.condition.name, f"{outcome.condition.ratio:.0%}") for outcome in outcomes]
    return _condition_table(heads, columns, dim_first=False)


def fidelity_texts(near: Fidelity) -> dict[str, str]:
    """Return the figures of one question as texts, by the names of their columns."""
    same = "yes" if near.same_answer else "no"
    return {"KL nats": _nats(near.divergence), "same token": f"{near.agreement:.1%}", "same answer": same}


FIDELITY = (
    "KL nats: divergence of the next-token distributions from those of the full-token model along its own answer, "
    "mean over its tokens (a lower bound: all but its 256 most likely tokens count as one); same token: share of these "
    "positions with the same first choice; same answer: whether the greedy answer is the same"
)
_COSTS = (
    "load: share of the visual tokens that a layer of the language model reads, mean over layers. Times are in "
    "milliseconds, of one run; the first run is often the slowest. MB: memory of answering. For reliable numbers use "
    "aot eval and aot bench."
)


def answer_table(answers: Sequence[AnswerPair], all_tokens: int, kept_tokens: int) -> Table:
    """Return a table with a row per question: right answer, answers with all and kept tokens."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_lines=True)
    for name in ("question", "right answer", f"with all {all_tokens} tokens", f"with {kept_tokens} tokens"):
        table.add_column(name, overflow="fold")
    for row in answers:
        table.add_row(row.question, row.expected, row.answer_of_all, row.answer_of_kept)
    return table


def accuracy_tables(results: Results) -> list[Table]:
    """Return tables with a row per condition: tokens, accuracy, differences, fidelity, times.

    Accuracies need right answers, and fidelity a reference; columns without values are left out.
    If the times come from several runs, the last column has the numbers of the runs.
    """
    enough = results.videos >= FEW_VIDEOS
    columns: dict[str, list[str]] = defaultdict(list)
    for row in results.conditions:
        values = {"tokens": f"{row.kept_tokens:.0f}", "load %": _percent(row.language_model_load)}
        if row.micro and row.macro:
            values |= {"micro %": _percent(row.micro.mean), "95 % interval": _interval(row.micro)}
            values |= {"macro %": _percent(row.macro.mean)}
            values |= {f"vs {name}": _difference(row.against.get(name), enough) for name in ("none", "random")}
        if near := row.fidelity:
            values |= {"KL nats": _nats(near.divergence.mean), "KL 95 % interval": _interval(near.divergence, _nats)}
            values |= {"same token %": _percent(near.agreement.mean), "same answer %": _percent(near.same_answer.mean)}
        times = {"encode": row.encode_ms, "compress": row.compress_ms, "1st token": row.first_token_ms}
        values |= {f"{name} ms": f"{ms:.1f}" for name, ms in (times | {"answer": row.answer_ms}).items()}
        for name, value in values.items():
            columns[name].append(value)
    if several_runs(results):
        columns["run"] = [", ".join(map(str, row.timed_in_runs)) for row in results.conditions]
    return _condition_tables(results, columns)


def several_runs(results: Results) -> bool:
    """Return whether the times come from more than one run."""
    return len({run for row in results.conditions for run in row.timed_in_runs}) > 1


def family_tables(results: Results) -> list[Table]:
    """Return tables with a row per condition: accuracy in percent for each question family.

    The first row has the number of questions in each family.
    """
    columns = {
        name: [str(questions), *(f"{100 * row.families[name].mean:.0f}" for row in results.conditions)]
        for name, questions in results.families.items()
    }
    return _condition_tables(results, columns, questions=True)


def _condition_tables(
    results: Results, columns: Mapping[str, Sequence[str]], *, questions: bool = False
) -> list[Table]:
    """Return one table with all columns, or several tables that fit the terminal's width."""
    heads = [("questions", "")] * questions + [(row.name, f"{row.ratio:.0%}") for row in results.conditions]
    fixed = max(len(name) for name, _ in [("method", ""), *heads]) + len(" " + "  ratio  " + " ")
    room = _console().width - fixed
    groups: list[list[str]] = [[]]
    used = 0
    for name, cells in columns.items():
        width = max(map(len, (name, *cells))) + 2
        if used + width > room and groups[-1]:
            groups.append([])
            used = 0
        groups[-1].append(name)
        used += width
    return [_condition_table(heads, {name: columns[name] for name in group}, dim_first=questions) for group in groups]


def _condition_table(
    heads: Sequence[tuple[str, str]], columns: Mapping[str, Sequence[str]], *, dim_first: bool
) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("method", "ratio", *columns):
        table.add_column(name, justify="left" if name == "method" else "right", no_wrap=True)
    for number, head in enumerate(heads):
        cells = (values[number] for values in columns.values())
        table.add_row(*head, *cells, style="dim" if dim_first and number == 0 else None)
    return table


def _difference(paired: Difference | None, enough: bool) -> str:
    """Return the micro difference in points; add * if `enough` and if the interval excludes 0."""
    if paired is None:
        return ""
    mean, low, high = paired.micro.mean, paired.micro.low, paired.micro.high
    differs = enough and low is not None and high is not None and (low > 0 or high < 0)
    return f"{100 * mean:+.1f}{'*' if differs else ' '}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _interval(measured: Interval, shown: Callable[[float], str] = _percent) -> str:
    if measured.low is None or measured.high is None:
        return "not available"
    return f"{shown(measured.low)} to {shown(measured.high)}"


def _nats(divergence: float) -> str:
    return f"{divergence:.4f}"
