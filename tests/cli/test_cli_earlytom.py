"""`--tower earlytom` through the real entry point: with every method, in every report."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from aot.plugins import METHODS
from tests.support.cli_run import Aot
from tests.support.tiny_internvl import make_internvl

# A tower of few blocks; without a threshold, eight frames are two segments of seven frames and one.
EARLY = ("--tower", "earlytom", "--set", "tower.earlytom.threshold=-1", "--set", "tower.earlytom.layers=0,1")
LOST = ("--set", "tower.earlytom.paper_exact=true")
MERGING = ("tome", "tempme")


@pytest.mark.parametrize("method", sorted(set(METHODS) - set(MERGING)))
def test_every_method(run_aot: Aot, small: tuple[str, ...], clip_file: Path, method: str) -> None:
    """Frames of the video are counted as without; budgets are of all of them."""
    line = ("compress", clip_file, "-o", "t.pt", *EARLY, *LOST, "--question", "what happens?", *small)
    run = run_aot(*line, "--method", method, "--ratio", "0.5", "--json")
    assert run.code == 0, run.err
    left = run.json["facts"]["tower_frames"]
    assert left < 8
    assert len(run.json["frames"]) == 8
    assert run.json["visual_tokens"] == 200
    assert run.json["budget_tokens"] in (None, 100)
    assert run.json["kept_tokens"] == (25 * left if method == "none" else 100)
    kept = [row["kept"] for row in run.json["frames"]]
    assert sum(count > 0 for count in kept) <= left
    if method == "uniform":  # frames that were merged into another need no higher ratio
        assert "keep no token of their own" not in run.err
    if method == "none":
        assert sorted(kept, reverse=True) == [25] * left + [0] * (8 - left)


@pytest.mark.parametrize("method", MERGING)
def test_methods_that_merge_in_the_tower_are_refused(
    run_aot: Aot, small: tuple[str, ...], clip_file: Path, method: str
) -> None:
    run = run_aot("ask", clip_file, "What moves?", *EARLY, "--method", method, *small)
    assert (run.code, run.out) == (2, "")
    assert "--tower earlytom does not work with a method that merges" in run.err
    assert len(run.err.strip().splitlines()) == 1


def test_more_tokens_than_are_left(run_aot: Aot, small: tuple[str, ...], clip_file: Path) -> None:
    """Then all that are left are kept."""
    run = run_aot("compress", clip_file, "-o", "t.pt", *EARLY, *LOST, "--ratio", "0.9", "--json", *small)
    assert run.json["budget_tokens"] == 180
    assert run.json["kept_tokens"] == 25 * run.json["facts"]["tower_frames"] < 180


def test_without_merges_nothing_changes(run_aot: Aot, small: tuple[str, ...], clip_file: Path) -> None:
    features = []
    for flags in ((), (*EARLY, "--set", "tower.earlytom.window=2")):
        run = run_aot("compress", clip_file, "-o", "t.pt", "--force", "--json", *flags, *small)
        features.append(torch.load("t.pt", weights_only=True)["features"])
        assert run.json["facts"].get("tower_frames") == (8 if flags else None)
    assert torch.allclose(*features, atol=1e-5)


def test_chunks_are_merged_alone(run_aot: Aot, small: tuple[str, ...], clip_file: Path) -> None:
    """In a chunk of three frames, the only frame between the first and the last merges with none."""
    flags = ("--method", "none", *EARLY, "--segment-frames", "3", "--frames", "9", "--json")
    run = run_aot("compress", clip_file, "-o", "t.pt", *small, *flags)
    assert run.json["facts"]["tower_frames"] == 9
    flags = (
        "--method",
        "uniform",
        *EARLY,
        *LOST,
        "--segment-frames",
        "5",
        "--frames",
        "11",
        "--json",
        "--ratio",
        "0.4",
    )
    run = run_aot("compress", clip_file, "-o", "u.pt", *small, *flags)
    assert run.json["facts"]["tower_frames"] < 11
    assert (run.json["kept_tokens"], len(run.json["frames"])) == (110, 11)


@pytest.mark.parametrize("family", ["internvl", "qwen3"])
def test_other_families(
    run_aot: Aot, clip_file: Path, family: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = make_internvl(tmp_path / "m") if family == "internvl" else request.getfixturevalue("qwen3_folder")
    flags = ("--frames", "12", "--json", "--ratio", "0.3", "--method", "earlytom")
    run = run_aot("ask", clip_file, "What moves?", *EARLY, *LOST, "--model", folder, *flags)
    assert run.code == 0, run.err
    assert run.json["facts"]["tower_frames"] < (12 if family == "internvl" else 6)
    assert run.json["kept_tokens"] == run.json["budget_tokens"]


def test_reports_say_so(run_aot: Aot, small: tuple[str, ...], clip_file: Path) -> None:
    flags = ("--method", "uniform", *EARLY, *LOST)
    run = run_aot("inspect", clip_file, *flags, "--html", "p.html", *small)
    assert run.code == 0, run.err
    left = run_aot("compress", clip_file, "-o", "t.pt", *flags, "--json", *small).json["facts"]["tower_frames"]
    said = f"earlytom: 8 frames were merged into {left}"
    assert said in " ".join(run.out.split())
    assert said in Path("p.html").read_text("utf-8")
    whole = run_aot("ask", clip_file, "What moves?", "--max-new-tokens", "8", *flags, *small)
    from_file = run_aot("ask", "t.pt", "What moves?", "--max-new-tokens", "8", "--json", *small[:2])
    assert from_file.json["answer"] == whole.out.strip("\n")
