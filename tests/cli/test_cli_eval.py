"""`aot eval` from its command line to its files."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from aot.evaluation import locked
from aot.evaluation.journal import Journal
from aot.evaluation.journal_reader import Answered
from tests.support.cli_run import Aot

QUICK = ("--ratios", "0.5", "--methods", "none,random,aot", "--max-new-tokens", "6")


def test_the_bundled_world(run_aot: Aot, small: tuple[str, ...]) -> None:
    first = run_aot("eval", "--shapes", "2", "-o", "out", *small, *QUICK, "--json")
    assert first.code == 0, first.err
    results = first.json
    assert [row["name"] for row in results["conditions"]] == ["none", "random", "aot"]
    assert [row["kept_tokens"] for row in results["conditions"]] == [200, 100, 100]
    assert results["videos"] == 2
    assert results["config"]["model"]["name"]
    assert "share of right sentences" in results["scoring"]
    assert "torch" in results["versions"]
    written = {path.name for path in Path("out").iterdir()}
    assert written >= {"results.json", "results.csv", "answers.jsonl", "run.json", "accuracy.svg", "accuracy.png"}
    assert json.loads(Path("out/results.json").read_text()) == results

    answers = Path("out/answers.jsonl").read_bytes()
    again = run_aot("eval", "--shapes", "2", "-o", "out", *small, *QUICK)
    assert again.code == 0, again.err
    assert Path("out/answers.jsonl").read_bytes() == answers
    for words in ("95 % interval", "vs none", "vs random", "1st token ms", "describe", "micro: mean over questions"):
        assert words in again.out
    assert "intervals and differences from 2 videos are not reliable" in again.err

    script = Path(__file__).parents[2] / "docs/studies/methods/table.py"
    table = subprocess.run(
        [sys.executable, script, "out", "--against", "aot"], capture_output=True, text=True, check=True
    )
    assert re.search(r"\| aot less \| 50 % \|\n.*\n\| random \| ", table.stdout)


def test_a_folder_grows(run_aot: Aot, small: tuple[str, ...]) -> None:
    rest = ("-o", "out", *small, "--methods", "uniform", "--ratios", "0.5", "--max-new-tokens", "2")
    assert run_aot("eval", "--shapes", "1", *rest).code == 0
    before = Path("out/answers.jsonl").read_bytes()
    more = run_aot("eval", "--shapes", "2", *rest, "--world", "shapes", "--json")
    assert more.json["videos"] == 2
    assert Path("out/answers.jsonl").read_bytes().startswith(before)
    assert {path.name for path in Path("out/clips").iterdir()} == {
        "questions.jsonl", "shapes-10000000.mp4", "shapes-10000001.mp4"
    }  # fmt: skip


def test_films_are_another_world(run_aot: Aot, small: tuple[str, ...]) -> None:
    rest = ("-o", "out", *small, "--methods", "uniform", "--ratios", "0.5", "--max-new-tokens", "2")
    run = run_aot("eval", "--shapes", "1", "--world", "films", *rest)
    assert run.code == 0, run.err
    assert {path.name for path in Path("out/clips").iterdir()} == {"questions.jsonl", "films-10000000.mp4"}


def test_narrow_terminals_get_more_tables_and_lose_nothing(
    run_aot: Aot, small: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("eval", "--shapes", "1", "-o", "out", *small, *QUICK)
    wide = run_aot(*arguments)
    assert wide.code == 0, wide.err
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "60")
    for columns in range(61, 125, 9):
        monkeypatch.setenv("COLUMNS", str(columns))
        assert "…" not in run_aot(*arguments).out
    monkeypatch.setenv("COLUMNS", "60")
    narrow = run_aot(*arguments)
    assert "…" not in narrow.out
    tables = narrow.out.split("micro: mean over questions")[0]
    words = [re.sub(r"\x1b\[[0-9;]*m", "", text).split() for text in (wide.out, tables)]
    assert {word for word in words[1] if word[0].isdigit()} <= set(words[0])
    assert max(len(re.sub(r"\x1b\[[0-9;]*m", "", line)) for line in tables.splitlines()) <= 60
    for column in ("tokens", "micro %", "macro %", "vs random", "answer ms", "describe", "where"):
        assert column in tables


def test_one_video_says_nothing_of_how_videos_differ(run_aot: Aot, small: tuple[str, ...]) -> None:
    run = run_aot("eval", "--shapes", "1", "-o", "out", *small, *QUICK)
    table = run.out.split("accuracy by family")[0]
    assert " to " not in table
    assert table.count("not available") == 3
    assert not re.search(r"\d\*", run.out)
    assert " about 1 video of " in run.out


def test_times_of_two_runs_are_marked(run_aot: Aot, small: tuple[str, ...]) -> None:
    rest = ("eval", "--shapes", "1", "-o", "out", *small, "--ratios", "0.5", "--max-new-tokens", "2", "--methods")
    assert "run:" not in run_aot(*rest, "uniform").out
    again = run_aot(*rest, "uniform,random").out
    assert "run: number of the run" in again
    assert re.search(r"\buniform\b.* 1 *$", again, re.MULTILINE)
    assert re.search(r"\brandom\b.* 2 *$", again, re.MULTILINE)


def test_a_busy_folder_is_refused_before_a_model_is_loaded(run_aot: Aot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aot.models.families.llava.load_network", lambda *given: 1 / 0)
    Path("out").mkdir()
    with locked(Path("out")):
        run = run_aot("eval", "--shapes", "1", "-o", "out", "--model", "shapes")
    assert run.code == 1
    assert run.err.startswith("aot: another run (process ") and len(run.err.splitlines()) == 1


def test_the_drawn_clips_are_a_data_set(run_aot: Aot, small: tuple[str, ...]) -> None:
    rest = (*small, "--methods", "uniform", "--ratios", "0.5", "--max-new-tokens", "2")
    drawn = run_aot("eval", "--shapes", "1", "-o", "out", *rest)
    named = next(line.split(":")[0] for line in drawn.out.splitlines() if "the drawn clips and" in line)
    again = run_aot("eval", named, "-o", "other", *rest)
    assert again.code == 0, again.err
    assert "a data set" not in again.out
    assert len(Path("other/answers.jsonl").read_bytes()) > 0


def test_questions_without_answers(run_aot: Aot, small: tuple[str, ...], clip_file: Path) -> None:
    rows = [{"video": str(clip_file), "question": text} for text in ("what moves?", "is it red?")]
    Path("mine.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    line = ("eval", "mine.jsonl", "-o", "out", *small, *QUICK)
    refused = run_aot(*line)
    assert refused.code == 2 and "--reference full" in refused.err
    run = run_aot(*line, "--reference", "full", "--json")
    assert run.code == 0, run.err
    found = {row["name"]: row for row in run.json["conditions"]}
    assert all(row["micro"] is None for row in found.values())
    assert found["none"]["fidelity"]["divergence"] == {"mean": 0.0, "low": None, "high": None}
    assert found["aot"]["fidelity"]["divergence"]["mean"] > 0
    written = {path.name for path in Path("out").iterdir()}
    assert written == {
        "results.json", "results.csv", "answers.jsonl", "run.json", "divergence.svg", "divergence.png", ".lock"
    } - ({".lock"} - written)  # fmt: skip
    shown = run_aot(*line, "--reference", "full").out
    assert re.search(rf"^ aot +50% .* {found['aot']['fidelity']['divergence']['mean']:.4f} ", shown, re.MULTILINE)
    assert "micro" not in shown and "by family" not in shown and "KL nats: divergence" in shown


def test_data_of_ones_own(run_aot: Aot, small: tuple[str, ...], clip_file: Path) -> None:
    rows = [
        {"video": str(clip_file), "question": "what moves?", "answer": "B", "options": ["a wave", "a square"]},
        {"video": str(clip_file), "question": "what color is it?", "answer": "red", "family": "color"},
    ]
    Path("mine.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    variant = ("--variant", "once:aot.inter.keyframe=original,aot.clips.frames=2")
    run = run_aot("eval", "mine.jsonl", "-o", "out", *small, *QUICK, *variant, "--json")
    assert run.code == 0, run.err
    assert [row["name"] for row in run.json["conditions"]] == ["none", "random", "aot", "once"]
    assert run.json["families"] == {"all": 1, "color": 1}

    asked = run_aot("ask", clip_file, "what color is it?", "--ratio", "0.5", "--max-new-tokens", "6", "--json", *small)
    answers = [json.loads(line) for line in Path("out/answers.jsonl").read_text(encoding="utf-8").split("\n")[:-1]]
    found = {(row["condition"], row["question"]): row["predicted"] for row in answers}
    assert len(answers) == len(found) == 8
    assert found["aot@0.5", "what color is it?"] == asked.json["answer"]


def test_an_interrupt_leaves_what_can_be_gone_on_with(
    run_aot: Aot, small: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("eval", "--shapes", "1", "-o", "out", *small, *QUICK)
    add = Journal.add

    def interrupted(self: Journal, answers: Sequence[Answered]) -> None:
        add(self, answers)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "add", interrupted)
        run = run_aot(*arguments)
    assert run.code == 130
    assert "the answers so far are in out; the same command continues from there" in run.err
    assert not Path("out/results.json").exists()
    before = Path("out/answers.jsonl").read_bytes()
    assert run_aot(*arguments).code == 0
    assert Path("out/answers.jsonl").read_bytes().startswith(before)


def test_a_file_in_place_of_the_folder(run_aot: Aot, small: tuple[str, ...]) -> None:
    Path("out").write_text("mine")
    run = run_aot("eval", "--shapes", "1", "-o", "out", *small)
    assert run.code == 1
    assert run.err == "aot: out is a file; name a folder\n"
    assert Path("out").read_text() == "mine"


def test_without_matplotlib_there_is_all_but_the_plot(
    run_aot: Aot, small: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    run = run_aot("eval", "--shapes", "1", "-o", "out", *small, "--methods", "uniform", "--ratios", "0.5",
                  "--max-new-tokens", "2")  # fmt: skip
    assert run.code == 0, run.err
    assert "pip install matplotlib and" in run.err
    assert "accuracy.svg" not in run.out
    assert not Path("out/accuracy.svg").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "give one data set"),
        (("x.jsonl", "--shapes", "2"), "give one data set"),
        (("x.jsonl",), "x.jsonl cannot be read"),
        (("x.jsonl", "--world", "films"), "add --shapes N"),
        (("--shapes", "1", "--ratios", "half"), "not a list of comma-separated numbers"),
        (("--shapes", "1", "--ratios", "1.5"), "(0, 1]"),
        (("--shapes", "1", "--methods", "magic"), "magic"),
        (("--shapes", "1", "--methods", ""), "nothing to compare"),
        (("--shapes", "1", "--variant", "aot.inter.enabled=false"), "NAME:PATH=VALUE"),
        (("--shapes", "1", "--variant", "x:sampling.frames=3"), "same for all conditions"),
        (("--shapes", "1", "--variant", "x:method=evs,methods.fastvid.own_weight=0.5"), "has no settings of fastvid"),
        (("--shapes", "1", "--variant", "x:method=evs,aot.inter.enabled=false"), "has no settings of aot"),
        (("--shapes", "1", "--variant", "x:ratio=1", "--variant", "x:ratio=1"), "two variants are called x"),
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
    assert "different values of generation.seed;" in run.err
    assert run_aot(*arguments, *small, "--seed", "3", "--restart").code == 0
