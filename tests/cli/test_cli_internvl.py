"""InternVL through the real entry point."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.support.cli_run import Aot
from tests.support.tiny_internvl import make_internvl

SHORT = ("--max-new-tokens", "8")
GRID, FRAMES = 3, 8
TOKENS = FRAMES * GRID * GRID


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_internvl(tmp_path_factory.mktemp("internvl"), grid=GRID)


@pytest.fixture
def intern(folder: Path) -> tuple[str, ...]:
    return ("--model", str(folder), "--frames", str(FRAMES))


@pytest.mark.parametrize("method", ["aot", "standout"])
def test_tokens_answer_as_the_video_does(
    run_aot: Aot, intern: tuple[str, ...], clip_file: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    given = ("--method", method, "--ratio", "0.4", *intern)
    asked = run_aot("ask", clip_file, "what happens?", *given, *SHORT)
    assert (asked.code, asked.err) == (0, "")
    assert asked.out.strip()
    for name in ("t.pt", "t.safetensors"):
        report = run_aot("compress", clip_file, "-o", name, *given, "--json").json
        assert report["kept_tokens"] == report["budget_tokens"] == round(0.4 * TOKENS)
        assert report["visual_tokens"] == TOKENS
    assert torch.load("t.pt", weights_only=True)["grid"] == [GRID, GRID]
    monkeypatch.setattr("aot.video.open_video", None)  # neither decoded nor encoded again
    for name in ("t.pt", "t.safetensors"):
        assert run_aot("ask", name, "what happens?", *SHORT, *intern[:2]).out == asked.out


def test_several_questions(run_aot: Aot, intern: tuple[str, ...], clip_file: Path) -> None:
    questions = ["one?", "and the other?", "how many?"]
    rest = [part for question in questions[1:] for part in ("-q", question)]
    together = run_aot("ask", clip_file, questions[0], *rest, *intern, *SHORT, "--json").json
    alone = [run_aot("ask", clip_file, question, *intern, *SHORT, "--json").json["answer"] for question in questions]
    assert [each["answer"] for each in together["answers"]] == alone


def test_frames_the_question_is_about(run_aot: Aot, intern: tuple[str, ...], clip_file: Path) -> None:
    found = run_aot("ask", clip_file, "a red dog?", *intern, *SHORT, "--select-frames", "3", "--json").json
    assert found["visual_tokens"] == 3 * GRID * GRID


def test_inspect(run_aot: Aot, intern: tuple[str, ...], clip_file: Path) -> None:
    shown = run_aot("inspect", clip_file, *intern)
    assert shown.code == 0
    assert f"{round(0.1 * TOKENS)} of {TOKENS}" in shown.out
    assert sum(frame["kept"] for frame in run_aot("inspect", clip_file, *intern, "--json").json["frames"]) == 7


def test_methods_side_by_side(run_aot: Aot, intern: tuple[str, ...], clip_file: Path) -> None:
    methods = "none,aot,fastvid,visionzip,tome,uniform+fastv"
    done = run_aot("compare", clip_file, "what?", *intern, *SHORT, "--methods", methods, "--ratio", "0.5", "--json")
    rows = {row["condition"]: row["kept_tokens"] for row in done.json["methods"]}
    half = TOKENS // 2
    assert rows.pop("uniform+fastv@0.5") > half
    assert rows == {"none": TOKENS, "aot@0.5": half, "fastvid@0.5": half, "visionzip@0.5": half}
    assert "tome@0.5 is left out: methods that merge inside the vision tower need that of LLaVA" in done.err
    alone = run_aot("compare", clip_file, "what?", *intern, *SHORT, "--methods", "tempme")
    assert alone.code == 2
    assert "all methods failed" in alone.err


def test_a_method_that_cannot_be_used_is_left_out_of_an_evaluation(
    run_aot: Aot, intern: tuple[str, ...], clip_file: Path
) -> None:
    questions = [{"video": str(clip_file), "question": text, "answer": "x"} for text in ("what?", "why?")]
    Path("qa.jsonl").write_text("\n".join(map(json.dumps, questions)), encoding="utf-8")
    done = run_aot("eval", "qa.jsonl", "-o", "out", *intern, *SHORT, "--methods", "tome,uniform", "--ratios", "0.5")
    assert done.code == 0, done.err
    assert done.err.count("tome@0.5 is left out") == 1
    rows = json.loads(Path("out/results.json").read_text(encoding="utf-8"))["conditions"]
    assert [(row["name"], row["kept_tokens"]) for row in rows] == [("uniform", TOKENS / 2)]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--method", "tome"), "methods that merge inside the vision tower need that of LLaVA"),
        (("--siglip-head", "x"), "model.siglip_head is for LLaVA models; leave it out with InternVL"),
        (("--set", "model.newline=none"), "model.newline is for LLaVA models"),
    ],
)
def test_what_is_refused(
    run_aot: Aot, intern: tuple[str, ...], clip_file: Path, options: tuple[str, ...], said: str
) -> None:
    done = run_aot("ask", clip_file, "what?", *intern, *SHORT, *options)
    assert done.code == 2
    assert said in done.err
    assert done.out == ""


@pytest.mark.parametrize("text", ["qwen2", "mistral"])
def test_reductions_inside(run_aot: Aot, tmp_path: Path, clip_file: Path, text: str) -> None:
    folder = make_internvl(tmp_path / text, text=text)
    given = ("--model", folder, "--frames", "4", *SHORT, "--inner", "pyramiddrop", "--ratio", "0.6")
    done = run_aot("ask", clip_file, "what?", *given)
    assert done.code == (0 if text == "qwen2" else 2)
    assert bool(done.out) == (text == "qwen2")
    if text == "mistral":
        assert "leave out --inner" in done.err
