"""What a command needs is made once and passed on: the configuration, a video's index, the method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aot.compression import methods
from aot.video import file
from aot_cli import given_settings
from tests.support.cli_run import Aot

SMALL = ("--model", "shapes", "--frames", "4")
COMMANDS = {
    "ask": (["ask", "clip.mp4", "what happens?", *SMALL], 1),
    "compress": (["compress", "clip.mp4", "-o", "kept.pt", *SMALL], 1),
    "batch": (["batch", "clip.mp4", "-q", "what happens?", "-o", "batch", *SMALL], 1),
    "inspect": (["inspect", "clip.mp4", *SMALL], 1),
    # The reference, and each method.
    "compare": (["compare", "clip.mp4", "what happens?", "--methods", "none,aot,uniform", *SMALL], 1 + 3),
    # The needs and the notes of the condition, its run, and the full-token model.
    "tune": (
        ["tune", "clip.mp4", "-q", "what?", "--methods", "uniform", "-r", "0.5", "--max-divergence", "99", *SMALL],
        3,
    ),
    "eval": (["eval", "data.jsonl", "-o", "out", "--methods", "none,uniform", "--ratios", "0.5", *SMALL], 2),
}


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    found = {"configurations": 0, "indices": 0, "methods": 0}

    def counted(name: str, function: Any) -> Any:
        def run(*arguments: Any) -> Any:
            found[name] += 1
            return function(*arguments)

        return run

    monkeypatch.setattr(given_settings, "build_layers", counted("configurations", given_settings.build_layers))
    monkeypatch.setattr(file, "index_file", counted("indices", file.index_file))
    monkeypatch.setattr(methods, "make_method", counted("methods", methods.make_method))
    return found


@pytest.mark.parametrize("name", COMMANDS)
def test_each_is_made_once(name: str, run_aot: Aot, clip_file: Path, counts: dict[str, int]) -> None:
    Path("clip.mp4").symlink_to(clip_file)
    Path("data.jsonl").write_text('{"video": "clip.mp4", "question": "what happens?", "answer": "nothing"}\n')
    words, built = COMMANDS[name]
    run = run_aot(*words)
    assert run.code == 0, run.err
    assert counts == {"configurations": 1, "indices": 1, "methods": built}
