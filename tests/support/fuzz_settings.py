"""Hostile settings: files, options, variables, data sets and journals, through every command."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from random import Random
from typing import Any

import typer

from tests.support import make_videos
from tests.support.commands import Commands
from tests.support.fuzz_case import Step
from tests.support.mutations import mutated
from tests.support.plain_values import places, put, strange_value
from tests.support.strange_yaml import written

__all__ = ["SettingsCases"]

CLIP = "clip.mp4"
_SHAPES = ("--model", "shapes")
_EVAL = (
    "eval",
    "data.jsonl",
    "-o",
    "results",
    *_SHAPES,
    "--methods",
    "none,uniform",
    "--ratios",
    "0.5",
    "--frames",
    "2",
)
# Each command as it works, and how often it is drawn. What is quick is drawn more often.
COMMANDS: dict[tuple[str, ...], int] = {
    ("inspect", CLIP): 50, ("compress", CLIP, "-o", "out.pt", *_SHAPES): 14, ("ask", CLIP, "what?", *_SHAPES): 5,
    ("ask", CLIP, *_SHAPES): 2, ("compare", CLIP, "what?", *_SHAPES, "--methods", "uniform"): 2, _EVAL: 5,
    ("compress", CLIP): 2, ("inspect", CLIP, *_SHAPES): 4, ("bench", "video", CLIP, *_SHAPES, "--rounds", "1"): 1,
    ("bench", "compressor", "--frames", "2", "--grid", "4", "--width", "8", "--anchors", "2", "--rounds", "1"): 1,
    ("presets", "list"): 1, ("presets", "show"): 2, ("methods",): 2, ("doctor",): 1, ("help",): 1, (): 1,
    ("settings", "--show"): 10, ("settings",): 1, ("chat", CLIP, *_SHAPES): 2,
}  # fmt: skip
_TEXTS = (
    "", " ", "0", "-1", "1", "2", "3", "0.5", "1e400", "1e308", "1e-320", "nan", "inf", "-inf", "-0", "0x10", "1_000",
    "\N{ARABIC-INDIC DIGIT THREE}", "\N{FULLWIDTH DIGIT ONE}", "9" * 5000, "99999999999999999999", "abc", "true",
    "null", "~", "[]", "{}", "[", "\udcff\udcfe", "\x1b]0;x\x07", "a\nb", "\u202ex", "[red]x[/red]", "[/x]", "$HOME",
    "%s%n", "x" * 300, "x" * 5000, CLIP, "./clip.mp4", "none", "all", "aot", "uniform", "auto", "cpu", "cuda:99",
    "mps", "float16", "1:00", "10%", "1:2:3:4", "-1:00", "1h", "0.1s", "1,2,3", ",", "a=b", "=", "a.b=1", "--",
    "--help", "-", "folder", "out.pt", "out.html", "out.json", "out.csv", "out.mp4", "missing/out.html", "/dev/null",
    "/nowhere/out.html", "\N{SNOWMAN}", "e\u0301", "data.jsonl", "shapes",
)  # fmt: skip
# What these are given is work that was asked for; a thousand millions of it take their time.
_WORK = {"--rounds", "--shapes", "--frames", "--grid", "--width", "--anchors", "--min-new-tokens"}
_LITTLE = ("0", "-1", "1", "2", "x", "", "1.5", "nan", "\udcff")
_MODEL_WORDS = ("model", "preset", "siglip", "offline")


@dataclass
class SettingsCases:
    """Settings as files, options and variables have them, data sets, and journals that somebody edited."""

    name: str = "settings"
    clip: bytes = b""
    presets: tuple[bytes, ...] = ()
    results: Path = Path()
    options: Mapping[tuple[str, ...], list[tuple[str, bool]]] = field(default_factory=dict)
    paths: tuple[str, ...] = ()

    def make(self, folder: Path) -> None:
        """Write a clip, and evaluate it so that there is a journal."""
        make_videos.write(folder / CLIP, 8, size=(48, 32))
        rows = [{"video": CLIP, "question": f"how many {what}?", "answer": "two"} for what in ("stars", "circles")]
        (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        done = Commands().run([_EVAL[0], str(folder / _EVAL[1]), "-o", str(folder / "results"), *_EVAL[4:]])
        assert done.code == 0, done.err

    def read(self, folder: Path) -> None:
        """Take the files that `make` wrote, and look up what there is to set."""
        from aot.config.schema import Config
        from aot_cli.main import COMMANDS, app, load_command

        self.results = folder
        self.clip = (folder / CLIP).read_bytes()
        presets = Path(__file__).parents[2] / "presets"
        self.presets = tuple(path.read_bytes() for path in sorted(presets.rglob("*.yaml")))
        self.options = dict(_options(typer.main.get_command(app)))
        for name in COMMANDS:
            self.options |= _options(load_command(name), (name,))
        self.paths = tuple(_paths(Config()))

    def steps(self, random: Random, folder: Path, hub: str) -> list[Step]:
        """Write the files of one case; return its command."""
        (folder / CLIP).write_bytes(self.clip)
        shutil.copy(self.results / "data.jsonl", folder)
        (folder / "folder").mkdir()
        arguments = list(random.choices(list(COMMANDS), list(COMMANDS.values()))[0])
        if random.random() < 0.03:
            arguments, environment = _edited(random, self.results, folder), {}
        else:
            environment = self._hostile(random, folder, arguments)
        _show_plots(arguments[:1] == ["eval"] and random.random() < 0.03)
        settings = folder / "aot.yaml"
        written_down = settings.read_bytes().decode("utf-8", "replace") if settings.exists() else ""
        elsewhere = " ".join([*environment, *environment.values(), written_down])
        may_fetch, stdin = _may_fetch(arguments, elsewhere), folder / "questions.txt"
        stdin.write_bytes(_questions(random))
        return [Step(tuple(arguments), environment, str(stdin), (folder / CLIP,), may_fetch)]

    def _hostile(self, random: Random, folder: Path, arguments: list[str]) -> dict[str, str]:
        """Change the command's options, variables and files, in one or two ways; return the variables."""
        environment: dict[str, str] = {}
        ways: tuple[Callable[[], object], ...] = (
            lambda: self._settings_file(random, folder),
            lambda: self._settings_file(random, folder),
            lambda: self._add_options(random, arguments),
            lambda: self._add_options(random, arguments),
            lambda: environment.update(self._variables(random)),
            lambda: self._assign(random, arguments),
            lambda: _data_set(random, folder / "data.jsonl"),
            lambda: _put_text(random, arguments),
        )
        for way in random.sample(ways, random.choice((1, 1, 2))):
            way()
        return environment

    def _settings_file(self, random: Random, folder: Path) -> None:
        if random.random() < 0.3:
            text = mutated(random, random.choice(self.presets), self.presets)
        else:
            text = written(random, self._settings(random)).encode("utf-8", "surrogateescape")
        (folder / "aot.yaml").write_bytes(text)

    def _settings(self, random: Random) -> dict[str, Any]:
        from aot.config.strict import merge_settings, nested

        drawn = [{self._path(random): self._value(random)} for _ in range(random.choice((1, 2, 5)))]
        return merge_settings(*map(nested, drawn))

    def _path(self, random: Random) -> str:
        path = random.choice(
            (*self.paths, "preset", "methods.vqtoken.clusters", "methods.x.y", "inner.settings.fastv.layer")
        )
        return random.choice(
            (path, path, path, path, path.upper(), path + "s", path.rpartition(".")[0] or "x", "\x1b[1m")
        )

    def _value(self, random: Random) -> Any:
        return random.choice(_TEXTS) if random.random() < 0.3 else strange_value(random)

    def _add_options(self, random: Random, arguments: list[str]) -> None:
        words = tuple(word for word in arguments[:2])
        options = self.options.get(words) or self.options.get(words[:1]) or [("--help", True)]
        for _ in range(random.choice((1, 1, 2, 4))):
            name, is_flag = random.choice(options)
            texts = _LITTLE if name in _WORK else _TEXTS
            arguments += [name] if is_flag else [name, random.choice(texts)]

    def _variables(self, random: Random) -> dict[str, str]:
        from aot_cli.options import _VARIABLES

        names = (*_VARIABLES, "AOT_QUIET", "AOT_VERBOSE", "AOT_RATIOS", "AOT_", "AOT_\x1b[1m")
        drawn = random.sample(names, random.choice((1, 1, 2, 5)))
        of_terminal = random.sample(("COLUMNS", "LINES", "TERM", "NO_COLOR", "LANG"), random.choice((0, 0, 0, 1, 2)))
        return {name: random.choice(_TEXTS) for name in (*drawn, *of_terminal)}

    def _assign(self, random: Random, arguments: list[str]) -> None:
        if arguments[:1] in (["presets"], ["methods"], ["help"], []):
            return
        for _ in range(random.choice((1, 1, 3))):
            value = written(random, self._value(random)).strip().replace("\0", "")
            arguments += ["--set", f"{self._path(random)}={value[:100_000]}"]


