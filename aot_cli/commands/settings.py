"""`aot settings`: list all settings, or the values of a run with their sources."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import reduce
from typing import Annotated, TypeVar

import typer

from aot.config.layers import build_layers, source_of
from aot.config.schema import AOT_METHODS, Config
from aot.config.setting import Setting, settings_in
from aot.config.strict import Settings, build_settings
from aot.errors import AOTError, ConfigError
from aot.plugins import Kind, blamed, names
from aot.text import did_you_mean
from aot_cli.options import COMPRESSION, GENERATION, JSON, MODEL, SAMPLING, Given, command
from aot_cli.output.console import notify, print_json
from aot_cli.output.method_details import settings_type
from aot_cli.output.setting_tables import ResolvedSetting, resolved_table, setting_row, settings_table
from aot_cli.output.tables import print_result
from aot_cli.without_torch import read_each

__all__ = ["every_setting", "list_settings"]

_Listed = TypeVar("_Listed", "Setting", "ResolvedSetting")


@command(SAMPLING, MODEL, COMPRESSION, GENERATION)
def list_settings(
    given: Given,
    path: Annotated[
        str | None,
        typer.Argument(help="A setting or a group, for example aot.intra or methods.fastvid.", show_default=False),
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Print the value of every setting and its source.")] = False,
    as_json: JSON = False,
) -> None:
    """List all settings: type, range, default and meaning; or their values and sources.

    aot settings --show --preset dynamic --ratio 0.2
    """
    if show:
        resolved = _below(path, list(_resolved(given)))
        if as_json:
            print_json("aot.settings.resolved/1", {"settings": [asdict(each) for each in resolved]})
        else:
            print_result(resolved_table(resolved))
        return
    if given.flags.settings or given.assigned.settings:
        raise ConfigError("flags have no effect without --show; add it to see the resulting values")
    declared = _below(path, every_setting())
    if as_json:
        print_json("aot.settings/1", {"settings": [setting_row(each) for each in declared]})
    else:
        print_result(settings_table(declared))


def _below(path: str | None, settings: Sequence[_Listed]) -> Sequence[_Listed]:
    """Return the setting `path` or the settings of the group `path`; all if `path` is None.

    Raises:
        ConfigError: If neither a setting nor a group has this name.
    """
    if path is None:
        return settings
    found = [each for each in settings if f"{each.path}.".startswith(f"{path}.")]
    if not found:
        known = {each.path.rsplit(".", depth)[0] for each in settings for depth in range(4)}
        deeper = [each for each in known if each.endswith(f".{path}")]
        guess = did_you_mean(path, deeper or sorted(known)) or "`aot settings` lists them"
        raise ConfigError(f"there is no setting {path!r} here; {guess}")
    return found


def every_setting() -> list[Setting]:
    """Return the settings of a run, then those of all methods and inner reductions."""
    of_methods: list[tuple[str, Kind]] = [(name, "methods") for name in names() if name not in AOT_METHODS]
    found = read_each([*of_methods, *((name, "inner") for name in names("inner"))], _settings_of)
    return [*settings_in(Config), *(setting for settings in found.values() for setting in settings)]


def _settings_of(name: str, kind: Kind) -> list[Setting]:
    try:
        cls, group = settings_type(name, kind)
        with blamed(cls, kind):
            return list(settings_in(cls, group)) if cls else []
    except AOTError as error:  # from a broken plug-in
        notify([str(error)])
        return []


def _resolved(given: Given) -> Iterator[ResolvedSetting]:
    """Yield the settings of a run, then those of every method that is used or is given settings.

    Raises:
        ConfigError: If a value is wrong.
    """
    layers = given.layers()
    config = build_layers(layers)
    inner = [config.inner.name] if config.inner.name else []
    groups: dict[tuple[str, Kind], Settings] = {
        **{(name, "methods"): config.methods.get(name, {}) for name in (config.method, *config.methods)},
        **{(name, "inner"): config.inner.settings.get(name, {}) for name in (*inner, *config.inner.settings)},
    }
    of_groups = read_each(list(groups), lambda name, kind: _values_of_group(name, kind, groups[name, kind]))
    for path, value in [*_values(config), *(pair for pairs in of_groups.values() for pair in pairs)]:
        if not isinstance(value, Mapping):  # a mapping is a group
            yield ResolvedSetting(path, value, source_of(path, layers))


def _values_of_group(name: str, kind: Kind, settings: Settings) -> list[tuple[str, object]]:
    if kind == "methods" and name in AOT_METHODS:
        return []  # the settings of AOT belong to the run
    cls, group = settings_type(name, kind)
    return list(_values(build_settings(cls, settings, group), group)) if cls else []


def _values(settings: object, group: str = "") -> Iterator[tuple[str, object]]:
    for declared in settings_in(type(settings), group):
        yield declared.path, reduce(getattr, declared.path.removeprefix(group).split("."), settings)
