"""`aot methods`: what can be chosen with --method and --inner."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from aot_cli.console import notify, print_json
from aot_cli.options import command

if TYPE_CHECKING:
    from aot.registry import Kind

__all__ = ["list_methods"]

_FLAGS = {"methods": "--method", "inner": "--inner"}


@command()
def list_methods(
    name: Annotated[str | None, typer.Argument(help="Show this one with its settings.", show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """What --method and --inner choose from: where each acts, what it needs and keeps, its paper; or all about one."""
    found = _everything() if name is None else _of_name(name)
    if as_json:
        print_json(found)
        return
    from aot_cli.render import print_result
    from aot_cli.render_methods import FOOTNOTES, CardTable, method_parts

    if name is None:
        titles = ("--method", "--inner, inside the language model")
        tables = (CardTable(title, cards) for title, cards in zip(titles, found.values(), strict=True))
        print_result(*tables, *FOOTNOTES)
    else:
        print_result(
            *(part for kind, all_ in found.items() for one in all_ for part in method_parts(_FLAGS[kind], one))
        )


def _everything() -> dict[str, list[dict[str, Any]]]:
    from aot.registry import names, unheard_plug_ins
    from aot_cli.method_details import describe

    found = {
        "methods": [describe(name, "methods") for name in names()],
        "inner": [describe(name, "inner") for name in names("inner")],
    }
    notify([*unheard_plug_ins("methods"), *unheard_plug_ins("inner")])
    return found


def _of_name(name: str) -> dict[str, list[dict[str, Any]]]:
    """A method and an inner reduction may share a name.

    Raises:
        ConfigError: there is neither, or it is broken.
    """
    from aot.errors import ConfigError
    from aot.registry import hint, names
    from aot_cli.method_details import describe_fully

    kinds: tuple[Kind, ...] = ("methods", "inner")
    found: dict[str, list[dict[str, Any]]] = {}
    for kind in kinds:
        if name in names(kind):
            found[kind] = [describe_fully(name, kind)]
    if not found:
        raise ConfigError(f"there is no method {name!r}; {hint(name)}")
    return found
