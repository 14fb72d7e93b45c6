"""Write the choice as a preset, with what was measured in its header."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from textwrap import wrap
from typing import Any

from aot.config.schema import Config

__all__ = ["is_own_preset", "preset_text"]

_MADE = "Found by aot tune on"
_WIDTH = 98


def preset_text(name: str, config: Config, facts: Mapping[str, str], sentences: Sequence[str]) -> str:
    """Return the YAML text of a preset that repeats the choice, with comments.

    Args:
        name: the file's name, for the command in its first line.
        config: the settings of the choice.
        facts: what was measured on, by name; the date is added.
        sentences: the result.
    """
    import yaml

    lines = [
        f'aot ask clip.mp4 "what happens?" --preset {name}',
        "",
        f"{_MADE} {date.today().isoformat()}.",
        *(f"{name}: {value}" for name, value in facts.items()),
        "",
        *sentences,
    ]
    header = "\n".join(f"# {line}".rstrip() for text in lines for line in wrap(text, _WIDTH) or [""])
    body = yaml.safe_dump(_settings(config), sort_keys=False, allow_unicode=True)
    return f"{header}\n{body}"


def is_own_preset(path: Path) -> bool:
    """Return whether `path` is a file with the header of `preset_text`."""
    if not path.is_file():
        return False
    with path.open(encoding="utf-8", errors="replace") as file:
        return f"\n# {_MADE} " in file.read(1000)


def _settings(config: Config) -> dict[str, Any]:
    """Return the settings that decide which tokens are kept, without defaults."""
    plain, usual = config.to_dict(), Config().to_dict()
    found: dict[str, Any] = {"method": config.method, "ratio": config.ratio}
    for part in ("model", "sampling", "aot", "methods", "inner", "tower"):
        if changed := _changed(plain[part], usual[part]):
            found[part] = changed
    return found


def _changed(own: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    """Return the nested values of `own` that differ from those of `usual`."""
    found: dict[str, Any] = {}
    for key, value in own.items():
        if isinstance(value, Mapping) and isinstance(usual.get(key), Mapping):
            if changed := _changed(value, usual[key]):
                found[key] = changed
        elif value != usual.get(key):
            found[key] = list(value) if isinstance(value, tuple) else value
    return found
