"""`aot demo`, and the model that answers when none is named: real questions, right answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aot.shapes.clips import write_clip
from aot.shapes.questions import questions
from aot.shapes.world import sample_scene
from aot.storage.tokens_file import load_tokens
from tests.support.cli_run import Aot

pytestmark = pytest.mark.smoke


@pytest.fixture(autouse=True)
def no_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing set, nothing cached."""
    monkeypatch.delenv("AOT_MODEL", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))


def test_the_demo_is_right_both_ways(run_aot: Aot) -> None:
    run = run_aot("demo", "--json")
    assert run.code == 0, run.err
    assert len(run.json["questions"]) == 3
    for row in run.json["questions"]:
        assert row["answer_of_all"] == row["expected"]
        assert row["answer_of_kept"] == row["expected"]
    assert run.json["kept_tokens"] == 51
    assert len(load_tokens("aot-demo/tokens.pt").tokens.features) == 51
    assert "is large and" in Path("aot-demo/kept.html").read_text("utf-8")
    assert run.json["total_ms"] < 60_000
    assert run.json["toy_model"] is True


def test_the_demo_as_people_see_it(run_aot: Aot) -> None:
    run = run_aot("demo", "-o", "here it is")
    assert run.code == 0, run.err
    assert not run.err
    assert "keyframe groupings" in run.out
    assert "kept 51 of 512 tokens" in run.out
    assert "with all 512 tokens" in run.out
    assert Path("here it is/clip.mp4").is_file()
    assert "Open here it is/kept.html" in run.out


def test_no_model_is_the_bundled_model_and_it_sees(run_aot: Aot) -> None:
    """Every question about one scene, with all tokens; most must be right, and colors, shapes and sizes all."""
    scene = sample_scene(184)
    write_clip(scene, Path("clip.mp4"))
    asked = questions(scene)
    flags = [flag for qa in asked for flag in ("-q", qa.question)]
    run = run_aot("ask", "clip.mp4", *flags, "--method", "none", "--json")
    assert run.code == 0, run.err
    assert run.err.startswith("aot: note: toy model in use (shapes): offline mode is on")
    assert len(run.err.strip().splitlines()) == 1
    answers = [answer["answer"].replace("?", " ?").replace(".", " .").split() for answer in run.json["answers"]]
    right = [words == qa.answer.split() for words, qa in zip(answers, asked, strict=True)]
    assert sum(right) >= 0.8 * len(asked)
    assert all(good for good, qa in zip(right, asked, strict=True) if qa.family in ("color", "shape", "size"))
    assert run.json["visual_tokens"] == 8 * 64
    assert run.json["model"]["name"] == "shapes"
    assert run.json["toy_model"] is True


def test_words_it_does_not_know_are_told(run_aot: Aot, clip_file: Path) -> None:
    run = run_aot("ask", clip_file, "what does the dog do?", "-q", "what happens?", "--model", "shapes")
    assert run.code == 0, run.err
    assert run.err == "aot: note: shapes does not know: dog\n"


def test_what_is_asked_for_wins(run_aot: Aot, clip_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_aot("compress", clip_file, "-o", "t.pt", "--frames", "5", "--json")
    assert run.json["visual_tokens"] == 5 * 64
    monkeypatch.setenv("AOT_MODEL", "shapes")
    run = run_aot("ask", clip_file, "what happens?", "--json")
    assert "toy" not in run.err
    assert run.json["visual_tokens"] == 8 * 64
    assert run.json["toy_model"] is True


def test_a_cached_model_is_preferred(run_aot: Aot, clip_file: Path, tmp_path: Path, small_folder: Path) -> None:
    repository = tmp_path / "cache" / "models--llava-hf--llava-onevision-qwen2-0.5b-ov-hf"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    (repository / "snapshots").mkdir()
    (repository / "snapshots" / "abc").symlink_to(small_folder)
    run = run_aot("inspect", clip_file, "--json")  # no model is needed, so none is looked for
    assert "model" not in run.err
    run = run_aot("ask", clip_file, "what happens?", "--frames", "4", "--max-new-tokens", "2", "--json")
    assert "toy" not in run.err
    assert run.json["model"]["name"] == "llava-hf/llava-onevision-qwen2-0.5b-ov-hf"
    assert run.json["toy_model"] is False


def test_tokens_of_the_bundled_model_are_asked_with_it(run_aot: Aot, clip_file: Path) -> None:
    assert run_aot("compress", clip_file, "-o", "t.pt").code == 0
    run = run_aot("ask", "t.pt", "what happens?", "--json")
    assert run.code == 0, run.err
    assert json.loads(run.out)["model"]["name"] == "shapes"
