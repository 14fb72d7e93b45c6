"""One table of the settings that have a flag, and the decorator that makes a command of a function.

Every flag has an environment variable of the same name (`--clip-frames`: AOT_CLIP_FRAMES); settings
without a flag are reached by `--set path=value`.
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
from aot.errors import ConfigError
from aot.plugins import names
from aot_cli.given import Given, assigned_layer, nested, strange_variables
from aot_cli.output.console import explained_errors, notify
from aot_cli.session import Session

__all__ = [
    "COMPRESSION",
    "GENERATION",
    "INNER",
    "MODEL",
    "SAMPLING",
    "Given",
    "Setting",
    "command",
    "named_methods",
    "read_number",
    "shares",
]


_DEFAULTS = Config()
_METAVARS = {int: "N", float: "NUMBER", str: "TEXT"}
_SWITCH = dict.fromkeys(("1", "true", "yes", "on"), True) | dict.fromkeys(("0", "false", "no", "off"), False)


@dataclass(frozen=True, slots=True)
class Setting:
    """A flag that fills one place in the configuration."""

    path: str
    kind: type
    help: str
    flags: tuple[str, ...] = ()
    metavar: str | None = None

    @property
    def name(self) -> str:
        return self.path.rpartition(".")[2]

    @property
    def flag_names(self) -> tuple[str, ...]:
        return self.flags or ("--" + self.name.replace("_", "-"),)

    @property
    def described(self) -> str:
        """The help text with the default value, if there is one."""
        default: Any = _DEFAULTS
        for name in self.path.split("."):
            default = getattr(default, name, None)
        return self.help if default is None or default is False else f"{self.help} (default: {default})"

    @property
    def parameter_name(self) -> str:
        return self.path.replace(".", "__")

    @property
    def typed(self) -> str:
        """The flag as messages name it."""
        return self.flag_names[0].partition("/")[0]

    @property
    def variable(self) -> str:
        """The environment variable of the same name."""
        return "AOT_" + self.typed.strip("-").replace("-", "_").upper()

    def read(self, text: str | bool) -> Any:
        """Return the value that a text means; the text itself if it means none, which building the settings refuses."""
        if isinstance(text, bool):
            return text
        if self.kind is bool:
            return _SWITCH.get(text.lower(), text)
        return text if self.kind is str else read_number(text, self.kind)

    def parameter(self, panel: str) -> inspect.Parameter:
        """The flag as a parameter. Its text is read with the variables', so that all is checked in one place."""
        return _flag(
            self.parameter_name,
            (bool if self.kind is bool else str) | None,
            None,
            *self.flag_names,
            help=self.described,
            metavar=self.metavar or _METAVARS.get(self.kind),
            rich_help_panel=panel,
        )


def read_number(text: str, kind: type = float) -> Any:
    """Return the number that a text means; the text itself if it means none."""
    try:
        return kind(text)
    except ValueError:
        return text


