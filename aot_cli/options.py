"""One table of the settings that have a flag, and the decorator that makes a command of a function.

Every flag has an environment variable of the same name (`--clip-frames`: AOT_CLIP_FRAMES); settings
without a flag are reached by `--set path=value`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from aot.config import Config
from aot.errors import ConfigError
from aot.registry import names
from aot.settings import resolve_config
from aot_cli.console import explained_errors
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
    "parse_assignments",
]


_DEFAULTS = Config()


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
        default: object = functools.reduce(getattr, self.path.split("."), _DEFAULTS)
        return self.help if default is None or default is False else f"{self.help} (default: {default})"

    @property
    def parameter_name(self) -> str:
        return self.path.replace(".", "__")

    def parameter(self, panel: str) -> inspect.Parameter:
        """The flag as a parameter, with an environment variable of the same name."""
        variable = "AOT_" + self.flag_names[0].split("/")[0].strip("-").replace("-", "_").upper()
        return _flag(
            self.parameter_name,
            self.kind | None,
            None,
            *self.flag_names,
            help=self.described,
            metavar=self.metavar,
            envvar=variable,
            rich_help_panel=panel,
        )


SAMPLING = (
    "Frames",
    (
        Setting("sampling.frames", int, "Frames spread evenly over the video."),
        Setting("sampling.fps", float, "Frames per second instead of a number of frames."),
        Setting("sampling.start_s", float, "Begin here.", ("--start",), "SECONDS"),
        Setting("sampling.end_s", float, "End here.", ("--end",), "SECONDS"),
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
        Setting("ratio", float, "Share of the visual tokens to keep, in (0, 1].", ("--ratio", "-r")),
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


@dataclass(frozen=True, slots=True)
class Given:
    """What the user gave by flag or variable; `config` adds the files and the defaults."""

    settings: Mapping[str, Any]
    preset: str | None

    def config(self, base: Mapping[str, Any] | None = None) -> Config:
        """The resolved configuration; `base` holds values that everything else overrides."""
        try:
            return resolve_config(self.settings, self.preset, base=base)
        except ConfigError as error:
            raise ConfigError(*map(_in_flags, error.problems)) from None


def command(*groups: Group) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a command of a function: errors become one line, and its parameter `given` becomes flags.

    Every command gets `--quiet`, `--verbose` and `--debug`; with groups of settings also their flags, `--preset` and
    `--set`.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        paths = {setting.parameter_name: setting.path for _, settings in groups for setting in settings}

        @functools.wraps(function)
        def wrapper(**values: Any) -> None:
            speech = {flag.name: values.pop(flag.name) for flag in _SPEECH}
            with explained_errors(Session(as_json=values.get("as_json", False), **speech)):
                if groups:
                    values["given"] = _collect(values, paths)
                function(**values)

        signature = inspect.signature(function, eval_str=True)
        own = [parameter for parameter in signature.parameters.values() if parameter.name != "given"]
        flags = [setting.parameter(panel) for panel, settings in groups for setting in settings]
        parameters = [*own, *(flags + _COMMON if groups else []), *_SPEECH]
        wrapper.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return wrapper

    return decorate


def _in_flags(problem: str) -> str:
    """A problem told in terms of the flag, if its setting has one."""
    for _, settings in (SAMPLING, MODEL, COMPRESSION, GENERATION):
        for setting in settings:
            if problem.startswith(f"{setting.path} "):
                return setting.flag_names[0] + problem.removeprefix(setting.path)
    return problem


def _collect(values: dict[str, Any], paths: Mapping[str, str]) -> Given:
    settings: dict[str, Any] = {}
    for parameter, path in paths.items():
        value = values.pop(parameter)
        if value is not None:
            _put(settings, path, value)
    _put_all(settings, values.pop("assignments") or [])
    return Given(settings, values.pop("preset"))


def _flag(name: str, kind: Any, default: Any, *flags: str, **options: Any) -> inspect.Parameter:
    annotation = Annotated[kind, typer.Option(*flags, show_default=False, show_envvar=False, **options)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


_COMMON = [
    _flag("preset", str | None, None, "--preset", "-p", metavar="NAME", envvar="AOT_PRESET",
          help="Named settings; see `aot presets list`."),
    _flag("assignments", list[str] | None, None, "--set", metavar="PATH=VALUE",
          help="Any other setting, e.g. aot.intra.nearest_blend=0. Repeatable."),
]  # fmt: skip
_SPEECH = [
    _flag("quiet", bool, False, "--quiet", envvar="AOT_QUIET", help="Say nothing on stderr but errors."),
    _flag("verbose", bool, False, "--verbose", "-v", envvar="AOT_VERBOSE",
          help="Say on stderr what is done and decided, and how long it takes."),
    _flag("debug", bool, False, "--debug", envvar="AOT_DEBUG", help="Show the traceback of an error."),
]  # fmt: skip


def named_methods(text: str) -> list[str]:
    """Methods with commas between them; "all": every one that is not broken, and inner reductions after none."""
    from aot.registry import usable

    every = [*usable(), *(f"none+{inner}" for inner in usable("inner"))]
    return every if text.strip() == "all" else [name.strip() for name in text.split(",") if name.strip()]


def numbers(flag: str, text: str) -> list[float]:
    """Numbers with commas between them.

    Raises:
        ConfigError: they are not.
    """
    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise ConfigError(f"{flag} {text} are not numbers with commas between them, for instance 0.25,0.1") from None


def parse_assignments(texts: Sequence[str]) -> dict[str, Any]:
    """`PATH=VALUE` texts as nested settings.

    Raises:
        ConfigError: a text has no `=`, a value is not YAML, or a group was given a value.
    """
    settings: dict[str, Any] = {}
    _put_all(settings, texts)
    return settings


def _put_all(settings: dict[str, Any], assignments: Sequence[str]) -> None:
    for assignment in assignments:
        _put(settings, *_parse_assignment(assignment))


def _parse_assignment(text: str) -> tuple[str, Any]:
    import yaml

    path, separator, value = text.partition("=")
    if not separator:
        raise ConfigError(f"--set {text} is not PATH=VALUE, for instance aot.clips.frames=8")
    try:
        return path.strip(), yaml.safe_load(value)
    except (yaml.YAMLError, RecursionError):
        raise ConfigError(f"--set {text}: the value is not valid YAML") from None


def _put(settings: dict[str, Any], path: str, value: Any) -> None:
    *groups, name = path.split(".")
    for group in groups:
        settings = settings.setdefault(group, {})
        if not isinstance(settings, dict):
            raise ConfigError(f"--set {path}: {group} was given a value before, it is no group then")
    settings[name] = value
