"""`aot eval` from its command line to its files."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from cli_run import Aot

QUICK = ("--ratios", "0.5", "--methods", "none,random,aot", "--max-new-tokens", "6")


def test_the_bundled_world(run_aot: Aot, small: tuple[str, ...]) -> None:
    first = run_aot("eval", "--shapes", "2", "-o", "out", *small, *QUICK, "--json")
    assert first.code == 0, first.err
    results = first.json
    assert [row["name"] for row in results["conditions"]] == ["none", "random", "aot"]
    assert [row["kept_tokens"] for row in results["conditions"]] == [200, 100, 100]
    assert results["videos"] == 2
    assert results["config"]["model"]["name"]
    assert "torch" in results["versions"]
    written = {path.name for path in Path("out").iterdir()}
    assert written >= {"results.json", "results.csv", "answers.jsonl", "run.json", "accuracy.svg", "accuracy.png"}
    assert json.loads(Path("out/results.json").read_text()) == results

    answers = Path("out/answers.jsonl").read_bytes()
    again = run_aot("eval", "--shapes", "2", "-o", "out", *small, *QUICK)
    assert again.code == 0, again.err
    assert Path("out/answers.jsonl").read_bytes() == answers
    assert "against none" in again.out
    assert "describe" in again.out


def test_data_of_ones_own(run_aot: Aot, small: tuple[str, ...], clip_file: Path) -> None:
    rows = [
        {"video": str(clip_file), "question": "what moves?", "answer": "B", "options": ["a wave", "a square"]},
        {"video": str(clip_file), "question": "what colour is it?", "answer": "red", "family": "colour"},
    ]
    Path("mine.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    variant = ("--variant", "once:aot.inter.keyframe=original,aot.clips.frames=2")
    run = run_aot("eval", "mine.jsonl", "-o", "out", *small, *QUICK, *variant, "--json")
    assert run.code == 0, run.err
    assert [row["name"] for row in run.json["conditions"]] == ["none", "random", "aot", "once"]
    assert run.json["families"] == {"all": 1, "colour": 1}


def test_without_matplotlib_there_is_all_but_the_plot(
    run_aot: Aot, small: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    run = run_aot("eval", "--shapes", "1", "-o", "out", *small, "--methods", "uniform", "--ratios", "0.5",
                  "--max-new-tokens", "2")  # fmt: skip
    assert run.code == 0, run.err
    assert "aot[plot]" in run.err
    assert "accuracy.svg" not in run.out
    assert not Path("out/accuracy.svg").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "give one data set"),
        (("x.jsonl", "--shapes", "2"), "give one data set"),
        (("x.jsonl",), "x.jsonl cannot be read"),
        (("--shapes", "1", "--ratios", "half"), "not numbers"),
        (("--shapes", "1", "--ratios", "1.5"), "(0, 1]"),
        (("--shapes", "1", "--methods", "magic"), "magic"),
        (("--shapes", "1", "--methods", ""), "nothing to compare"),
        (("--shapes", "1", "--variant", "aot.inter.enabled=false"), "NAME:PATH=VALUE"),
        (("--shapes", "1", "--variant", "x:sampling.frames=3"), "same for all conditions"),
    ],
)
def test_bad_requests_leave_nothing(
    run_aot: Aot, small: tuple[str, ...], arguments: tuple[str, ...], says: str
) -> None:
    run = run_aot("eval", *arguments, "-o", "out", *small)
    assert run.code == 2
    assert says in run.err
    assert len(run.err.strip().splitlines()) == 1
    assert not Path("out").exists()


def test_another_run_needs_another_folder(run_aot: Aot, small: tuple[str, ...]) -> None:
    arguments = ("eval", "--shapes", "1", "-o", "out", "--methods", "uniform", "--ratios", "0.5",
                 "--max-new-tokens", "2")  # fmt: skip
    assert run_aot(*arguments, *small).code == 0
    run = run_aot(*arguments, *small, "--seed", "3")
    assert run.code == 2
    assert "config.generation.seed" in run.err
    assert run_aot(*arguments, *small, "--seed", "3", "--restart").code == 0
