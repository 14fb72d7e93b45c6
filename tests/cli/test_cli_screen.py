"""What others have written is text: nothing of it is markup, and nothing of it is an order to the terminal."""

from __future__ import annotations

import ast
import io
import json
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

import aot_cli
from aot_cli.output.console import StageBars, json_text
from aot_cli.output.safe_console import SafeConsole
from aot_cli.output.screen import one_line, visible
from aot_cli.session import Session, begin
from tests.support.cli_run import Aot, Run

# Brackets as yt-dlp writes them, a closing tag, an escape sequence, a link (OSC 8), C1 CSI, a newline, an override.
HOSTILE = "My clip [dQw4w9WgXcQ] [/b] [red] :smile: \x1b[31m \x1b]8;;http:evil\x07here \x9b2J \n new \u202e4pm \x7f.mp4"
SHOWN = "My clip [dQw4w9WgXcQ] [/b] [red] :smile: \ufffd[31m \ufffd]8;;http:evil\ufffdhere \ufffd2J"
UNSAFE = ("\x1b", "\x07", "\x9b", "\x7f", "\u202e", "\r")


@pytest.fixture
def hostile(clip_file: Path, tmp_path: Path) -> Path:
    path = tmp_path / HOSTILE  # with a folder, as it has a slash
    path.parent.mkdir()
    (tmp_path / "here" / HOSTILE).parent.mkdir()
    path.write_bytes(clip_file.read_bytes())
    return path


def check(run: Run, code: int = 0) -> str:
    """Return all that was printed, on one line and without the padding of tables."""
    assert run.code == code, run.err
    assert not [letter for letter in UNSAFE if letter in run.out + run.err]
    return " ".join((run.out + run.err).split())


def test_names_in_tables(run_aot: Aot, hostile: Path, small: tuple[str, ...]) -> None:
    plain = run_aot("inspect", hostile)
    assert SHOWN in check(plain)
    assert "\n new" not in plain.out  # nor does a name write lines of its own
    assert SHOWN in check(run_aot("inspect", hostile, *small))


def test_names_of_files_that_are_written(run_aot: Aot, hostile: Path, small: tuple[str, ...]) -> None:
    page = HOSTILE.replace(".mp4", ".html")
    told = check(run_aot("compress", hostile, "-o", HOSTILE + ".pt", "--html", page, "--verbose", *small))
    assert f"the page is in {SHOWN}" in told
    assert told.endswith(".mp4.pt") or f"{SHOWN} new \ufffd4pm \ufffd.mp4.pt" in told
    assert SHOWN in check(run_aot("inspect", HOSTILE + ".pt"))
    assert SHOWN in check(run_aot("compress", hostile, "-o", HOSTILE + ".pt", *small), 1)


def test_json_holds_the_name_itself(run_aot: Aot, hostile: Path) -> None:
    run = run_aot("inspect", hostile, "--json")
    check(run)
    assert run.json["video"]["path"].endswith(HOSTILE)
    lone = "\udcff"  # what Python makes of a byte that is not UTF-8
    assert json.loads(json_text({"a": HOSTILE + lone}, ascii_only=False))["a"] == HOSTILE + lone
    assert json_text({"a": "\x9b" + lone}, ascii_only=False) == '{\n  "a": "\\u009b\\udcff"\n}'


@pytest.mark.parametrize("debug", [(), ("--debug",)])
def test_errors(run_aot: Aot, debug: tuple[str, ...], hostile: Path) -> None:
    assert SHOWN in check(run_aot("inspect", HOSTILE, *debug), 3)
    hostile.write_text("no video")
    assert SHOWN in check(run_aot("inspect", hostile, *debug), 3)


@pytest.mark.parametrize(
    "line", [("inspect", "a", HOSTILE), (HOSTILE,), ("--" + HOSTILE,), ("bench", HOSTILE), ("presets", "show", HOSTILE)]
)
def test_a_wrong_command_line(run_aot: Aot, line: tuple[str, ...]) -> None:
    check(run_aot(*line), 2)
    check(run_aot(*line, "--json"), 2)


def test_what_a_model_says(
    run_aot: Aot, hostile: Path, small: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Reply(list[str]):
        prompt_tokens = output_tokens = 1
        layer_tokens = (1,)
        first_token_at = None
        notices = ()

        def __iter__(self) -> Generator[str, None, None]:
            yield from list.__iter__(self)

    said = Reply(["one [/b]\n\ttwo \x1b", "[2J\r\x07 [red]three"])
    monkeypatch.setattr("aot.pipeline.run.Pipeline.answers", lambda self, tokens, questions: iter([said] * 9))
    run = run_aot("ask", hostile, "-q", HOSTILE, "-q", "what?", "--method", "none", *small)
    check(run)
    assert run.out.count("A: one [/b]\n\ttwo \ufffd[2J\ufffd\ufffd [red]three\n") == 2
    assert f"Q: {visible(HOSTILE)}\n" in run.out
    run = run_aot("ask", hostile, HOSTILE, "--method", "none", *small, "--json")
    check(run)
    assert run.json["answer"] == "".join(said)


def test_questions_in_a_comparison(run_aot: Aot, hostile: Path, small: tuple[str, ...]) -> None:
    line = ("compare", hostile, HOSTILE, "--methods", "none,uniform", "--max-new-tokens", "2", *small)
    assert SHOWN in check(run_aot(*line))


def test_families_and_variants_in_an_evaluation(
    run_aot: Aot, clip_file: Path, small: tuple[str, ...], tmp_path: Path
) -> None:
    names = ("[/x]", "[red]", "a\x1b[31m")
    rows = [{"video": str(clip_file), "question": "what?", "answer": "a", "family": name} for name in names]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    line = ("eval", tmp_path / "data.jsonl", "-o", "results", "--methods", "aot", "--ratios", "0.5")
    run = run_aot(*line, "--variant", "[/v]\x1b:aot.inter.enabled=false", "--max-new-tokens", "2", *small)
    for name in ("[/x]", "[red]", "a\ufffd[31m", "[/v]\ufffd"):
        assert name in check(run)


def test_progress_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with begin(Session()), StageBars() as bars:
        bars("fetch [/b]\x1b]0;title\x07", 1, 2)
    assert "fetch [/b]\ufffd]0;" in terminal.getvalue()


def test_a_terminal_still_gets_colors() -> None:
    console = SafeConsole(file=io.StringIO(), force_terminal=True, color_system="truecolor", _environ={})
    console.print("[red]\x1b[2J", style="bold #56B4E9")
    assert console.file.getvalue() == "\x1b[1;38;2;86;180;233m[red]\ufffd[2J\x1b[0m\n"


def test_other_scripts_are_left_alone() -> None:
    for text in ("naïve café 日本語 🎬👩\u200d🚀", "שלום\u200f עולם", "می\u200c", "a\tb\nc", "x\u00a0y"):
        assert visible(text) == text
    assert one_line("a\tb\nc\x1b") == "a b c\ufffd"


def _name_of(call: ast.Call) -> str:
    return ast.unparse(call.func)


@pytest.mark.parametrize("path", sorted(Path(aot_cli.__file__).parent.rglob("*.py")), ids=lambda path: path.name)
def test_nothing_is_printed_in_another_way(path: Path) -> None:
    calls = {_name_of(node) for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)}
    ways = {"print", "Console", "typer.echo", "typer.secho", "sys.stdout.write", "sys.stderr.write", "rich.print"}
    ways |= {"traceback.print_exc", "Text.from_markup", "Text.from_ansi"}
    assert calls & ways == ({"print"} if path.name == "screen.py" else set())