SAMPLING = (
    "Frames",
    (
        Setting("sampling.frames", int, "Frames spread evenly over the video."),
        Setting("sampling.fps", float, "Frames per second instead of a number of frames."),
        Setting("sampling.start_s", float, "Begin here: 90, 90s, 1m30s or 1:02:03.5.", ("--start",), "TIME"),
        Setting("sampling.end_s", float, "End here.", ("--end",), "TIME"),
        Setting("sampling.max_frames", int, "Most frames --fps may give."),
        Setting(
            "sampling.segment_frames",
            int,
            "Frames held and compressed at once; clips end with them. Longer videos take no more memory.",
        ),
        Setting("sampling.spacing", str, "Even in frame numbers or in seconds.", (), "index|time"),
        Setting(
            "sampling.select_frames",
            int,
            "Compress only so many of the frames: those the question is about (aot ask and aot compare).",
            metavar="K",
        ),
        Setting("sampling.decoder", str, "Library that reads the file.", (), "pyav|decord"),
        Setting("sampling.strict", bool, "Refuse a video that is damaged or cut off.", ("--strict/--no-strict",)),
        Setting("sampling.max_input_mb", int, "Most to fetch from an address or copy from a pipe.", metavar="MB"),
    ),
)
MODEL = (
    "Model",
    (
        Setting("model.name", str, "Hugging Face id or local folder.", ("--model", "-m"), "ID|FOLDER"),
        Setting("model.revision", str, "Branch, tag or commit on the hub.", (), "REV"),
        Setting("model.device", str, "auto, cpu, cuda, cuda:N or mps.", (), "DEVICE"),
        Setting("model.dtype", str, "auto (32 bits on the CPU), float32, bfloat16 or float16.", (), "DTYPE"),
        Setting("model.offline", bool, "Use only what is cached.", ("--offline/--no-offline",)),
        Setting("model.template", str, "The prompt's wording.", (), "native|hf"),
        Setting(
            "model.siglip_head", str, "SigLIP checkpoint for the frame embeddings of dynamic clips.", (), "ID|FOLDER"
        ),
        Setting(
            "model.encode_batch_frames", int, "Frames encoded at once; by itself as many as fit.", ("--encode-batch",)
        ),
        Setting("model.frame_pixels", int, "Most pixels of a frame, where a model reads any size.", (), "N"),
        Setting("model.attention", str, "Attention kernels; flash needs flash-attn.", ("--attn",), "sdpa|flash"),
        Setting("model.quantize", str, "Bits of the language model's layers.", (), "none|4bit|8bit"),
        Setting("model.device_map", str, "auto: over all GPUs, then host memory, then disk.", (), "none|auto"),
    ),
)
_INNER = Setting(
    "inner.name", str, f"A reduction inside the language model too: {', '.join(names('inner'))}.", ("--inner",), "NAME"
)
INNER = ("Compression", (_INNER,))
COMPRESSION = (
    "Compression",
    (
        Setting("ratio", float, "Share of the visual tokens to keep, in (0, 1], or 10%.", ("--ratio", "-r")),
        Setting("method", str, "How tokens become fewer; see `aot methods`.", (), "NAME"),
        _INNER,
        Setting("aot.budget", str, "Meet the ratio exactly, or let content decide.", (), "exact|paper"),
        Setting("aot.anchors.count", int, "Anchors per frame, before pooling.", ("--anchors",)),
        Setting("aot.clips.mode", str, "Fixed runs of frames, or cuts where the picture changes.",
                ("--clips",), "fixed|dynamic"),
        Setting("aot.clips.frames", int, "Frames per fixed clip.", ("--clip-frames",)),
    ),
)  # fmt: skip
GENERATION = (
    "Answer",
    (
        Setting("generation.max_new_tokens", int, "Longest answer."),
        Setting("generation.temperature", float, "0 always takes the likeliest word."),
        Setting("generation.seed", int, "For temperatures above 0."),
    ),
)

Group = tuple[str, tuple[Setting, ...]]
_PRESET = Setting("preset", str, "Named settings; see `aot presets list`.", ("--preset", "-p"), "NAME")
_VARIABLES = (
    _PRESET.variable,
    *(setting.variable for _, settings in (SAMPLING, MODEL, COMPRESSION, GENERATION) for setting in settings),
)


def command(*groups: Group) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a command of a function: errors become one line, and its parameter `given` becomes flags.

    Every command gets `--quiet`, `--verbose` and `--debug`; with groups of settings also their flags, `--preset` and
    `--set`.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        own_settings = [setting for _, settings in groups for setting in settings]

        @functools.wraps(function)
        def wrapper(**values: Any) -> None:
            speech = {flag.name: values.pop(flag.name) for flag in _SPEECH}
            with explained_errors(Session(as_json=values.get("as_json", False), **speech)):
                if groups:
                    notify(strange_variables(os.environ, [*_VARIABLES, *_read_by_typer(parameters)]))
                    _call(function, _collect(values, [*own_settings, _PRESET]), values)
                else:
                    function(**values)

        signature = inspect.signature(function, eval_str=True)
        own = [parameter for parameter in signature.parameters.values() if parameter.name != "given"]
        flags = [setting.parameter(panel) for panel, settings in groups for setting in settings]
        common = [_PRESET.parameter("Options"), _ASSIGNMENTS] if groups else []
        parameters = [*own, *flags, *common, *_SPEECH]
        wrapper.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return wrapper

    return decorate


