"""`aot presets`: list and show named settings."""

from __future__ import annotations

from typing import Annotated

import typer

from aot.config.presets import preset_names, preset_text
from aot.config.sources import resolve_config
from aot_cli.options import JSON, command
from aot_cli.output.console import print_json
from aot_cli.output.screen import print_text

__all__ = ["app"]

app = typer.Typer(help="List the presets (named settings), or show one with its source.", no_args_is_help=True)


@app.command("list")
@command()
def list_presets(
    as_json: JSON = False,
) -> None:
    """List the names for --preset, each with its purpose."""
    purposes = {name: _purpose(preset_text(name)) for name in preset_names()}
    if as_json:
        rows = [{"name": name, "purpose": purpose} for name, purpose in purposes.items()]
        print_json("aot.presets/1", {"presets": rows})
        return
    width = max(len(name) for name in purposes)
    for name, purpose in purposes.items():
        print_text(f"{name:<{width}}  {purpose}")


@app.command("show")
@command()
def show_preset(
    name: Annotated[str, typer.Argument(help="A name from `aot presets list`.", show_default=False)],
    as_json: JSON = False,
) -> None:
    """Show a preset as YAML, or all its resolved settings as JSON."""
    text = preset_text(name)
    if as_json:
        config = resolve_config({}, name).to_dict()
        print_json("aot.preset/1", {"name": name, "purpose": _purpose(text), "config": config})
    else:
        print_text(text, end="")


def _purpose(text: str) -> str:
    """Return the first sentence of a preset's header comment; skip the first line, a command."""
    header = [line.removeprefix("#").strip() for line in text.splitlines() if line.startswith("#")]
    return " ".join(header[1:]).strip().partition(". ")[0].rstrip(".")
