"""`aot tune` from its command line to its files."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

import pytest

from aot.evaluation.answering import answer_video
from aot.shapes.clips import write_questions
from aot.tuning import is_own_preset
from aot_cli.questions import _lines
from tests.support.cli_run import Aot

QUICK = ("--model", "shapes", "--frames", "4", "--max-new-tokens", "8")
METHODS = ("--methods", "standout,uniform,random", "--ratios", "0.5,0.2,0.05")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with four clips and questions.jsonl, with four questions about each."""
    folder = tmp_path_factory.mktemp("clips")
    file = write_questions(folder, [3, 4, 5, 6])
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    kept = [row for row in rows if row["family"] in ("color", "shape", "count", "where")]
    file.write_text("".join(json.dumps(row) + "\n" for row in kept))
    return folder


def test_by_divergence_of_plain_videos(run_aot: Aot, clips: Path) -> None:
    asked = ("-q", "what happens ?", "-q", "how many objects are there ?")
    run = run_aot("tune", clips, *asked, *QUICK, *METHODS, "--max-divergence", "0.5", "--save", "mine.yaml")
    assert run.code == 0, run.err
    found = json.loads(Path("aot-tune/tune.json").read_text())
    assert (found["by"], found["videos"], found["questions"]) == ("divergence", 4, 8)
    choice = found["choice"]["measured"]
    assert f"Keep {100 * choice['ratio']:g} % with {choice['method']}: the loss is " in run.out
    assert "Sure: " in run.out and "of the answers are the same" in run.out
    assert "but from 4 videos this and all intervals are not reliable" in run.out
    assert all(each["loss"]["low"] >= 0 for each in found["measured"] if each["loss"])
    # No answer was generated, and every other condition is above the limit or was not needed.
    rows = [json.loads(line) for line in Path("aot-tune/answers.jsonl").read_text().splitlines()]
    assert {row["predicted"] for row in rows} == {""}
    assert choice["loss"]["mean"] <= 0.5
    smaller = [each for each in found["measured"] if each["ratio"] < choice["ratio"]]
    assert not any(each["state"] == "passes" for each in smaller)
    page = html.unescape(Path("aot-tune/tune.html").read_text())
    assert "aot ask clip.mp4 'what happens?' --preset mine.yaml" in page and f"aot tune {clips} -q 'what" in page
    # The preset keeps the same tokens.
    assert choice["method"] in Path("mine.yaml").read_text()
    assert "# Keep " in Path("mine.yaml").read_text() and is_own_preset(Path("mine.yaml"))
    (clip, *_) = sorted(clips.glob("*.mp4"))
    ask = run_aot("ask", clip, "what happens ?", "--preset", "mine.yaml", "--json", "--max-new-tokens", "8")
    assert ask.code == 0, ask.err
    assert ask.json["kept_tokens"] == choice["kept_tokens"]
    assert ask.json["config"]["sampling"]["frames"] == 4


