"""A model is never chosen by a file, and nothing is fetched by a command that was not told to: with a stand-in hub."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from aot_cli.main import COMMANDS, load_command
from tests.support.cli_run import Aot
from tests.support.stand_in_hub import SOME_MODEL, StandInHub

SHORT = ("--frames", "4", "--max-new-tokens", "2")
QUESTION = "what happens?"
Line = tuple[str | Path, ...]
Named = Callable[..., Path]


@pytest.fixture
def named(run_aot: Aot, clip_file: Path, tmp_path: Path) -> Named:
    """named(model): a tokens file that says that this model made it."""
    made = tmp_path / "shapes.pt"
    assert run_aot("compress", clip_file, "-o", made, "--model", "shapes", "--frames", "4").code == 0
    content: dict[str, Any] = torch.load(made, weights_only=True)

    def name(model: str, revision: str | None = None) -> Path:
        content["report"]["model"]["name"] = model
        content["report"]["config"]["model"] |= {"name": model, "revision": revision}
        path = tmp_path / "named.pt"
        torch.save(content, path)
        return path

    return name


@pytest.fixture
def hostile_folder(small_folder: Path, tmp_path: Path) -> Path:
    """A model whose files name repositories and code wherever libraries may look for them."""
    folder = tmp_path / "hostile"
    shutil.copytree(small_folder, folder)
    code = {"AutoConfig": f"{SOME_MODEL}--code.Config", "AutoModelForImageTextToText": f"{SOME_MODEL}--code.Model"}
    code |= {"AutoTokenizer": [f"{SOME_MODEL}--code.Tokenizer", f"{SOME_MODEL}--code.Tokenizer"]}
    names = {"_name_or_path": SOME_MODEL, "name_or_path": SOME_MODEL, "_commit_hash": "main", "auto_map": code}
    for path in folder.glob("*.json"):
        content = json.loads(path.read_text())
        if path.name == "tokenizer.json" or not isinstance(content, dict):
            continue
        if path.name == "config.json":
            for part in ("text_config", "vision_config"):
                content[part] |= names
        path.write_text(json.dumps(content | names))
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": SOME_MODEL, **names}))
    (folder / "code.py").write_text("raise SystemExit('code of a checkpoint was run')")
    return folder


@pytest.fixture
def results(run_aot: Aot, clip_file: Path, tmp_path: Path) -> Path:
    """A folder of `aot eval`, with a data set, whose files say that a model of the hub answered."""
    folder = tmp_path / "results"
    row = {"video": str(clip_file), "question": QUESTION, "answer": "no", "model": SOME_MODEL}
    data = tmp_path / "questions.jsonl"
    data.write_text(json.dumps(row) + "\n")
    line = ("eval", data, "-o", folder, "--model", "shapes", "--methods", "none", "--ratios", "1", *SHORT)
    assert run_aot(*line).code == 0
    description = json.loads((folder / "run.json").read_text())
    description["model"]["name"] = SOME_MODEL
    (folder / "run.json").write_text(json.dumps(description))
    return folder


def commands() -> Iterator[str]:
    """Every command of the program, for instance "bench video"."""
    yield from ("help", "version")
    for name in COMMANDS:
        for part in getattr(load_command(name), "commands", [""]):
            yield f"{name} {part}".strip()


def lines(tokens: Path, folder: Path, clip: Path, results: Path) -> dict[str, list[tuple[int, Line]]]:
    """For every command how it may meet files that name a model of the hub, and the exit code."""
    of_folder = ("--model", folder, "--frames", "4")
    questions = (results.parent / "questions.jsonl", "-o", results, "--methods", "none", "--ratios", "1", *SHORT)
    return {
        "ask": [
            (4, ("ask", tokens, QUESTION)),
            (4, ("ask", tokens, QUESTION, "--json")),
            (0, ("ask", tokens, QUESTION, "--model", "shapes", "--max-new-tokens", "2")),
            (0, ("ask", clip, QUESTION, *of_folder, "--max-new-tokens", "2", "--ratio", "1")),
        ],
        "chat": [
            (4, ("chat", tokens)),
            (0, ("chat", tokens, "--model", "shapes", "--max-new-tokens", "2")),
            (0, ("chat", clip, *of_folder, "--max-new-tokens", "2", "--json")),
        ],
        "compress": [(3, ("compress", tokens)), (0, ("compress", clip, "-o", "t.pt", *of_folder))],
        "batch": [
            (1, ("batch", tokens, "-o", "batch", "--model", "shapes")),
            (0, ("batch", clip, "-q", QUESTION, "-o", "other", *of_folder, "--max-new-tokens", "2")),
        ],
        # It reads no file before a request does; a server that runs is in tests/serving.
        "serve": [(2, ("serve", "--allow", tokens, "--model", "shapes"))],
        "export": [(0, ("export", folder, "-o", "language-model")), (4, ("export", tokens, "-o", "exported"))],
        "inspect": [(0, ("inspect", tokens)), (0, ("inspect", clip)), (0, ("inspect", clip, *of_folder))],
        "compare": [
            (3, ("compare", tokens, QUESTION)),
            (0, ("compare", clip, QUESTION, *of_folder, "--max-new-tokens", "2", "--methods", "none,aot")),
        ],
        "eval": [
            (2, ("eval", *questions, "--model", "shapes")),  # of another run
            (0, ("eval", *questions, "--model", "shapes", "--restart")),
            (2, ("eval", tokens, "-o", "out")),
        ],
        "tune": [
            (3, ("tune", tokens, "-q", QUESTION, "--model", "shapes")),
            (1, ("tune", clip, "-q", QUESTION, *of_folder, "--methods", "uniform", "-r", "0.1")),
        ],
        "bench video": [
            (3, ("bench", "video", tokens)),
            (0, ("bench", "video", clip, *of_folder, "--rounds", "1", "--max-new-tokens", "2")),
        ],
        "bench compressor": [(0, ("bench", "compressor", "--frames", "4", "--width", "32", "--rounds", "1"))],
        "demo": [(0, ("demo",))],
        "doctor": [(0, ("doctor",)), (0, ("doctor", "--json"))],
        "methods": [(0, ("methods",)), (0, ("methods", "aot"))],
        "presets list": [(0, ("presets", "list"))],
        "presets show": [(0, ("presets", "show", "shapes"))],
        "settings": [(0, ("settings",)), (0, ("settings", "--show"))],
        "help": [(0, ("help", "ask"))],
        "version": [(0, ("version",))],
    }


def test_no_command_fetches_what_a_file_names(
    run_aot: Aot,
    hub: StandInHub,
    named: Named,
    hostile_folder: Path,
    clip_file: Path,
    results: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr(sys, "stdin", io.StringIO("what happens?"))  # of `aot chat`
    cases = lines(named(SOME_MODEL), hostile_folder, clip_file, results)
    assert sorted(cases) == sorted(commands()), "a new command needs a line here"
    hub.requests.clear()
    for code, line in (case for of_command in cases.values() for case in of_command):
        run = run_aot(*line)
        assert run.code == code, (line, run.err)
        assert not hub.requests, line
        assert "hf_secret" not in run.out + run.err
    assert not hub.tokens


def test_the_stand_in_sees_a_fetch_with_the_token(
    run_aot: Aot, hub: StandInHub, named: Named, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the test above relies on."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    run_aot("ask", named(SOME_MODEL), QUESTION, "--model", SOME_MODEL)
    assert hub.served("safetensors") and "Bearer hf_secret" in hub.tokens


# --- What a tokens file names


def test_a_folder_is_loaded_only_if_the_user_names_it(run_aot: Aot, clip_file: Path, small_folder: Path) -> None:
    assert run_aot("compress", clip_file, "-o", "t.pt", "--model", small_folder, "--frames", "4").code == 0
    run = run_aot("ask", "t.pt", QUESTION)
    assert run.code == 4
    assert f"the model in the folder {small_folder}" in run.err
    assert f"--model {small_folder} loads it" in run.err
    assert run_aot("ask", "t.pt", QUESTION, "--model", small_folder, "--max-new-tokens", "2").code == 0


@pytest.mark.parametrize("how", ["variable", "aot.yaml"])
def test_settings_name_it_too(
    run_aot: Aot, clip_file: Path, small_folder: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_aot("compress", clip_file, "-o", "t.pt", "--model", small_folder, "--frames", "4").code == 0
    if how == "variable":
        monkeypatch.setenv("AOT_MODEL", str(small_folder))
    else:
        Path("aot.yaml").write_text(f"model: {{name: {small_folder}}}")
    assert run_aot("ask", "t.pt", QUESTION, "--max-new-tokens", "2").code == 0


def test_a_folder_that_is_called_like_a_cached_model_is_a_folder(
    run_aot: Aot, hub: StandInHub, clip_file: Path, small_folder: Path
) -> None:
    """The loaders take a folder of that name before the cache."""
    line = ("compress", clip_file, "-o", "t.pt", "--model", SOME_MODEL, "--frames", "4")
    assert run_aot(*line).code == 0
    assert run_aot("ask", "t.pt", QUESTION, "--max-new-tokens", "2").code == 0
    shutil.copytree(small_folder, Path(SOME_MODEL))
    assert run_aot("ask", "t.pt", QUESTION, "--max-new-tokens", "2").code == 4


def test_another_revision_is_another_model(run_aot: Aot, hub: StandInHub, named: Named) -> None:
    run = run_aot("ask", named(SOME_MODEL, "a branch"), QUESTION)
    assert run.code == 4
    assert f"--model {SOME_MODEL} --revision 'a branch' fetches it" in run.err
    assert not hub.requests


def test_a_name_is_not_endless(run_aot: Aot, named: Named) -> None:
    run = run_aot("ask", named("x" * 5000), QUESTION)
    assert run.code == 1
    assert "the model's name is too long" in run.err and len(run.err) < 500


# --- Asked in a terminal


@pytest.fixture
def terminal(run_aot: Aot, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """terminal(text): the user sits at a terminal and types this."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    def typed(text: str) -> None:
        monkeypatch.setattr(sys, "stdin", Terminal(text))
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
        monkeypatch.setattr("aot_cli.session.Session.shows_progress", False)

    return typed


