"""Declare the settings that have a flag, and turn functions into commands.

Every flag has an environment variable of the same name (`--clip-frames`: AOT_CLIP_FRAMES); other
settings are given with `--set PATH=VALUE`.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from aot.config.layers import Layer
from aot.config.notations import read_share
from aot.config.schema import Config
from aot.config.setting import Setting, settings_in
from aot.config.strict import choices, has_notation, nested, plain_type
from aot.errors import ConfigError
from aot.plugins import usable
from aot.serving.engines.options import check_engine
from aot_cli.engine_flags import ENGINE_VARIABLES, engine_parameters, read_engine
from aot_cli.given_settings import Given, assigned_layer, unknown_variables
from aot_cli.output.console import explained_errors, notify
from aot_cli.session import Session

__all__ = [
    "COMPRESSION",
    "FLAGS",
    "GENERATION",
    "INSIDE",
    "JSON",
    "METHODS",
    "MODEL",
    "SAMPLING",
    "Flag",
    "Given",
    "command",
    "named_methods",
    "read_number",
    "shares",
]

JSON = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
METHODS = Annotated[
    str, typer.Option("--methods", help="Comma-separated methods, or all; none+fastv is none with --inner fastv.")
]
_METAVARS = {int: "N", float: "NUMBER", str: "TEXT"}
_SWITCH = dict.fromkeys(("1", "true", "yes", "on"), True) | dict.fromkeys(("0", "false", "no", "off"), False)
_PRESET_SETTING = Setting("preset", str, meaning="Named settings; see `aot presets list`.")
_SETTINGS = {setting.path: setting for setting in (*settings_in(Config), _PRESET_SETTING)}


@dataclass(frozen=True, slots=True)
class Flag:
    """A command-line flag for one setting.

    Attributes:
        setting: The setting.
        flag_names: Names as in `typer.Option`; messages use the first.
        metavar: Name of the value in `--help`.
    """

    setting: Setting
    flag_names: tuple[str, ...]
    metavar: str | None

    @property
    def path(self) -> str:
        """Return the path of the setting."""
        return self.setting.path

    @property
    def kind(self) -> type:
        """Return the type of the value."""
        return plain_type(self.setting.hint)

    @property
    def described(self) -> str:
        """Return the help text: meaning, type, range and default."""
        default, hint = self.setting.default, self.setting.hint
        needs_type = has_notation(hint) or (choices(hint) and self.metavar != "|".join(choices(hint)))
        known = [
            self.setting.type.removesuffix(" or null") if needs_type else "",
            self.setting.range,
            "" if default is None or default is False else f"default: {default}",
        ]
        return f"{self.setting.meaning} ({'; '.join(filter(None, known))})" if any(known) else self.setting.meaning

    @property
    def parameter_name(self) -> str:
        """Return the name of the parameter that holds the flag's value in a command's function."""
        return self.path.replace(".", "__")

    @property
    def typed(self) -> str:
        """Return the flag as messages show it, such as "--ratio"."""
        return self.flag_names[0].partition("/")[0]

    @property
    def variable(self) -> str:
        """Return the name of the flag's environment variable, such as "AOT_RATIO"."""
        return "AOT_" + self.typed.strip("-").replace("-", "_").upper()

    def read(self, text: str | bool) -> object:
        """Return `text` converted to `kind`, or `text` itself if it is invalid (checked later)."""
        if isinstance(text, bool):
            return text
        if self.kind is bool:
            return _SWITCH.get(text.lower(), text)
        return text if self.kind is str else read_number(text, self.kind)

    def parameter(self, panel: str) -> inspect.Parameter:
        """Return a parameter of typer that takes text, so that flags are checked like variables."""
        return _parameter(
            self.parameter_name,
            (bool if self.kind is bool else str) | None,
            None,
            *self.flag_names,
            help=self.described,
            metavar=self.metavar,
            rich_help_panel=panel,
        )