def test_by_accuracy_and_again(run_aot: Aot, clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = ("tune", "--questions", clips / "questions.jsonl", *QUICK, *METHODS, "--max-loss", "12", "-o", "out")
    encoded: list[object] = []

    def counted(*given: Any, **named: Any) -> Any:
        encoded.append(given[0])
        return answer_video(*given, **named)

    monkeypatch.setattr("aot.tuning.run.answer_video", counted)
    first = run_aot(*line, "--json")
    assert first.code == 0, first.err
    found = first.json
    assert found["by"] == "accuracy" and found["choice"]["measured"]["same_answers"] is None
    assert encoded
    # The loss is that of the answers in the folder.
    rows = [json.loads(row) for row in Path("out/answers.jsonl").read_text().splitlines()]
    scores = {(row["condition"], row["item"]): row["score"] for row in rows}
    chosen = found["choice"]["measured"]
    key = f"{chosen['method']}@{chosen['ratio']:g}"
    losses = [scores["none", item] - scores[key, item] for condition, item in scores if condition == key]
    assert chosen["loss"]["mean"] == pytest.approx(100 * sum(losses) / len(losses))
    full = [score for (condition, _), score in scores.items() if condition == "none"]
    assert found["full_accuracy"] == pytest.approx(sum(full) / len(full))
    # Again: nothing is measured, and the result is the same.
    encoded.clear()
    again = run_aot(*line, "--json")
    assert (again.json, encoded) == (found, [])
    page = Path("out/tune.html").read_text()
    assert f"--method {chosen['method']} --ratio {chosen['ratio']:g}" in page
    assert found["sentences"][0] in page and "http" not in page.split("</style>")[1]


def test_interrupted_and_continued(run_aot: Aot, clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = ("tune", "--questions", clips / "questions.jsonl", *QUICK, *METHODS, "--max-loss", "12")
    whole = run_aot(*line, "-o", "whole", "--json").json
    count = 0

    def interrupted(*given: Any, **named: Any) -> Any:
        nonlocal count
        count += 1
        if count == 6:
            raise KeyboardInterrupt
        return answer_video(*given, **named)

    with monkeypatch.context() as patch:
        patch.setattr("aot.tuning.run.answer_video", interrupted)
        stopped = run_aot(*line, "-o", "out")
    assert stopped.code == 130
    assert "what was measured so far is in out; the same command continues from there" in stopped.err
    assert not list(Path("out").glob(".aot-*"))
    some = Path("out/answers.jsonl").read_bytes()
    continued = run_aot(*line, "-o", "out", "--json").json
    assert Path("out/answers.jsonl").read_bytes().startswith(some)
    assert continued["choice"]["measured"]["loss"] == whole["choice"]["measured"]["loss"]
    assert continued["sentences"] == whole["sentences"]


def test_nothing_is_within_the_limit(run_aot: Aot, clips: Path) -> None:
    line = ("tune", clips, "-q", "what happens ?", *QUICK, "--methods", "random", "-r", "0.1,0.05",
            "--max-divergence", "0", "--save", "mine.yaml")  # fmt: skip
    run = run_aot(*line)
    assert run.code == 1
    assert run.out.startswith("Keep all tokens: no method stays within 0 nats at 10 % or less.\nThe smallest loss is ")
    assert not Path("mine.yaml").exists()
    assert "The videos that lose most at " in Path("aot-tune/tune.html").read_text()
    why = "no preset was written to mine.yaml, because no method stays within the limit"
    assert why in run.err and "is kept" not in run.err
    # Only the tuner's own file may be there without --force.
    for text, message in (
        ("# mine\n", "mine.yaml exists; pass --force"),
        ("# mine\n#\n# Found by aot tune on 2026-01-01.\n", f"{why}; the file there, of an earlier run, is kept"),
    ):
        Path("mine.yaml").write_text(text)
        again = run_aot(*line)
        assert (again.code, Path("mine.yaml").read_text()) == (1, text)
        assert message in again.err


def test_everything_is_within_the_limit(run_aot: Aot, clips: Path) -> None:
    (clip, *_) = sorted(clips.glob("*.mp4"))
    run = run_aot("tune", clip, "-q", "what happens ?", *QUICK, "--methods", "standout", "--max-divergence", "99")
    assert run.code == 0
    assert run.out.startswith("Keep 2.5 % with standout")
    assert "This holds for this video only" in run.out and "Sure" not in run.out.split("\n\n")[0]
    assert "No smaller ratio was tried; --ratios adds some." in run.out


def test_a_method_that_refuses_is_left_out(run_aot: Aot, clips: Path) -> None:
    asked = ("-q", "what happens ?", "--max-divergence", "99")
    run = run_aot("tune", clips, *asked, *QUICK, "--methods", "dycoke,uniform", "-r", "0.05", "--json")
    assert run.code == 0, run.err
    assert "dycoke@0.05 is left out" in run.err
    assert [each["state"] for each in run.json["measured"]] == ["refused", "passes"]
    alone = run_aot("tune", clips, *asked, *QUICK, "--methods", "dycoke", "-r", "0.05", "-o", "other")
    assert alone.code == 2 and "dycoke" in alone.err


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        (("-q", "a?"), 2, "no videos are given"),
        (("CLIPS",), 2, "no question is asked"),
        (("nope.mp4", "text.mp4", "-q", "a?"), 3, "nope.mp4"),
        (("CLIPS", "-q", "a?", "--max-loss", "1"), 2, "--max-loss needs answers"),
        (("CLIPS", "-q", "a?", "--max-divergence", "-1"), 2, "--max-divergence must be 0 or more"),
        (("CLIPS", "-q", "a?", "--max-loss", "1", "--max-divergence", "1"), 2, "exclude each other"),
        (("CLIPS", "--questions", "QUESTIONS"), 2, "leave out the videos"),
        (("--questions", "mixed.jsonl"), 2, "have no answer"),
        (("--questions", "nope.txt"), 2, "cannot be read"),
        (("CLIPS", "-q", "a?", "--save", "mine.txt"), 2, "must end in .yaml"),
        (("CLIPS", "-q", "a?", "--methods", "none,uniform"), 2, "none keeps all tokens"),
        (("CLIPS", "-q", "a?", "--methods", "nope"), 2, "nope"),
        (("CLIPS", "-q", "a?", "-r", "150"), 2, "got 150; for percentages write 15%"),
        (("https://a.b/c.mp4", "-q", "a?"), 2, "download it first"),
    ],
)
def test_wrong_lines(run_aot: Aot, clips: Path, line: tuple[str, ...], code: int, message: str) -> None:
    Path("text.mp4").write_text("no video")
    lines = (clips / "questions.jsonl").read_text().splitlines()
    row = {**json.loads(lines[0]), "answer": None}
    mixed = [json.dumps({**json.loads(each), "video": str(clips / row["video"])}) for each in lines[1:2]]
    Path("mixed.jsonl").write_text("\n".join([*mixed, json.dumps({**row, "video": str(clips / row["video"])})]))
    words = {"CLIPS": str(clips), "QUESTIONS": str(clips / "questions.jsonl")}
    run = run_aot("tune", *(words.get(word, word) for word in line), *QUICK)
    assert run.code == code, run.err
    assert message in run.err
    assert not Path("aot-tune").exists()
    assert len([each for each in run.err.splitlines() if not each.startswith("aot: note")]) == 1
    if code == 3:
        assert "nope.mp4" in run.err and "text.mp4" in run.err


def test_questions_in_a_text_file(run_aot: Aot, clips: Path) -> None:
    Path("asked.txt").write_text("what happens ?\n\nhow many objects are there ?\n")
    (clip, *_) = sorted(clips.glob("*.mp4"))
    run = run_aot("tune", clip, "--questions", "asked.txt", *QUICK, *METHODS, "--max-divergence", "99", "--json")
    assert run.code == 0, run.err
    assert run.json["questions"] == 2


def test_a_long_file_of_questions_may_be_cut_within_a_character(tmp_path: Path) -> None:
    file = tmp_path / "questions.txt"
    file.write_text(
        "\n".join(f"{number} is that a caf\u00e9 \u00e9\u00e9\u00e9?" for number in range(60_000)), encoding="utf-8"
    )
    for shift in range(3):
        file.write_bytes(b" " * shift + file.read_bytes())
        assert all(line.endswith("?") for line in _lines(file))