def _call(function: Callable[..., None], given: Given, values: Mapping[str, Any]) -> None:
    """
    Raises:
        ConfigError: of the function, told in terms of where the values come from.
    """
    try:
        function(given=given, **values)
    except ConfigError as error:
        told = given.explained(error)
        if told is error:
            raise
        raise told from error


def _collect(values: dict[str, Any], settings: Sequence[Setting]) -> Given:
    """Take out of `values` what was given for settings, and look for it in the environment."""
    assigned = assigned_layer(values.pop("assignments") or [], "--set")
    typed = {setting: values.pop(setting.parameter_name) for setting in settings}
    found = {setting: os.environ.get(setting.variable) or None for setting in settings}  # empty is not set
    variables = _layer(found, lambda setting: setting.variable)
    return Given(variables, _layer(typed, lambda setting: setting.typed), assigned)


def _layer(texts: Mapping[Setting, str | bool | None], name: Callable[[Setting], str]) -> Layer:
    given = {setting: setting.read(text) for setting, text in texts.items() if text is not None}
    values = {setting.path: value for setting, value in given.items()}
    return Layer(nested(values), names={setting.path: name(setting) for setting in given})


def _read_by_typer(parameters: Sequence[inspect.Parameter]) -> list[str]:
    """The variables of flags that are no settings."""
    options = (note for parameter in parameters for note in getattr(parameter.annotation, "__metadata__", ()))
    return [str(option.envvar) for option in options if getattr(option, "envvar", None)]


def _flag(name: str, kind: Any, default: Any, *flags: str, **options: Any) -> inspect.Parameter:
    annotation = Annotated[kind, typer.Option(*flags, show_default=False, show_envvar=False, **options)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


_ASSIGNMENTS = _flag("assignments", list[str] | None, None, "--set", metavar="PATH=VALUE",
                     help="Any other setting, e.g. aot.intra.nearest_blend=0. Repeatable.")  # fmt: skip
_SPEECH = [
    _flag("quiet", bool, False, "--quiet", envvar="AOT_QUIET", help="Say nothing on stderr but errors."),
    _flag("verbose", bool, False, "--verbose", "-v", envvar="AOT_VERBOSE",
          help="Say on stderr what is done and decided, and how long it takes."),
    _flag("debug", bool, False, "--debug", envvar="AOT_DEBUG", help="Show the traceback of an error."),
]  # fmt: skip


def named_methods(text: str) -> list[str]:
    """Methods with commas between them; "all": every one that is not broken, and inner reductions after none."""
    from aot.plugins import usable

    every = [*usable(), *(f"none+{inner}" for inner in usable("inner"))]
    return every if text.strip() == "all" else [name.strip() for name in text.split(",") if name.strip()]


def shares(flag: str, text: str) -> list[float]:
    """Shares in (0, 1] with commas between them, as numbers or in percent.

    Raises:
        ConfigError: they are not.
    """
    found = [_share(part.strip()) for part in text.split(",") if part.strip()]
    if not all(isinstance(share, float) for share in found):
        raise ConfigError(f"{flag} {text} are not numbers with commas between them, for instance 0.25,10%")
    outside = [f"{share:g}" for share in found if not 0 < share <= 1]
    if outside:
        raise ConfigError(f"{flag} must be in (0, 1], got {', '.join(outside)}")
    return found


def _share(text: str) -> Any:
    percent = read_share(text)
    return read_number(text) if percent is None else percent
