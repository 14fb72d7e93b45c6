"""Make the command that repeats a run."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from aot.compression.all_settings import with_all_settings
from aot.config.schema import Config, build_config
from aot.config.sources import resolve_config
from aot_cli.options import FLAGS

if TYPE_CHECKING:
    from aot.config.strict import Settings

__all__ = ["ask_words", "command_for"]

_ALWAYS = ("model.name", "sampling.frames", "sampling.fps", "method", "ratio")


def ask_words(source: str, questions: Sequence[str]) -> list[str]:
    """Return the words of `aot ask` without settings, for the argument `words` of `command_for`."""
    first, *more = questions
    return ["ask", source, first, *(word for question in more for word in ("-q", question))]


def command_for(words: Sequence[str], config: Config, leave_out: Sequence[str] = ()) -> str:
    """Return a command line that repeats a run.

    The command line has flags for model, frames, method and ratio. Another setting has a flag if it
    differs from the default with or without ./aot.yaml, so the command also works in other folders.

    Args:
        words: Command, source and other arguments.
        config: The settings of the run.
        leave_out: Paths of settings that `words` already contain.
    """
    resolved = dict(_flat(config.to_dict()))
    usual = [dict(_flat(each.to_dict())) for each in _usual(config)]
    named = [path for path in _ALWAYS if resolved[path] is not None]
    if resolved["sampling.fps"] is not None:
        named.remove("sampling.frames")
    unusual = [path for path in resolved if any(each.get(path) != resolved[path] for each in usual)]
    chosen = (*named, *(path for path in unusual if path not in _ALWAYS))
    flags = (_flag(path, resolved[path]) for path in chosen if path not in leave_out)
    command, source, *others = words
    line = shlex.join(["aot", command, _not_a_flag(source), *others, *(word for flag in flags for word in flag)])
    return f"{line} < VIDEO" if source == "-" else line


def _not_a_flag(source: str) -> str:
    return f"./{source}" if source.startswith("-") and source != "-" else source


def _usual(config: Config) -> Iterator[Config]:
    """Yield the default settings for the model's name, without and then with ./aot.yaml."""
    assert config.model.name is not None  # the run had a model
    model = {"model": {"name": config.model.name}}
    for usual in (build_config(model), resolve_config({}, base=model)):
        # Reports state all settings of the method and the reduction that were used.
        inner = replace(usual.inner, name=config.inner.name)
        stated = with_all_settings(replace(usual, method=config.method, inner=inner))
        yield replace(usual, methods=stated.methods, inner=replace(usual.inner, settings=stated.inner.settings))


def _flat(settings: Settings, above: str = "") -> Iterator[tuple[str, object]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{name}.")
        else:
            yield above + name, value


def _flag(path: str, value: object) -> list[str]:
    flag = FLAGS.get(path)
    if flag is None or value is None:
        return ["--set", f"{path}={json.dumps(value)}"]
    if flag.kind is not bool:
        return [flag.flag_names[0], str(value)]
    on, _, off = flag.flag_names[0].partition("/")
    return [on if value else off]
