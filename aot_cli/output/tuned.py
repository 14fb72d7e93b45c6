"""Make the table of `aot tune`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

if TYPE_CHECKING:
    from aot.tuning import Measured, Tuned

__all__ = ["tuned_table"]


def tuned_table(tuned: Tuned) -> Table:
    """Return a table with a row per measured method and ratio: loss, interval, videos, state."""
    from aot.tuning import percent

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    by_divergence = tuned.by == "divergence"
    heads = (
        "ratio",
        "method",
        "tokens",
        "loss",
        "95 % interval",
        *(["same answer"] * by_divergence),
        "videos",
        "state",
    )
    for name in heads:
        table.add_column(name, justify="left" if name in ("method", "state") else "right", no_wrap=True)
    chosen = tuned.choice.measured if tuned.choice else None
    rows = sorted((each for each in tuned.measured if each.loss), key=lambda each: (-each.ratio, _mean(each)))
    for each in rows:
        same = [f"{100 * each.same_answers:.0f} %" if each.same_answers is not None else ""] * by_divergence
        table.add_row(
            percent(each.ratio), each.method, f"{each.kept_tokens:.0f}", *_loss(tuned, each), *same,
            str(each.loss.videos if each.loss else 0), "chosen" if each == chosen else _state(tuned, each),
            style="bold" if each == chosen else None,
        )  # fmt: skip
    return table


def _state(tuned: Tuned, measured: Measured) -> str:
    is_partly = measured.loss is not None and measured.loss.videos < tuned.videos
    return "sure to fail" if measured.state == "fails" and is_partly else measured.state


def _mean(measured: Measured) -> float:
    assert measured.loss is not None
    return measured.loss.mean


def _loss(tuned: Tuned, measured: Measured) -> tuple[str, str]:
    from aot.tuning import loss_text

    loss = measured.loss
    assert loss is not None
    if loss.low is None or loss.high is None:
        return loss_text(tuned, loss.mean), "not available"
    return loss_text(tuned, loss.mean), f"{loss_text(tuned, loss.low)} to {loss_text(tuned, loss.high)}"
