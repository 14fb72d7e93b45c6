"""What loads when, presets, doctor, help."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from aot_cli.main import COMMANDS, load_command
from tests.support.cli_run import Aot

LIBRARIES = {"torch", "transformers", "av", "decord", "matplotlib", "numpy"}


@pytest.mark.parametrize(
    ("arguments", "loads"),
    [
        (("--help",), set()),
        (("ask", "--help"), set()),
        (("presets", "list"), set()),
        (("methods",), set()),
        (("methods", "holitom"), set()),
        (("settings",), set()),
        (("settings", "--show", "--method", "fastvid"), set()),
        (("inspect", "CLIP"), {"av"}),
        (("ask", "TOKENS", "what?", "--model", "MODEL", "--max-new-tokens", "1"), {"torch", "transformers", "numpy"}),
    ],
    ids=[
        "help",
        "help of a command",
        "presets",
        "methods",
        "a method",
        "settings",
        "values",
        "inspect",
        "ask a tokens file",
    ],
)
def test_no_command_pays_for_what_it_does_not_use(
    arguments: tuple[str, ...], loads: set[str], clip_file: Path, small_folder: Path, run_aot: Aot
) -> None:
    places = {"CLIP": str(clip_file), "MODEL": str(small_folder), "TOKENS": "tokens.pt"}
    line = [places.get(word, word) for word in arguments]
    if "TOKENS" in arguments:
        assert run_aot("compress", clip_file, "-o", "tokens.pt", "--model", small_folder, "--frames", "4").code == 0
    code = (
        "import sys, json\n"
        "from aot_cli.entry import main\n"
        f"sys.argv = ['aot', *{line!r}]\n"
        "try: main()\n"
        "except SystemExit as left: assert not left.code\n"
        f"print(json.dumps(sorted({LIBRARIES!r} & set(sys.modules))), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(json.loads(done.stderr.splitlines()[-1])) <= loads


@pytest.mark.parametrize(
    "line",
    ["ask no.mp4 what?", "chat no.mp4", "compress no.mp4", "inspect no.mp4", "compare no.mp4 what?", "eval -o out",
     "tune no.mp4 -q what?", "tune",
     "bench video no.mp4", "bench compressor --anchors 99999"],
)  # fmt: skip
def test_a_wrong_line_does_not_wait_for_torch(line: str, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from aot_cli.entry import main\n"
        f"sys.argv = ['aot', *{line.split()!r}]\n"
        "try: main()\n"
        "finally: print('torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode in (2, 3), done.stderr
    assert done.stdout == "False\n"


def test_help_imports_no_command() -> None:
    code = (
        "import sys, json\n"
        "from aot_cli.entry import main\n"
        "sys.argv = ['aot', '--help']\n"
        "try: main()\n"
        "except SystemExit as left: assert not left.code\n"
        "print(json.dumps(list(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = json.loads(done.stderr.splitlines()[-1])
    assert "aot_cli.main" in loaded
    assert not [name for name in loaded if name.startswith(("aot_cli.commands", "aot.config", "yaml", *LIBRARIES))]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_line_of_the_table_begins_the_help_of_its_command(name: str) -> None:
    assert load_command(name).help.startswith(COMMANDS[name][1])


def test_the_process_ends_without_taking_the_libraries_apart() -> None:
    code = (
        "import atexit, sys\n"
        "from aot_cli import entry\n"
        "class Defined:\n"
        "    def __del__(self): print('taken apart')\n"
        "defined, main = Defined(), entry.main\n"
        "def registering():\n"
        "    atexit.register(print, 'at exit')\n"  # as libraries do
        "    main()\n"
        "entry.main, sys.argv = registering, ['aot', 'presets', 'show', 'nope', '--json']\n"
        "entry.script()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout.endswith("}\nat exit\n")


def test_console_script_is_installed() -> None:
    script = Path(sys.executable).parent / "aot"
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("aot 0.")


def test_help_names_every_setting_with_its_variable(run_aot: Aot) -> None:
    run = run_aot("compress", "--help")
    for word in ("--ratio", "--clip-frames", "--siglip-head", "--set", "--preset", "--json"):
        assert word in run.out


def test_presets(run_aot: Aot) -> None:
    names = [entry["name"] for entry in run_aot("presets", "list", "--json").json["presets"]]
    assert "paper/onevision-r10" in names
    assert run_aot("presets", "show", "paper/onevision-r10").out.startswith("# aot compress")
    assert run_aot("presets", "show", "paper/onevision-r10", "--json").json["config"]["aot"]["anchors"]["count"] == 126
    assert run_aot("presets", "show", "nope").code == 2


def test_doctor(run_aot: Aot) -> None:
    found = run_aot("doctor", "--json").json
    assert found["versions"]["torch"]
    assert "cpu" in found["devices"]
    assert found["decoders"]["pyav"]
    assert "HF_HUB_OFFLINE" in run_aot("doctor").out


def test_usual_ways_to_ask_for_version_and_help(run_aot: Aot) -> None:
    version = run_aot("--version").out
    assert run_aot("-V").out == run_aot("version").out == version
    assert run_aot("help").out == run_aot("-h").out == run_aot("--help").out
    for command in (["ask"], ["bench"], ["bench", "video"]):
        shown = run_aot("help", *command)
        assert shown.code == 0
        assert shown.out == run_aot(*command, "--help").out == run_aot(*command, "-h").out
    unknown = run_aot("help", "asc")
    assert unknown.code == 2
    assert "No such command 'asc'" in unknown.err


@pytest.mark.parametrize(
    "command",
    [("ask", "", "what?"), ("inspect", ""), ("compress", ""), ("compare", "", "what?"), ("bench", "video", "")],
    ids=lambda command: command[0],
)
def test_an_empty_name(run_aot: Aot, command: tuple[str, ...]) -> None:
    run = run_aot(*command)
    assert run.code == 3
    assert run.err == "aot: the name of the video is empty: name a video file\n"


def test_tables_in_a_pipe_have_no_trailing_blanks(run_aot: Aot) -> None:
    for command in (("methods",), ("presets", "list")):
        out = run_aot(*command).out
        assert out and all(line == line.rstrip() for line in out.splitlines())


@pytest.mark.parametrize("columns", ["0", "\N{SUPERSCRIPT TWO}", "9" * 5000, "-1", "wide", ""])
@pytest.mark.parametrize("words", [("--help",), ("presets", "list")])
def test_a_width_that_no_terminal_has(
    run_aot: Aot, monkeypatch: pytest.MonkeyPatch, columns: str, words: tuple[str, ...]
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    expected = run_aot(*words)
    monkeypatch.setenv("COLUMNS", columns)
    assert run_aot(*words) == expected
    assert expected.code == 0 and expected.out