def _flag(path: str, *flag_names: str, metavar: str | None = None) -> Flag:
    """Return the flag of the setting `path`, which defines missing `flag_names` and `metavar`."""
    setting, name = _SETTINGS[path], path.rpartition(".")[2].replace("_", "-")
    kind = plain_type(setting.hint)
    own_names = flag_names or (f"--{name}/--no-{name}" if kind is bool else f"--{name}",)
    return Flag(setting, own_names, metavar or "|".join(choices(setting.hint)) or _METAVARS.get(kind))


def read_number(text: str, kind: Callable[[str], float] = float) -> float | str:
    """Return `text` as a number, or `text` itself if the conversion fails."""
    try:
        return kind(text)
    except ValueError:
        return text


SAMPLING = (
    "Frames",
    (
        _flag("sampling.frames"),
        _flag("sampling.fps"),
        _flag("sampling.start_s", "--start", metavar="TIME"),
        _flag("sampling.end_s", "--end", metavar="TIME"),
        _flag("sampling.max_frames"),
        _flag("sampling.segment_frames"),
        _flag("sampling.spacing"),
        _flag("sampling.seek"),
        _flag("sampling.select_frames", metavar="K"),
        _flag("sampling.decoder"),
        _flag("sampling.strict"),
        _flag("sampling.max_input_mb", metavar="MB"),
    ),
)
MODEL = (
    "Model",
    (
        _flag("model.name", "--model", "-m", metavar="ID|FOLDER"),
        _flag("model.revision", metavar="REV"),
        _flag("model.device", metavar="DEVICE"),
        _flag("model.dtype", metavar="DTYPE"),
        _flag("model.offline"),
        _flag("model.template"),
        _flag("model.siglip_head", metavar="ID|FOLDER"),
        _flag("model.encode_batch_frames", "--encode-batch"),
        _flag("model.frame_pixels"),
        _flag("model.attention", "--attn"),
        _flag("model.quantize"),
        _flag("model.device_map"),
        _flag("model.compile", "--compile"),
    ),
)
INSIDE = ("Compression", (_flag("inner.name", "--inner", metavar="NAME"), _flag("tower.name", "--tower")))
COMPRESSION = (
    "Compression",
    (
        _flag("ratio", "--ratio", "-r"),
        _flag("method", metavar="NAME"),
        *INSIDE[1],
        _flag("aot.budget"),
        _flag("aot.anchors.count", "--anchors"),
        _flag("aot.clips.mode", "--clips"),
        _flag("aot.clips.frames", "--clip-frames"),
    ),
)
GENERATION = (
    "Answer",
    (_flag("generation.max_new_tokens"), _flag("generation.temperature"), _flag("generation.seed")),
)

Group = tuple[str, tuple[Flag, ...]]
_PRESET = _flag("preset", "--preset", "-p", metavar="NAME")
FLAGS = {flag.path: flag for _, flags in (SAMPLING, MODEL, COMPRESSION, GENERATION) for flag in flags}
_VARIABLES = tuple(flag.variable for flag in (_PRESET, *FLAGS.values()))


def command(*groups: Group) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that makes a function a command; errors are printed as one line.

    Every command has `--quiet`, `--verbose` and `--debug`. If there are `groups`, the command also
    has the flags of the groups, `--preset` and `--set`; the function gets the values as `given`.
    A function with the parameter `engine` has the flags of engines.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        own_flags = [flag for _, flags in groups for flag in flags]

        @functools.wraps(function)
        def wrapper(**values: Any) -> None:
            verbosity = {flag.name: values.pop(flag.name) for flag in _VERBOSITY}
            with explained_errors(Session(as_json=values.get("as_json", False), **verbosity)):
                if engines:
                    values["engine"] = read_engine(values)
                if groups:
                    notify(unknown_variables(os.environ, [*_VARIABLES, *ENGINE_VARIABLES, *_read_by_typer(parameters)]))
                    _call(function, _collect(values, [*own_flags, _PRESET]), values)
                else:
                    function(**values)

        signature = inspect.signature(function, eval_str=True)
        own = [parameter for name, parameter in signature.parameters.items() if name not in ("given", "engine")]
        engines = engine_parameters() if "engine" in signature.parameters else []
        flags = [flag.parameter(panel) for panel, in_panel in groups for flag in in_panel]
        common = [_PRESET.parameter("Options"), _ASSIGNMENTS] if groups else []
        parameters = [*own, *flags, *engines, *common, *_VERBOSITY]
        wrapper.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return wrapper

    return decorate


