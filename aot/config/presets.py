"""Read presets, which are YAML files with settings, and parse YAML."""

from __future__ import annotations

import reprlib
from collections import Counter
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aot.errors import ConfigError, Problem
from aot.text import did_you_mean

if TYPE_CHECKING:
    from importlib.abc import Traversable

__all__ = ["parse_settings", "parse_yaml", "preset_names", "preset_settings", "preset_text", "read_settings_text"]

_MOST_BYTES = 256 * 2**10  # PyYAML parses 100 KB per second


def preset_names() -> tuple[str, ...]:
    """Return the names of all presets, for instance "paper/onevision-r10"."""
    return tuple(sorted(_names_in(_preset_folder())))


def preset_text(name: str) -> str:
    """Return the YAML text of the preset `name`, or of the file with this name, including comments.

    Raises:
        ConfigError: If the preset does not exist, or the file cannot be read.
    """
    path = Path(str(name))
    if path.suffix in (".yaml", ".yml") and path.is_file():
        return read_settings_text(path)
    known = preset_names()
    if name not in known:
        guess = did_you_mean(str(name), known) or f"valid: {', '.join(known)}"
        raise ConfigError(Problem("preset", f"{reprlib.repr(name)} does not exist; {guess}"))
    return (_preset_folder() / f"{name}.yaml").read_text(encoding="utf-8")


def preset_settings(name: str) -> dict[str, Any]:
    """Return the settings of the preset `name`, or of the file with this name.

    Raises:
        ConfigError: If the preset does not exist, or the file is not valid.
    """
    return parse_settings(preset_text(name), f"preset {name}")


def read_settings_text(path: Path) -> str:
    """Return the text of a YAML file with settings.

    Raises:
        ConfigError: If the file cannot be read, is too long, or is not UTF-8.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise ConfigError(f"{path} is longer than {_MOST_BYTES // 1024} KiB, the limit for settings; shorten it")
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8 text; save it as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error


def parse_settings(text: str, source: str) -> dict[str, Any]:
    """Return the settings in the YAML `text`, which error messages call `source`.

    Raises:
        ConfigError: If `text` is not valid YAML, or does not consist of `key: value` lines.
    """
    content = parse_yaml(text, source) or {}
    if not isinstance(content, dict):
        raise ConfigError(f"{source} must hold settings as `key: value` lines")
    return content


def parse_yaml(text: str, source: str) -> Any:
    """Return the value of the YAML `text`, which error messages call `source`.

    Raises:
        ConfigError: If `text` is not valid YAML, repeats a key, or has an alias (aliases can
            expand a short text without limit).
    """
    import yaml

    try:
        return yaml.load(text, _strict_loader())
    except Exception as error:  # PyYAML does not catch what int(), date() and deep nesting raise
        raise ConfigError(f"{source} is not valid YAML: {' '.join(str(error).split())[:200]}") from None


@cache
def _strict_loader() -> Any:
    """Return a loader of plain YAML values that refuses aliases and repeated keys."""
    import yaml

    class StrictLoader(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise yaml.YAMLError("it holds an alias (*name); write the value out")
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
            if keys and max(keys.values()) > 1:
                raise yaml.YAMLError(f"{keys.most_common(1)[0][0]} is given twice; leave one")
            return super().construct_mapping(node, deep)

    return StrictLoader


def _preset_folder() -> Traversable:
    packaged = files("aot") / "presets"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "presets"


def _names_in(folder: Traversable, prefix: str = "") -> list[str]:
    names = []
    for entry in folder.iterdir():
        if entry.is_dir():
            names += _names_in(entry, f"{prefix}{entry.name}/")
        elif entry.name.endswith(".yaml"):
            names.append(prefix + entry.name.removesuffix(".yaml"))
    return names
