"""`--inner` from the command line: on videos, on tokens, in evaluations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.cli_run import Aot

SHORT = ("--max-new-tokens", "6")


@pytest.mark.parametrize("name", ["fastv", "pyramiddrop", "holitom", "prunevid", "flashvid", "framefusion"])
def test_ask(run_aot: Aot, small: tuple[str, ...], clip_file: Path, name: str) -> None:
    found = run_aot("ask", clip_file, "hi?", *small, *SHORT, "--inner", name, "--ratio", "0.3", "--json").json
    assert found["answer"]
    assert found["config"]["inner"]["name"] == name
    assert found["language_model_load"] == pytest.approx(0.3, abs=1.5 / found["visual_tokens"])
    assert found["retention"] > 0.3


def test_ask_with_all_tokens_before_the_language_model(run_aot: Aot, small: tuple[str, ...], clip_file: Path) -> None:
    arguments = ("ask", clip_file, "hi?", *small, *SHORT, "--method", "none", "--inner", "fastv")
    found = run_aot(*arguments, "--ratio", "0.8", "--json").json
    assert found["kept_tokens"] == found["visual_tokens"]
    assert found["language_model_load"] == pytest.approx(0.8, abs=1 / found["visual_tokens"])
    refused = run_aot(*arguments, "--ratio", "0.1")
    assert refused.code == 2
    assert "the first 2 of 3 layers see every token; use --ratio 0.667 or more" in refused.err


def test_extra_saves_on_top(run_aot: Aot, small: tuple[str, ...], clip_file: Path) -> None:
    extra = ("--inner", "fastv", "--set", "inner.budget=extra", "--ratio", "0.2")
    found = run_aot("ask", clip_file, "hi?", *small, *SHORT, *extra, "--json").json
    assert found["retention"] == pytest.approx(0.2, abs=1e-3)
    assert found["language_model_load"] == pytest.approx(0.2 * 2.5 / 3, abs=2 / found["visual_tokens"])


def test_without_it_the_load_is_the_retention(run_aot: Aot, small: tuple[str, ...], clip_file: Path) -> None:
    found = run_aot("ask", clip_file, "hi?", *small, *SHORT, "--json").json
    assert found["language_model_load"] == found["retention"]


def test_tokens_answer_as_the_video_does(run_aot: Aot, small: tuple[str, ...], clip_file: Path) -> None:
    how = ("--inner", "holitom", "--ratio", "0.3")
    asked = run_aot("ask", clip_file, "what happens?", *small, *SHORT, *how).out
    assert run_aot("compress", clip_file, "-o", "t.pt", *small, *how).code == 0
    assert run_aot("ask", "t.pt", "what happens?", *small[:2], *SHORT).out == asked
    named = run_aot("ask", "t.pt", "what happens?", *small[:2], *SHORT, "--inner", "holitom")
    assert (named.out, "more of it" in named.err) == (asked, False)


def test_tokens_that_were_made_for_another(run_aot: Aot, small: tuple[str, ...], clip_file: Path) -> None:
    run_aot("compress", clip_file, "-o", "t.pt", "--ratio", "0.2", *small)
    run = run_aot("ask", "t.pt", "hi?", *small[:2], *SHORT, "--inner", "fastv", "--json")
    assert "fastv removes more tokens inside the language model" in run.err
    assert run.json["config"]["inner"]["budget"] == "extra"
    assert run.json["language_model_load"] == pytest.approx(0.2 * 2.5 / 3, abs=2 / run.json["visual_tokens"])
    run_aot("compress", clip_file, "-o", "all.pt", "--method", "none", *small)
    run = run_aot("ask", "all.pt", "hi?", *small[:2], *SHORT, "--inner", "fastv", "--ratio", "0.75", "--json")
    assert "ratio" not in run.err
    assert run.json["language_model_load"] == pytest.approx(0.75, abs=1 / run.json["visual_tokens"])


def test_several_questions(run_aot: Aot, small: tuple[str, ...], clip_file: Path) -> None:
    how = (*small, *SHORT, "--inner", "prunevid", "--ratio", "0.3")
    both = run_aot("ask", clip_file, "one?", "-q", "two, or three?", *how, "--json").json["answers"]
    assert both[1]["answer"] == run_aot("ask", clip_file, "two, or three?", *how, "--json").json["answer"]


def test_eval(run_aot: Aot, small: tuple[str, ...], clip_file: Path) -> None:
    rows = [{"video": str(clip_file), "question": question, "answer": "yes"} for question in ("one?", "two?", "three?")]
    Path("data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    methods = ("--methods", "none,uniform,none+fastv,uniform+flashvid", "--ratios", "0.7,0.8")
    found = run_aot("eval", "data.jsonl", "-o", "out", *small, *SHORT, *methods, "--json").json
    loads = {(row["name"], row["ratio"]): row["language_model_load"] for row in found["conditions"]}
    assert loads == {
        (name, ratio): pytest.approx(ratio, abs=0.01)
        for name in ("none", "uniform", "none+fastv", "uniform+flashvid")
        for ratio in ([1.0] if name == "none" else [0.7, 0.8])
    }
    assert "language_model_load" in Path("out/results.csv").read_text().splitlines()[0]


def test_eval_of_one_reduction_after_every_method(run_aot: Aot, small: tuple[str, ...], clip_file: Path) -> None:
    Path("data.jsonl").write_text(json.dumps({"video": str(clip_file), "question": "one?", "answer": "yes"}) + "\n")
    how = ("--methods", "none,uniform", "--ratios", "0.5", "--inner", "holitom")
    found = run_aot("eval", "data.jsonl", "-o", "out", *small, *SHORT, *how, "--json").json
    assert [row["name"] for row in found["conditions"]] == ["none", "uniform+holitom"]


def test_an_unknown_one(run_aot: Aot, small: tuple[str, ...], clip_file: Path) -> None:
    run = run_aot("ask", clip_file, "hi?", *small, "--inner", "slowv")
    assert run.code == 2
    assert "--inner must be one of fastv, pyramiddrop" in run.err


def test_bench(run_aot: Aot, small: tuple[str, ...], clip_file: Path) -> None:
    how = ("--rounds", "1", "--max-new-tokens", "3", "--inner", "fastv", "--ratio", "0.4", "--json")
    arms = run_aot("bench", "video", clip_file, *small, *how).json["arms"]
    assert [arm["name"] for arm in arms] == ["stock", "none", "aot+fastv"]
    assert arms[2]["kept_tokens"] > 0.4 * arms[1]["kept_tokens"]