@pytest.mark.parametrize("answer", ["", "\n", "n\n", "yesterday\n"])
def test_no_is_the_default(
    run_aot: Aot, hub: StandInHub, named: Named, terminal: Callable[[str], None], answer: str
) -> None:
    terminal(answer)
    run = run_aot("ask", named(SOME_MODEL), QUESTION)
    assert run.code == 4
    assert f"was made by {SOME_MODEL}, which is not on this machine; fetch it from 127.0.0.1" in run.err
    assert "[y/N]" in run.err
    assert not hub.requests


def test_yes_fetches_it(
    run_aot: Aot, hub: StandInHub, clip_file: Path, hub_cache: Path, terminal: Callable[[str], None]
) -> None:
    line = ("compress", clip_file, "-o", "t.pt", "--model", SOME_MODEL, "--frames", "4")
    assert run_aot(*line).code == 0
    hub_cache.rename(hub_cache.with_name("gone"))
    terminal("Y\n")
    run = run_aot("ask", "t.pt", QUESTION, "--max-new-tokens", "2")
    assert run.code == 0, run.err
    assert hub.served("safetensors")


def test_a_name_cannot_command_the_terminal(
    run_aot: Aot, hub: StandInHub, named: Named, terminal: Callable[[str], None]
) -> None:
    terminal("n\n")
    run = run_aot("ask", named("some/\x1b[2J\r\nmodel"), QUESTION)
    assert run.code == 4
    assert len(run.err.splitlines()) == 1  # the typed newline is not echoed here
    assert "some/\N{REPLACEMENT CHARACTER}[2J" in run.err


@pytest.mark.parametrize("flag", ["--json", "--quiet"])
def test_who_asks_for_silence_is_not_asked(
    run_aot: Aot, named: Named, terminal: Callable[[str], None], flag: str
) -> None:
    terminal("y\n")
    run = run_aot("ask", named(SOME_MODEL), QUESTION, flag)
    assert run.code == 4
    assert "[y/N]" not in run.err