def _call(function: Callable[..., None], given: Given, values: Mapping[str, Any]) -> None:
    """Call the function of a command with the settings and the other arguments.

    Raises:
        ConfigError: If `function` raises a ConfigError; the sources of wrong values are added.
    """
    try:
        if "engine" in values:
            check_engine(values["engine"], given.resolved)
        function(given=given, **values)
    except ConfigError as error:
        explained = given.explained(error)
        if explained is error:
            raise
        raise explained from error


def _collect(values: dict[str, Any], flags: Sequence[Flag]) -> Given:
    """Remove the settings from `values`; return them with the settings of AOT_* variables."""
    assigned = assigned_layer(values.pop("assignments") or [], "--set")
    typed = {flag: values.pop(flag.parameter_name) for flag in flags}
    found = {flag: os.environ.get(flag.variable) or None for flag in flags}  # an empty variable counts as not set
    variables = _layer(found, lambda flag: flag.variable)
    return Given(variables, _layer(typed, lambda flag: flag.typed), assigned)


def _layer(texts: Mapping[Flag, str | bool | None], name: Callable[[Flag], str]) -> Layer:
    given = {flag: flag.read(text) for flag, text in texts.items() if text is not None}
    values = {flag.path: value for flag, value in given.items()}
    return Layer(nested(values), names={flag.path: name(flag) for flag in given})


def _read_by_typer(parameters: Sequence[inspect.Parameter]) -> list[str]:
    """Return the environment variables that typer reads: those of flags that are not settings."""
    options = (note for parameter in parameters for note in getattr(parameter.annotation, "__metadata__", ()))
    return [str(option.envvar) for option in options if getattr(option, "envvar", None)]


def _parameter(name: str, kind: Any, default: Any, *flags: str, **options: Any) -> inspect.Parameter:
    annotation = Annotated[kind, typer.Option(*flags, show_default=False, show_envvar=False, **options)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


_ASSIGNMENTS = _parameter("assignments", list[str] | None, None, "--set", metavar="PATH=VALUE",
                     help="Set any other setting, e.g. aot.intra.nearest_blend=0. Repeatable.")  # fmt: skip
_VERBOSITY = [
    _parameter("quiet", bool, False, "--quiet", envvar="AOT_QUIET", help="Print only errors on stderr."),
    _parameter("verbose", bool, False, "--verbose", "-v", envvar="AOT_VERBOSE",
          help="Print steps, decisions and times on stderr."),
    _parameter("debug", bool, False, "--debug", envvar="AOT_DEBUG", help="Print the traceback of an error."),
]  # fmt: skip


def named_methods(text: str) -> list[str]:
    """Return the names in the comma-separated `text`; "all" means all methods and none+INNER."""
    every = [*usable(), *(f"none+{inner}" for inner in usable("inner"))]
    return every if text.strip() == "all" else [name.strip() for name in text.split(",") if name.strip()]


def shares(flag: str, text: str) -> list[float]:
    """Return the shares in a comma-separated text of numbers or percentages, each in (0, 1].

    Raises:
        ConfigError: If a share is not a number, or outside (0, 1].
    """
    read = [_share(part.strip()) for part in text.split(",") if part.strip()]
    found = [share for share in read if isinstance(share, float)]
    if len(found) < len(read):
        raise ConfigError(f"{flag} {text} is not a list of comma-separated numbers, for example 0.25,10%")
    outside = [f"{share:g}" for share in found if not 0 < share <= 1]
    if outside:
        raise ConfigError(f"{flag} must be in (0, 1], got {', '.join(outside)}; for percentages write 15%")
    return found


def _share(text: str) -> float | str:
    percent = read_share(text)
    return read_number(text) if percent is None else percent
