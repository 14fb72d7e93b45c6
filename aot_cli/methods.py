"""`aot methods`: what can be chosen with --method and --inner."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from aot_cli.console import print_json
from aot_cli.options import command

if TYPE_CHECKING:
    from aot.types import Needs

__all__ = ["list_methods"]


@command()
def list_methods(
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """What --method and --inner choose from: where each acts, what it needs, its paper, whether budgets are exact."""
    from aot.config import Config
    from aot.methods import build_method
    from aot.registry import names
    from aot.types import Needs

    found: dict[str, list[dict[str, Any]]] = {"methods": [], "inner": []}
    for name in names():
        row = _describe(name, "methods")
        needs = build_method(Config(method=name)).needs if row["acts"] else Needs()
        found["methods"].append({**row, "needs": _needs(needs)})
    found["inner"] = [_describe(name, "inner") for name in names("inner")]
    if as_json:
        print_json(found)
        return
    from aot_cli.render import card_table, print_result

    print_result(
        card_table("--method", found["methods"]), card_table("--inner, inside the language model", found["inner"])
    )


def _describe(name: str, kind: Literal["methods", "inner"]) -> dict[str, Any]:
    """Its card; of a plug-in that does not load, why."""
    from aot.errors import ConfigError
    from aot.registry import Card, find

    try:
        card: Card = find(name, kind).card
    except ConfigError as error:
        card = Card(acts="", exact=False, remark=str(error))
    return {"name": name, "acts": card.acts, "source": card.source, "exact": card.exact, "remark": card.remark}


def _needs(needs: Needs) -> list[str]:
    blocks = ", ".join(map(str, needs.saliency_layers))
    told = {
        f"attention in block {blocks}": needs.saliency_layers,
        "keys": needs.key_layers,
        "frame embeddings": needs.frame_embeddings,
        "SigLIP's pooling head": needs.pooling_attention,
        "its own encoding": needs.merging,
    }
    return [name for name, wanted in told.items() if wanted]
