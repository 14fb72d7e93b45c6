"""`--tower stc` through the real entry point: with every method, in every report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from aot.plugins import METHODS
from tests.support.cli_run import Aot
from tests.support.tiny_internvl import make_internvl

# The test clip changes so much that every frame would be a reference.
STC = ("--tower", "stc", "--set", "tower.stc.cut=1")
ASKED = ("--question", "what happens?")
MERGING = ("tome", "tempme")


@pytest.mark.parametrize("method", sorted(set(METHODS) - set(MERGING)))
def test_every_method(run_aot: Aot, small: tuple[str, ...], clip_file: Path, method: str) -> None:
    line = ("compress", clip_file, "-o", "t.pt", *STC, *ASKED, *small)
    run = run_aot(*line, "--method", method, "--ratio", "0.5", "--json")
    assert run.code == 0, run.err
    tower = run.json["config"]["tower"]
    assert (tower["name"], tower["stc"]) == ("stc", {"interval": 2, "share": 0.25, "cut": 1.0})
    assert run.json["facts"]["reference_frames"] == 4
    budget = run.json["budget_tokens"]
    assert budget in (None, 100)
    assert run.json["kept_tokens"] == (budget or 200)


@pytest.mark.parametrize("method", MERGING)
def test_methods_that_merge_in_the_tower_are_refused(
    run_aot: Aot, small: tuple[str, ...], clip_file: Path, method: str
) -> None:
    run = run_aot("ask", clip_file, "What moves?", *STC, "--method", method, *small)
    assert (run.code, run.out) == (2, "")
    assert "--tower stc does not work with a method that merges" in run.err
    assert "use --tower full" in run.err
    assert len(run.err.strip().splitlines()) == 1


def test_windows_are_refused_before_the_weights_are_read(run_aot: Aot, qwen25_folder: Path, clip_file: Path) -> None:
    run = run_aot("ask", clip_file, "What moves?", *STC, "--model", qwen25_folder, "--frames", "4")
    assert (run.code, run.out) == (2, "")
    assert "attends within windows; use --tower full" in run.err
    assert len(run.err.strip().splitlines()) == 1


@pytest.mark.parametrize("family", ["internvl", "qwen3"])
def test_other_families(
    run_aot: Aot, clip_file: Path, family: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = make_internvl(tmp_path / "m") if family == "internvl" else request.getfixturevalue("qwen3_folder")
    run = run_aot("ask", clip_file, "What moves?", *STC, "--model", folder, "--frames", "8", "--json", "--ratio", "0.4")
    assert run.code == 0, run.err
    assert run.json["facts"]["reference_frames"] == (4 if family == "internvl" else 2)


def test_the_full_tower_is_the_default(run_aot: Aot, small: tuple[str, ...], clip_file: Path) -> None:
    for flags in ((), ("--tower", "full"), (*STC, "--set", "tower.stc.interval=1")):
        run_aot("compress", clip_file, "-o", "t.pt", "--force", *flags, *small)
        features = torch.load("t.pt", weights_only=True)["features"]
        first = features if not flags else first  # noqa: F821
        assert torch.equal(features, first)


def test_it_changes_the_tokens(run_aot: Aot, small: tuple[str, ...], clip_file: Path) -> None:
    kept = {}
    for flags in ((), STC, (*STC, "--set", "tower.stc.interval=8"), ("--tower", "stc")):
        run_aot("compress", clip_file, "-o", "t.pt", "--force", "--method", "none", *flags, *small)
        kept[flags] = torch.load("t.pt", weights_only=True)["features"]
    full, stc, longer, every = kept.values()
    assert not torch.allclose(full, stc, atol=1e-3)
    assert not torch.allclose(stc, longer, atol=1e-3)
    # Each frame is as another scene by default.
    assert torch.equal(full, every)


@pytest.mark.parametrize("segment", ["1", "3", "5", "64"])
def test_segments_do_not_change_the_features(
    run_aot: Aot, small: tuple[str, ...], clip_file: Path, segment: str
) -> None:
    features = []
    for length in ("64", segment):
        arguments = ("--method", "none", *STC, "--set", "tower.stc.interval=4", "--segment-frames", length)
        run = run_aot("compress", clip_file, "-o", "t.pt", "--force", "--json", *arguments, *small, "--frames", "11")
        features.append(torch.load("t.pt", weights_only=True)["features"])
        assert run.json["facts"]["reference_frames"] == 3
    assert torch.allclose(*features, atol=1e-4)


def test_a_tokens_file_says_so(run_aot: Aot, small: tuple[str, ...], clip_file: Path) -> None:
    flags = ("--set", "tower.stc.interval=4")
    whole = run_aot("ask", clip_file, "What moves?", "--max-new-tokens", "8", *STC, *flags, *small)
    run_aot("compress", clip_file, "-o", "t.pt", *STC, *flags, *small)
    from_file = run_aot("ask", "t.pt", "What moves?", "--max-new-tokens", "8", "--json", *small[:2])
    assert from_file.json["answer"] == whole.out.strip("\n")
    assert from_file.json["config"]["tower"]["stc"]["interval"] == 4
    other = run_aot("ask", "t.pt", "What moves?", "--max-new-tokens", "8", "--tower", "full", "--json", *small[:2])
    assert other.json["config"]["tower"]["name"] == "stc"
    assert "no effect of the settings under tower" in other.err


def test_the_terminal_and_the_page_say_so(run_aot: Aot, small: tuple[str, ...], clip_file: Path) -> None:
    run = run_aot("inspect", clip_file, "--method", "aot", *STC, "--html", "p.html", *small)
    said = "stc: 4 of 8 frames are references, the others compute 0.25 of their tokens"
    assert said in " ".join(run.out.split())
    page = Path("p.html").read_text("utf-8")
    assert said in page
    assert "--tower stc" in page
    plain = run_aot("inspect", clip_file, "--method", "aot", *small)
    assert "references" not in plain.out


def test_settings_and_their_sources(run_aot: Aot) -> None:
    Path("aot.yaml").write_text("tower:\n  stc:\n    interval: 8\n", encoding="utf-8")
    resolved = run_aot("settings", "--show", "--tower", "stc", "--set", "tower.stc.share=0.5", "--json").json
    found = {row["path"]: (row["value"], row["source"]) for row in resolved["settings"]}
    assert found["tower.name"] == ("stc", "--tower")
    assert found["tower.stc.share"] == (0.5, "--set")
    assert found["tower.stc.interval"][0] == 8
    assert "aot.yaml" in found["tower.stc.interval"][1]
    assert found["tower.stc.cut"] == (0.1, "default")


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (("--tower", "half"), "--tower must be full or stc"),
        (("--set", "tower.stc.interval=0"), "at least 1"),
        (("--set", "tower.stc.share=2"), "in (0, 1]"),
        (("--set", "tower.interval=2"), "tower"),
    ],
)
def test_wrong_settings(run_aot: Aot, clip_file: Path, wrong: tuple[str, ...], told: str) -> None:
    run = run_aot("compress", clip_file, "-o", "t.pt", *wrong)
    assert run.code == 2
    assert told in run.err
    assert len(run.err.strip().splitlines()) == 1


def test_the_variable(run_aot: Aot, small: tuple[str, ...], clip_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AOT_TOWER", "stc")
    run = run_aot("compress", clip_file, "-o", "t.pt", "--json", *small)
    assert run.json["config"]["tower"]["name"] == "stc"


def test_compare_leaves_out_what_merges(run_aot: Aot, small: tuple[str, ...], clip_file: Path) -> None:
    run = run_aot("compare", clip_file, "What moves?", "--methods", "none,aot,tome", *STC, "--json", *small)
    assert [row["method"] for row in run.json["methods"]] == ["none", "aot"]
    assert "tome@0.1 is left out: --tower stc does not work" in run.err


def test_frames_chosen_by_the_question(run_aot: Aot, small: tuple[str, ...], clip_file: Path) -> None:
    run = run_aot("ask", clip_file, "What moves?", *STC, "--select-frames", "4", "--json", *small)
    assert run.code == 0, run.err
    assert run.json["facts"]["reference_frames"] == 2


def test_eval_compares_towers(run_aot: Aot, small: tuple[str, ...], clip_file: Path) -> None:
    row = {"video": str(clip_file), "question": "What moves?", "answer": "x"}
    Path("q.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    run = run_aot(
        "eval", "q.jsonl", "-o", "r", "--methods", "none,aot", "--ratios", "0.2", "--json", *small, "--max-new-tokens",
        "4", "--variant", "reuse:tower.name=stc,method=none", "--variant", "long:tower.name=stc,tower.stc.interval=8",
    )  # fmt: skip
    assert run.code == 0, run.err
    assert [found["name"] for found in run.json["conditions"]] == ["none", "aot", "reuse", "long"]
    # Answers of another tower are not taken for those of this one.
    again = run_aot(
        "eval", "q.jsonl", "-o", "r", "--methods", "none,aot", "--ratios", "0.2", *small, "--max-new-tokens", "4",
        "--variant", "reuse:tower.name=stc,method=none,tower.stc.interval=3",
        "--variant", "long:tower.name=stc,tower.stc.interval=8",
    )  # fmt: skip
    assert again.code == 2
