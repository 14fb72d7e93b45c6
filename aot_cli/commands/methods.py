"""`aot methods`: what can be chosen with --method and --inner."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aot_cli.options import command
from aot_cli.output.console import notify, print_json

if TYPE_CHECKING:
    from aot.plugins import Kind

    _Describe = Callable[[str, Kind], dict[str, Any]]

__all__ = ["list_methods"]

_KINDS: tuple[Kind, ...] = ("methods", "inner")
_FLAGS = {"methods": "--method", "inner": "--inner"}


@command()
def list_methods(
    name: Annotated[str | None, typer.Argument(help="Show this one with its settings.", show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """What --method and --inner choose from: where each acts, what it needs and keeps, its paper; or all about one."""
    found = _everything() if name is None else _of_name(name)
    if as_json:
        print_json("aot.methods/1" if name is None else "aot.method/1", found)
        return
    from aot_cli.output.method_tables import FOOTNOTES, CardTable, method_parts
    from aot_cli.output.tables import print_result

    if name is None:
        titles = ("--method", "--inner, inside the language model")
        tables = (CardTable(title, cards) for title, cards in zip(titles, found.values(), strict=True))
        print_result(*tables, *FOOTNOTES)
    else:
        print_result(
            *(part for kind, all_ in found.items() for one in all_ for part in method_parts(_FLAGS[kind], one))
        )


def _everything() -> dict[str, list[dict[str, Any]]]:
    from aot.plugins import names, unheard_plug_ins
    from aot_cli.output.method_details import describe

    notify([*unheard_plug_ins("methods"), *unheard_plug_ins("inner")])
    return _read({kind: names(kind) for kind in _KINDS}, describe)


def _of_name(name: str) -> dict[str, list[dict[str, Any]]]:
    """A method and an inner reduction may share a name.

    Raises:
        ConfigError: there is neither, or it is broken.
    """
    from aot.errors import ConfigError
    from aot.plugins import hint, names
    from aot_cli.output.method_details import describe_fully

    wanted = {kind: (name,) for kind in _KINDS if name in names(kind)}
    if not wanted:
        raise ConfigError(f"there is no method {name!r}; {hint(name)}")
    return _read(wanted, describe_fully)


def _read(wanted: Mapping[Kind, Sequence[str]], describe: _Describe) -> dict[str, list[dict[str, Any]]]:
    from aot_cli.declared import read_each

    found = read_each([(name, kind) for kind, names in wanted.items() for name in names], describe)
    return {kind: [found[name, kind] for name in names] for kind, names in wanted.items()}
