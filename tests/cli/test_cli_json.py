"""What `--json` prints is what docs/json.md says, of every command, and also where a command fails."""

from __future__ import annotations

import copy
import io
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aot_cli.output.console import json_text
from aot_cli.output.schemas import OBJECTS, PARTS, markdown
from tests.support.cli_run import Aot, Run
from tests.support.documented import problems

ROOT = Path(__file__).parents[2]
SHORT = ("--max-new-tokens", "2")
KINDS = ("string", "integer", "number", "boolean", "object", "any")


def valid_json(run: Run) -> dict[str, Any]:
    """The object on stdout, by a strict reader."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    found = json.loads(run.out, parse_constant=refuse)
    assert isinstance(found, dict)
    return found


def said(run: Run) -> list[str]:
    return [line.removeprefix("aot: note: ") for line in run.err.splitlines() if line.startswith("aot: note: ")]


def test_the_page_shows_the_table() -> None:
    assert (ROOT / "docs/json.md").read_text(encoding="utf-8") == markdown(), "run python -m aot_cli.output.schemas"


def test_every_type_in_the_table_exists() -> None:
    for name, keys in [*OBJECTS.items(), *PARTS.items()]:
        assert len({key.name for key in keys}) == len(keys), name
        for key in keys:
            assert key.type.strip("[]{}?") in (*KINDS, *PARTS), f"{name}.{key.name}: {key.type}"


COMMANDS = {
    "aot.ask/1": ("ask", "CLIP", "what happens?", "-q", "and then?", "SMALL", *SHORT, "--html", "ask.html"),
    "aot.chat/1": ("chat", "CLIP", "SMALL", *SHORT),  # its question is on stdin
    "aot.compress/1": ("compress", "CLIP", "-o", "new.pt", "SMALL", "--report", "report.json"),
    "aot.batch/1": ("batch", "CLIP", "-q", "what?", "-o", "batch", "SMALL", *SHORT, "--reports"),
    "aot.export/1": ("export", "shapes", "-o", "language-model"),
    "aot.inspect.kept/1": ("inspect", "CLIP", "SMALL"),
    "aot.inspect.video/1": ("inspect", "CLIP", "--clips", "dynamic"),
    "aot.compare/1": ("compare", "CLIP", "what?", "SMALL", *SHORT, "--methods", "none,uniform,dycoke", "-r", "0.2"),
    "aot.eval/1": ("eval", "--shapes", "1", "-o", "out", "SMALL", *SHORT, "--methods", "none,uniform", "-r", "0.5"),
    "aot.tune/1": ("tune", "CLIP", "-q", "what?", "SMALL", *SHORT, "--methods", "uniform", "-r", "0.5,0.2",
                   "--max-divergence", "99"),
    "aot.bench.video/2": ("bench", "video", "CLIP", "SMALL", *SHORT, "--rounds", "1"),
    "aot.bench.compressor/1": ("bench", "compressor", "--frames", "4", "--grid", "6", "--width", "16", "--anchors",
                               "8", "--rounds", "1"),
    "aot.demo/1": ("demo",),
    "aot.methods/1": ("methods",),
    "aot.method/1": ("methods", "holitom"),
    "aot.presets/1": ("presets", "list"),
    "aot.preset/1": ("presets", "show", "default"),
    "aot.settings/1": ("settings",),
    "aot.settings.resolved/1": ("settings", "--show", "--frames", "3"),
    "aot.doctor/1": ("doctor",),
    "aot.error/1": ("inspect", "nope.mp4"),
}  # fmt: skip


def words(line: tuple[str, ...], clip: Path, small: tuple[str, ...]) -> Iterator[str]:
    for word in line:
        yield from small if word == "SMALL" else (str(clip) if word == "CLIP" else word,)


def test_every_object_has_a_command() -> None:
    assert set(COMMANDS) == set(OBJECTS)


@pytest.mark.parametrize("schema", COMMANDS)
def test_objects_are_as_documented(
    schema: str, run_aot: Aot, small: tuple[str, ...], clip_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And hold every note that stderr has; `--quiet` changes nothing but stderr."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("what happens?"))
    run = run_aot(*words(COMMANDS[schema], clip_file, small), "--json")
    found = valid_json(run)
    assert found["schema"] == schema
    assert problems(found) == []
    assert found["notices"] == said(run)
    for name in found:
        assert problems({key: value for key, value in found.items() if key != name}) or is_optional(schema, name)


def is_optional(schema: str, name: str) -> bool:
    return any(key.name == name and key.optional for key in OBJECTS[schema])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda found: found.update(more=1), "more is not documented"),
        (lambda found: found.update(kept_tokens=1.5), "no integer"),
        (lambda found: found.update(kept_tokens=True), "no integer"),
        (lambda found: found.update(kept_tokens=None), "no integer"),
        (lambda found: found["frames"][1].pop("own"), "frames.1.own is missing"),
        (lambda found: found["frames"][1].update(similarity="high"), "no number"),
        (lambda found: found["stage_ms"].update(decode="slow"), "stage_ms.decode"),
        (lambda found: found.update(clips={}), "clips is a dict"),
        (lambda found: found.update(schema="aot.compress/9"), "no schema"),
    ],
)
def test_the_check_finds_differences(change: Any, says: str, run_aot: Aot, small_report: dict[str, Any]) -> None:
    found = copy.deepcopy(small_report)
    assert problems(found) == []
    change(found)
    assert says in "; ".join(problems(found))


@pytest.fixture
def small_report(run_aot: Aot, small: tuple[str, ...], clip_file: Path) -> dict[str, Any]:
    found = valid_json(run_aot("compress", clip_file, "-o", "t.pt", "--report", "r.json", "--json", *small))
    assert json.loads(Path("r.json").read_text(encoding="utf-8")) == found
    return found


def test_commands_that_compress_have_the_same_keys(
    run_aot: Aot, small: tuple[str, ...], clip_file: Path, small_report: dict[str, Any]
) -> None:
    """Whatever the command, also of a tokens file; the file's times are not those of this run."""
    own = {"tokens_file", "report_file", "page_file", "schema"}
    shared = set(small_report) - own
    asked = valid_json(run_aot("ask", "t.pt", "what?", "--model", small[1], *SHORT, "--json"))
    assert problems(asked) == []
    assert asked["stage_ms"] == {}
    assert asked["peak_bytes"].get("host", 0) >= small_report["peak_bytes"].get("host", 0)
    for found in (asked, valid_json(run_aot("inspect", "t.pt", "--json"))):
        assert problems(found) == []
        assert shared <= set(found)
        assert [found[name] for name in ("frames", "clips")] == [small_report[name] for name in ("frames", "clips")]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("ask",), 2),
        (("ask", "a.mp4", "what?", "--frames", "many"), 2),
        (("ask", "a.mp4", "what?", "--nonsense"), 2),
        (("nonsense",), 2),
        (("methods", "nonsense"), 2),
        (("presets", "show", "nonsense"), 2),
        (("eval", "-o", "out"), 2),
        (("inspect", "nope.mp4"), 3),
        (("ask", "CLIP", "what?", "--model", "./nope"), 4),
        (("inspect", "CLIP", "--quiet"), 1),
    ],
)
def test_failures_are_objects(
    run_aot: Aot, clip_file: Path, arguments: tuple[str, ...], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if code == 1:
        monkeypatch.setattr("aot_cli.commands.inspect.describe_video", lambda *given: 1 / 0)
    run = run_aot(*words(arguments, clip_file, ()), "--json")
    found = valid_json(run)
    assert problems(found) == []
    assert run.code == found["exit_code"] == code
    assert found["schema"] == "aot.error/1"
    assert " ".join(found["error"].split()[:3]) in " ".join(run.err.split())


def test_an_interruption_is_an_object(run_aot: Aot, clip_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*given: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("aot_cli.commands.inspect.describe_video", interrupt)
    found = valid_json(run_aot("inspect", clip_file, "--json"))
    assert (found["exit_code"], found["error"]) == (130, "interrupted")


def test_a_question_may_be_called_json(run_aot: Aot) -> None:
    """What follows -- is no flag."""
    assert run_aot("inspect", "--nonsense", "--", "--json").out == ""


def test_numbers_that_json_lacks_are_null() -> None:
    value = {"a": math.nan, "b": [math.inf, 1.0], "c": ({"d": -math.inf},), "e": True, "f": "NaN"}
    assert json.loads(json_text(value)) == {"a": None, "b": [None, 1.0], "c": [{"d": None}], "e": True, "f": "NaN"}
