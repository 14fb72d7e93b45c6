"""Make rows and tables of settings: of their declarations, or of their values in a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table
from rich.text import Text

from aot.config.setting import Setting
from aot_cli.options import FLAGS

__all__ = ["ResolvedSetting", "as_yaml", "resolved_table", "setting_row", "settings_table"]


@dataclass(frozen=True, slots=True)
class ResolvedSetting:
    """The value of a setting in a run, and the source of the value."""

    path: str
    value: object
    source: str


def setting_row(setting: Setting) -> dict[str, object]:
    """Return a setting as an object for JSON."""
    flag = FLAGS.get(setting.path)
    return {
        "path": setting.path, "type": setting.type, "rule": setting.range, "default": setting.default,
        "default_text": as_yaml(setting.default), "meaning": setting.meaning, "flag": flag.typed if flag else None,
    }  # fmt: skip


def as_yaml(value: object) -> str:
    """Return a value in the form that `--set` accepts."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def settings_table(settings: Sequence[Setting]) -> Table:
    """Return a table of declared settings."""
    table = _table("setting", "default", "meaning")
    for each in settings:
        flag = FLAGS.get(each.path)
        name = [Text(each.path), *([Text(flag.typed, style="dim")] if flag else [])]
        kind = Text(f"{each.type}, {each.range}" if each.range else each.type, style="dim")
        meaning = [*([Text(each.meaning)] if each.meaning else []), kind]
        table.add_row(Text("\n").join(name), as_yaml(each.default), Text("\n").join(meaning))
    return table


def resolved_table(settings: Sequence[ResolvedSetting]) -> Table:
    """Return a table of settings with their values and sources."""
    table = _table("setting", "value", "source")
    for each in settings:
        table.add_row(each.path, Text(as_yaml(each.value)), Text(each.source))
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, overflow="fold")
    return table
