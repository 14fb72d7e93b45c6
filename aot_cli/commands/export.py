"""`aot export`: write the language model of a checkpoint as a folder for engines."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from aot.models.loading.lookup import look_up
from aot_cli.options import JSON, MODEL, Given, command
from aot_cli.output.console import StageBars, print_json, quiet_libraries
from aot_cli.output.page import FORCE
from aot_cli.output.screen import print_text
from aot_cli.session import current
from aot_cli.steps import Chosen, load_with_progress

__all__ = ["export"]

_READ = ("model.revision", "model.dtype", "model.offline")
_FLAGS = ("Model", tuple(flag for flag in MODEL[1] if flag.path in _READ))


@command(_FLAGS)
def export(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A name on the Hugging Face hub, or a folder.", show_default=False)
    ],
    given: Given,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the language model.")],
    force: FORCE = False,
    as_json: JSON = False,
) -> None:
    """Write the language model of a checkpoint as a folder of its own, for engines such as vLLM.

    aot export shapes -o shapes-lm && vllm serve shapes-lm --enable-prompt-embeds
    """
    from aot.serving.engines.export import check_exportable, check_target, export_language_model, stored_dtype

    check_exportable(given.resolved.model)
    check_target(output, overwrite=force)
    config = replace(given.resolved.model, name=model, device="cpu", compile=False)
    quiet_libraries(config.offline)
    chosen = Chosen(replace(given.resolved, model=config), look_up(config))
    # The numbers are written as they are stored, although this process might compute in others.
    chosen = replace(chosen, config=replace(chosen.config, model=stored_dtype(config, chosen.to_fetch)))
    loaded = load_with_progress(chosen, as_embeddings=True)
    with StageBars() as bars, bars.stage("write"):
        files = export_language_model(loaded, output)
    size = sum(path.stat().st_size for path in files)
    if as_json:
        found = {
            "folder": output,
            "files": [path.name for path in files],
            "size_bytes": size,
            "dtype": loaded.placement["dtype"],
            "model_name": loaded.identity.name,
            "toy_model": loaded.identity.is_toy,
        }
        print_json("aot.export/1", found)
    else:
        if not current().quiet:
            print_text(f"{len(files)} files, {size / 1e6:.1f} MB, {loaded.placement['dtype']}", to_stderr=True)
        print_text(str(output))