def _questions(random: Random) -> bytes:
    """What a command finds on its standard input."""
    text = "\n".join(random.sample(_TEXTS, 2)).encode("utf-8", "surrogateescape")
    return mutated(random, text, [text]) if random.random() < 0.3 else text


def _may_fetch(arguments: list[str], elsewhere: str) -> bool:
    """Whether a command names a model that is not the bundled one, or needs one and names none."""
    typed = " ".join(arguments).partition(" -- ")[0]
    others = typed.replace("--model shapes", "").lower()
    names_another = any(word in others for word in _MODEL_WORDS) or bool({"-m", "-p"} & set(arguments))
    if arguments[:1] == ["inspect"]:
        return names_another
    return names_another or "--model shapes" not in typed or any(word in elsewhere.lower() for word in _MODEL_WORDS)


def _options(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], list[tuple[str, bool]]]]:
    """Every command's options and whether each is a switch, by the words that name the command."""
    for name, inner in getattr(command, "commands", {}).items():
        yield from _options(inner, (*words, name))
    flags = [
        (name, bool(option.is_flag))
        for option in command.params
        if option.param_type_name == "option"
        for name in (*option.opts, *option.secondary_opts)
    ]
    yield (
        words,
        [
            (name, is_flag)
            for name, is_flag in flags
            if name not in ("--install-completion", "--show-completion", "--debug")
        ],
    )


