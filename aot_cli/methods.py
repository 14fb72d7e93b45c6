"""`aot methods`: what can be chosen with --method and --inner."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from aot_cli.console import notify, print_json
from aot_cli.options import command

if TYPE_CHECKING:
    from aot.types import Needs

__all__ = ["list_methods"]


@command()
def list_methods(
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """What --method and --inner choose from: where each acts, what it needs, its paper, whether budgets are exact."""
    from aot.registry import names, unheard_plug_ins

    found = {
        "methods": [_describe(name, "methods") for name in names()],
        "inner": [_describe(name, "inner") for name in names("inner")],
    }
    notify([*unheard_plug_ins("methods"), *unheard_plug_ins("inner")])
    if as_json:
        print_json(found)
        return
    from aot_cli.render import card_table, print_result

    print_result(
        card_table("--method", found["methods"]), card_table("--inner, inside the language model", found["inner"])
    )


def _describe(name: str, kind: Literal["methods", "inner"]) -> dict[str, Any]:
    """Its card; of a plug-in that is broken, what is wrong."""
    from aot.errors import ConfigError
    from aot.registry import Card, find

    needs: list[str] = []
    try:
        card: Card = find(name, kind).card
        needs = _needs(name) if kind == "methods" else []
    except ConfigError as error:
        card = Card(acts="", exact=False, remark=f"broken: {error}")
    told = {"name": name, "acts": card.acts, "source": card.source, "exact": card.exact, "remark": card.remark}
    return {**told, "needs": needs} if kind == "methods" else told


def _needs(name: str) -> list[str]:
    """
    Raises:
        ConfigError: a plug-in fails when it is built.
    """
    from aot.config import Config
    from aot.errors import ConfigError, first_line
    from aot.methods import build_method
    from aot.registry import METHODS

    try:
        return _in_words(build_method(Config(method=name)).needs)
    except Exception as error:
        if name in METHODS:
            raise
        raise ConfigError(f"it cannot be built: {type(error).__name__}: {first_line(error)}") from error


def _in_words(needs: Needs) -> list[str]:
    blocks = ", ".join(map(str, needs.saliency_layers))
    told = {
        f"attention in block {blocks}": needs.saliency_layers,
        "keys": needs.key_layers,
        "frame embeddings": needs.frame_embeddings,
        "SigLIP's pooling head": needs.pooling_attention,
        "its own encoding": needs.merging,
    }
    return [name for name, wanted in told.items() if wanted]
