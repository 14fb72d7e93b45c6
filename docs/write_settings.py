"""Write the tables of docs/settings.md from the code: python docs/write_settings.py"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from aot.config.setting import Setting
from aot_cli.commands.settings import every_setting
from aot_cli.output.setting_tables import setting_row

PAGE = Path(__file__).parent / "settings.md"
BEGIN = "<!-- Written by docs/write_settings.py from here on -->\n"
# The title of each table, and how the paths in it begin; the longest beginning that fits decides.
TITLES = {
    "": "The ratio and the method",
    "sampling.": "Frames",
    "model.": "Model",
    "aot.": "AOT",
    "inner.": "Reductions inside the language model",
    "tower.": "The work of the vision tower",
    "generation.": "Answer",
    "methods.": "Settings of methods",
    "inner.settings.": "Settings of reductions inside the language model",
}


def page() -> str:
    """Return the whole page: the text that is there, and the tables anew."""
    text, begin, _ = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    settings = every_setting()
    return text + begin + "".join(f"{line}\n" for start in TITLES for line in _section(start, settings))


def _section(start: str, settings: Sequence[Setting]) -> Iterator[str]:
    yield from ("", f"### {TITLES[start]}", "")
    yield "| setting | default | flag | value | meaning |"
    yield "|---|---|---|---|---|"
    for row in map(setting_row, settings):
        if max((each for each in TITLES if row["path"].startswith(each)), key=len) == start:
            default = "" if row["default"] in (None, {}) else f"`{row['default_text']}`"
            value = ", ".join(filter(None, (row["type"], row["rule"])))
            flag = f"`{row['flag']}`" if row["flag"] else ""
            yield f"| `{row['path']}` | {default} | {flag} | {value} | {row['meaning']} |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