def _paths(settings: Any, before: str = "") -> Iterator[str]:
    """The paths of all settings."""
    for each in fields(settings):
        value = getattr(settings, each.name)
        if is_dataclass(value):
            yield from _paths(value, f"{before}{each.name}.")
        else:
            yield before + each.name


def _put_text(random: Random, arguments: list[str]) -> None:
    """Another word somewhere."""
    texts = [text for text in _TEXTS if text not in ("--help", "data.jsonl")]
    place = random.randrange(len(arguments) + 1)
    is_of_work = place and arguments[place - 1] in _WORK
    arguments[place : place + random.choice((0, 1))] = [random.choice(_LITTLE if is_of_work else texts)]


def _data_set(random: Random, path: Path) -> None:
    """Questions of other types, or bytes that were damaged."""
    lines = path.read_bytes().splitlines(keepends=True)
    if random.random() < 0.4:
        path.write_bytes(mutated(random, b"".join(lines), lines))
        return
    path.write_text(_edited_lines(random, lines), encoding="utf-8", errors="replace")


def _edited_lines(random: Random, lines: list[bytes]) -> str:
    rows = [json.loads(line) for line in lines]
    for _ in range(random.choice((1, 1, 3))):
        way = random.choice([*places(rows), (0, random.choice(("options", "family", "id", "extra")))])
        try:
            put(rows, way, strange_value(random))
        except (KeyError, IndexError, TypeError, AttributeError):
            continue
    return "".join(json.dumps(row) + "\n" for row in rows)


def _edited(random: Random, results: Path, folder: Path) -> list[str]:
    """Put a folder of results there, with a journal that somebody edited; return the command that goes on from it."""
    shutil.copytree(results / "results", folder / "results")
    path = folder / "results" / random.choice(("answers.jsonl", "answers.jsonl", "run.json"))
    data = path.read_bytes()
    form = random.random()
    if form < 0.4:
        path.write_bytes(mutated(random, data, [data]))
    elif path.suffix == ".jsonl":
        path.write_text(_edited_lines(random, data.splitlines()), encoding="utf-8")
    else:
        path.write_text(_edited_lines(random, [data]), encoding="utf-8")
    if random.random() < 0.2:
        (folder / "results" / "results.json").write_bytes(mutated(random, data, [data]))
    return [*_EVAL, *random.choice(([], [], ["--json"], ["--restart"]))]


def _show_plots(are_shown: bool) -> None:
    """Plots take longer than all else; without matplotlib there are none."""
    if are_shown:
        sys.modules.pop("matplotlib.figure", None)
    else:
        sys.modules["matplotlib.figure"] = None  # type: ignore[assignment]
