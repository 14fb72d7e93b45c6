"""`aot methods`: list and describe the values of --method and --inner."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, TypeVar

import typer

from aot.errors import ConfigError
from aot.plugins import Kind, hint, names, unheard_plug_ins
from aot_cli.options import JSON, command
from aot_cli.output.console import notify, print_json
from aot_cli.output.method_details import MethodCard, MethodDetails, describe, describe_fully
from aot_cli.output.method_tables import FOOTNOTES, CardTable, method_parts
from aot_cli.output.tables import print_result
from aot_cli.without_torch import read_each

__all__ = ["list_methods"]

_KINDS: tuple[Kind, ...] = ("methods", "inner")
_FLAGS = {"methods": "--method", "inner": "--inner"}

T = TypeVar("T")


@command()
def list_methods(
    name: Annotated[
        str | None, typer.Argument(help="Describe this method with its settings.", show_default=False)
    ] = None,
    as_json: JSON = False,
) -> None:
    """List the values of --method and --inner, or describe one with its settings."""
    if name is None:
        cards = _everything()
        if as_json:
            print_json("aot.methods/1", {kind: [card.to_dict() for card in of_kind] for kind, of_kind in cards.items()})
        else:
            _print_cards(cards)
        return
    details = _of_name(name)
    if as_json:
        print_json("aot.method/1", {kind: [one.to_dict() for one in of_kind] for kind, of_kind in details.items()})
    else:
        _print_details(details)


def _print_cards(cards: Mapping[Kind, Sequence[MethodCard]]) -> None:
    titles = ("--method", "--inner, inside the language model")
    tables = (CardTable(title, of_kind) for title, of_kind in zip(titles, cards.values(), strict=True))
    print_result(*tables, *FOOTNOTES)


def _print_details(details: Mapping[Kind, Sequence[MethodDetails]]) -> None:
    print_result(
        *(part for kind, of_kind in details.items() for one in of_kind for part in method_parts(_FLAGS[kind], one))
    )


def _everything() -> dict[Kind, list[MethodCard]]:
    notify([*unheard_plug_ins("methods"), *unheard_plug_ins("inner")])
    return _read({kind: names(kind) for kind in _KINDS}, describe)


def _of_name(name: str) -> dict[Kind, list[MethodDetails]]:
    """Return the details of the method and of the inner reduction that are called `name`.

    Raises:
        ConfigError: If neither has this name, or if a plug-in is broken.
    """
    wanted = {kind: (name,) for kind in _KINDS if name in names(kind)}
    if not wanted:
        raise ConfigError(f"there is no method {name!r}; {hint(name)}")
    return _read(wanted, describe_fully)


def _read(wanted: Mapping[Kind, Sequence[str]], describe: Callable[[str, Kind], T]) -> dict[Kind, list[T]]:
    found = read_each([(name, kind) for kind, names in wanted.items() for name in names], describe)
    return {kind: [found[name, kind] for name in names] for kind, names in wanted.items()}
