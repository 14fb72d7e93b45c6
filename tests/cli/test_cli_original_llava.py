"""Commands with a checkpoint in LLaVA's own layout: as with its twin in transformers' layout."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.cli_run import Aot
from tests.support.original_checkpoint import make_twins, rewrite_weights


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_twins(tmp_path_factory.mktemp("twins"))


SHORT = ("--max-new-tokens", "6", "--frames", "8")


@pytest.mark.parametrize("made_by", [0, 1])
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_tokens_of_one_are_answered_by_the_other(
    run_aot: Aot, twins: tuple[Path, Path], clip_file: Path, made_by: int, suffix: str
) -> None:
    made, other = twins[made_by], twins[1 - made_by]
    assert run_aot("compress", clip_file, "-o", f"t.{suffix}", "--model", made, *SHORT[2:]).code == 0
    answers = [run_aot("ask", f"t.{suffix}", "what happens?", "--model", each, *SHORT[:2]) for each in (made, other)]
    assert [run.code for run in answers] == [0, 0]
    assert answers[0].out == answers[1].out != ""


def test_ask_answers_as_with_the_twin(run_aot: Aot, twins: tuple[Path, Path], clip_file: Path) -> None:
    runs = [run_aot("ask", clip_file, "what happens?", "--model", folder, *SHORT) for folder in twins]
    assert [(run.code, run.err) for run in runs] == [(0, ""), (0, "")]
    assert runs[0].out == runs[1].out != ""


def test_inspect_keeps_what_it_keeps_with_the_twin(run_aot: Aot, twins: tuple[Path, Path], clip_file: Path) -> None:
    runs = [run_aot("inspect", clip_file, "--model", folder, "--frames", "8", "--json") for folder in twins]
    assert [run.code for run in runs] == [0, 0]
    original, twin = (run.json for run in runs)
    measured = {"stage_ms", "peak_bytes", "model", "config"}
    assert set(original) >= measured
    assert all(original[key] == twin[key] for key in set(original) - measured)
    assert original["model"]["fingerprint"] == twin["model"]["fingerprint"]


def test_ask_says_in_one_line_what_is_wrong(
    run_aot: Aot, twins: tuple[Path, Path], clip_file: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(twins[0], tmp_path / "copy"))
    rewrite_weights(folder, without="model.image_newline")
    run = run_aot("ask", clip_file, "what happens?", "--model", folder, *SHORT)
    assert (run.code, run.out, run.err.count("\n")) == (4, "", 1)
    assert "model.image_newline" in run.err
