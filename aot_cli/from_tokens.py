"""Load a tokens file, and a pipeline that can answer questions about it."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import TYPE_CHECKING

from aot.errors import ModelError
from aot.models.loading.hub import hub_host
from aot.models.loading.lookup import is_here, is_vetted, look_up
from aot.serving.engines.options import TRANSFORMERS, EngineOptions
from aot.storage.tokens_file import load_tokens
from aot_cli.confirm import agrees
from aot_cli.options import Given
from aot_cli.output.console import notify, quiet_libraries
from aot_cli.steps import Chosen, load_pipeline

if TYPE_CHECKING:
    from aot.config.schema import Config, ModelConfig
    from aot.pipeline.run import Pipeline
    from aot.reports.retention import Compression

__all__ = ["load_tokens_with_pipeline"]


def load_tokens_with_pipeline(
    source: str, given: Given, engine: EngineOptions = TRANSFORMERS
) -> tuple[Pipeline, Compression]:
    """Load the tokens file `source`, and the model that made it; print notes about both.

    Raises:
        ModelError: If the file names a model that the user has not agreed to load.
        TokensFileError: If the file is damaged, or another model made it.
    """
    file = load_tokens(source)
    made = file.report.config
    layout = ("template", "newline", "token_order", "positions")  # by default the values of the run that made the file
    base = {"model": {name: getattr(made.model, name) for name in layout}}
    asked = given.config(base)
    config = _with_tokens(source, asked, made)
    quiet_libraries(config.model.offline)
    if config.model.name is None:
        config = replace(config, model=replace(config.model, name=made.model.name, revision=made.model.revision))
        _check_choice(source, config.model)
        notify([f"{source} was made by {made.model.name}, which is used to answer"])
    fixed = {"method", "sampling", "aot", "methods", "tower"} | (set() if _is_whole(asked, made) else {"ratio"})
    ignored = sorted(fixed & set(given.settings))
    if ignored:
        notify([f"{source} is already compressed; no effect of the settings under {', '.join(ignored)}"])
    return load_pipeline(Chosen(config, look_up(config.model)), file.report.model, engine), file


def _check_choice(source: str, model: ModelConfig) -> None:
    """Check that `model`, which the tokens file `source` names, may be loaded.

    Raises:
        ModelError: If the model is neither bundled nor cached, and the user does not agree.
    """
    if is_vetted(model):
        return
    name, revision = str(model.name), f" --revision {shlex.quote(model.revision)}" if model.revision else ""
    flags = f"--model {shlex.quote(name)}{revision}"
    if is_here(model):
        what, question, remedy = f"the model in the folder {name}", "load it?", f"{flags} loads it"
    else:
        what, question = f"{name}, which is not on this machine", f"fetch it from {hub_host()} and load it?"
        remedy = f"{flags} fetches it, --model FOLDER loads it from a folder"
    if not agrees(f"{source} was made by {what}; {question}"):
        raise ModelError(f"{source} was made by {what}, and a file alone may not choose the model; {remedy}")


def _with_tokens(source: str, asked: Config, made: Config) -> Config:
    """Return `asked` with those settings of `made` that produced the tokens of the file `source`.

    If `asked` sets another reduction inside the language model, it removes further tokens.
    """
    how = {part: getattr(made, part) for part in ("method", "sampling", "aot", "methods", "tower")}
    if asked.inner.name is None:
        return replace(asked, **how, ratio=made.ratio, inner=made.inner)
    if _is_whole(asked, made):
        return replace(asked, **how)
    if asked.inner != made.inner:
        notify([f"{source} is already compressed; {asked.inner.name} removes more tokens inside the language model"])
        asked = replace(asked, inner=replace(asked.inner, budget="extra"))
    return replace(asked, **how, ratio=made.ratio)


def _is_whole(asked: Config, made: Config) -> bool:
    """Return whether `made` kept all tokens and `asked` reduces them inside the language model."""
    return asked.inner.name is not None and made.method == "none"
