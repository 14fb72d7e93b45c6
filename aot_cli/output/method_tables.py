"""Make the tables of `aot methods`: all methods, or one with its settings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from aot_cli.output.method_details import MethodCard, MethodDetails
from aot_cli.output.setting_tables import settings_table
from aot_cli.output.tables import fact_table

__all__ = ["FOOTNOTES", "CardTable", "method_parts"]

FOOTNOTES = (
    "Layers count from 0 in a language model of 28 layers; other depths use the layer at the same relative depth.",
    "SigLIP's pooling head is optional; without --siglip-head, the last block's attention and frame means are used.",
    "Show one method with its settings: aot methods NAME.",
)
_WIDE = 120


class CardTable:
    """A table with a row per method; a wide terminal also shows what each method needs."""

    def __init__(self, title: str, cards: Sequence[MethodCard]) -> None:
        self.title = title
        self.cards = cards

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        wide = options.max_width >= _WIDE
        with_needs = wide and any(card.needs for card in self.cards)
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=self.title, title_justify="left")
        table.add_column("name", no_wrap=True)
        table.add_column("acts", overflow="fold", max_width=24 if wide else 16)
        if with_needs:
            table.add_column("needs", overflow="fold", max_width=30)
        table.add_column("what it keeps", overflow="fold")
        for card in self.cards:
            needs = [", ".join(card.needs or [])] if with_needs else []
            table.add_row(card.name, card.acts, *needs, _kept(card))
        yield table


def _kept(card: MethodCard) -> Text:
    """Return the remark of `card`, then lines about the least ratio, the budget and the paper."""
    details = [f"ratio: at least {card.least}"] if card.least else []
    if not card.exact and card.acts:
        details.append("at most the budget")
    lines = [Text(card.remark), *(Text(line, style="dim") for line in (*details, card.paper) if line)]
    return Text("\n").join(lines)


def method_parts(flag: str, found: MethodDetails) -> Iterator[RenderableType]:
    """Yield the table of facts, the paragraphs and the table of settings of a method."""
    facts = {
        "keeps": found.remark,
        "acts": found.acts,
        "needs": "" if found.needs is None else ", ".join(found.needs) or "only the tokens",
        "source": found.paper or "a baseline",
        "budget": "met to the token" if found.exact else "at most the budget",
        "ratio": f"at least {found.least}" if found.least else "",
        "--preset": ", ".join(found.presets),
        "example": found.example or "",
    }
    yield fact_table(f"{flag} {found.name}", {name: value for name, value in facts.items() if value})
    for paragraph in found.description:
        yield Padding(paragraph, (1, 0, 0, 0))
    yield settings_table(found.settings) if found.settings else Padding("It has no settings.", (1, 0))
