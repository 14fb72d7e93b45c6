"""Settings as rows and tables: what each means and may be, and where its value comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from aot.config.setting import Setting
from aot_cli.options import FLAGS

__all__ = ["as_yaml", "resolved_table", "setting_row", "settings_table"]


def setting_row(setting: Setting) -> dict[str, Any]:
    """Return a setting for JSON."""
    flag = FLAGS.get(setting.path)
    return {
        "path": setting.path, "type": setting.type, "rule": setting.range, "default": setting.default,
        "default_text": as_yaml(setting.default), "meaning": setting.meaning, "flag": flag.typed if flag else None,
    }  # fmt: skip


def as_yaml(value: Any) -> str:
    """Return a value as `--set` takes it."""
    words = {None: "null", True: "true", False: "false"}
    return words[value] if value is None or isinstance(value, bool) else str(value)


def settings_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return a table of what `setting_row` returns."""
    table = _table("setting", "default", "meaning")
    for row in rows:
        kind = Text(f"{row['type']}, {row['rule']}" if row["rule"] else row["type"], style="dim")
        name = Text("\n").join([Text(row["path"]), *([Text(row["flag"], style="dim")] if row["flag"] else [])])
        table.add_row(
            name, row["default_text"], Text("\n").join([*([Text(row["meaning"])] if row["meaning"] else []), kind])
        )
    return table


def resolved_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return a table of settings with their values and where these come from."""
    table = _table("setting", "value", "source")
    for row in rows:
        table.add_row(row["path"], Text(as_yaml(row["value"])), Text(row["source"]))
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, overflow="fold")
    return table
