"""Qwen2.5-VL and Qwen3-VL through the real entry point, from an mp4 to answers."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from aot.plugins import INNER, METHODS, find
from tests.support.cli_run import Aot

SHORT = ("--max-new-tokens", "6")
ONE = ("--max-new-tokens", "1", "--json")
TOKENS = 4 * 5  # of a pair: 160 x 120 pixels become 40 x 32
PAIRS = 5


@pytest.fixture(params=["qwen25", "qwen3"])
def qwen(request: pytest.FixtureRequest) -> tuple[str, ...]:
    return ("--model", str(request.getfixturevalue(f"{request.param}_folder")), "--frames", "9")


def test_an_answer(run_aot: Aot, qwen: tuple[str, ...], clip_file: Path) -> None:
    run = run_aot("ask", clip_file, "what happens?", *qwen, *SHORT, "--ratio", "0.25", "--json")
    assert run.code == 0, run.err
    assert run.json["answer"]
    assert run.json["visual_tokens"] == PAIRS * TOKENS
    assert run.json["kept_tokens"] == round(0.25 * PAIRS * TOKENS)


def test_tokens_files_answer_as_the_video_does(
    run_aot: Aot, qwen: tuple[str, ...], clip_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = ("one?", "-q", "and two?", *SHORT)
    asked = run_aot("ask", clip_file, *line, *qwen).out
    for name in ("t.pt", "t.safetensors"):
        assert run_aot("compress", clip_file, "-o", name, *qwen).code == 0
    monkeypatch.setattr("aot.video.open_video", None)  # neither decoded nor encoded again
    for name in ("t.pt", "t.safetensors"):
        assert run_aot("ask", name, *line, *qwen[:2]).out == asked
    pt, safe = torch.load("t.pt", weights_only=True), load_file("t.safetensors")
    assert ("deepstack" in pt) == ("deepstack" in safe) == ("qwen3" in qwen[1])
    assert all(torch.equal(tensor, pt[name]) for name, tensor in safe.items())


def test_the_report_counts_pairs(run_aot: Aot, qwen: tuple[str, ...], clip_file: Path) -> None:
    report = run_aot("compress", clip_file, "-o", "t.pt", "--ratio", "0.3", "--json", *qwen).json
    assert len(report["frames"]) == PAIRS
    assert report["kept_tokens"] == report["budget_tokens"] == round(0.3 * PAIRS * TOKENS)
    assert report["model"]["temporal_patch"] == 2
    assert report["model"]["saliency_blocks"] == ([5, 5] if "qwen25" in qwen[1] else [1, 3])
    times = [frame["timestamp_s"] for frame in report["frames"]]
    sampled = [int(k * 23 / 8) / 8 for k in range(9)]  # of 24 frames, 8 per second
    middles = [(sampled[2 * k] + sampled[min(2 * k + 1, 8)]) / 2 for k in range(5)]
    assert times == pytest.approx(sampled[::2] if "qwen25" in qwen[1] else middles)


def test_inspect(run_aot: Aot, qwen: tuple[str, ...], clip_file: Path) -> None:
    shown = run_aot("inspect", clip_file, "--ratio", "0.3", *qwen)
    assert shown.code == 0, shown.err
    assert f"30 of {PAIRS * TOKENS}" in shown.out
    run_aot("compress", clip_file, "-o", "t.pt", "--ratio", "0.3", *qwen)
    assert f"30 of {PAIRS * TOKENS}" in run_aot("inspect", "t.pt").out


def test_compare_leaves_out_what_does_not_work(run_aot: Aot, qwen: tuple[str, ...], clip_file: Path) -> None:
    line = ("compare", clip_file, "what happens?", *qwen, "--max-new-tokens", "3", "--ratio", "0.4")
    done = run_aot(*line, "--methods", "none,uniform,tome,aot,uniform+fastv", "--json")
    assert done.code == 0, done.err
    assert [row["condition"] for row in done.json["methods"]] == ["none", "uniform@0.4", "aot@0.4", "uniform+fastv@0.4"]
    assert "tome@0.4 is left out: methods that merge inside the vision tower" in done.err
    alone = run_aot(*line, "--methods", "tome,tempme")
    assert alone.code == 2
    assert "all methods failed" in alone.err.splitlines()[-1]


@pytest.mark.parametrize("name", METHODS)
def test_every_method(run_aot: Aot, clip_file: Path, qwen: tuple[str, ...], name: str) -> None:
    done = run_aot("ask", clip_file, "what happens?", *qwen, *ONE, "--ratio", "0.5", "--method", name)
    if name in ("tome", "tempme"):
        assert done.code == 2
        assert "LLaVA-OneVision or LLaVA-Video (SigLIP); use another --method" in done.err
        return
    assert done.code == 0, done.err
    total, kept = done.json["visual_tokens"], done.json["kept_tokens"]
    assert kept == (round(0.5 * total) if find(name).card.exact else total)
    assert done.json["answers"][0]["output_tokens"] == 1


@pytest.mark.parametrize("name", INNER)
def test_every_reduction_inside(run_aot: Aot, clip_file: Path, qwen: tuple[str, ...], name: str) -> None:
    extra = ("--inner", name, "--method", "uniform", "--set", "inner.budget=extra")
    done = run_aot("ask", clip_file, "what happens?", *qwen, *ONE, "--ratio", "0.5", *extra)
    assert done.code == 0, done.err
    assert 0 < done.json["language_model_load"] < 0.5


# --- Segments, chosen frames, sizes


def test_segments_of_whole_pairs(run_aot: Aot, clip_file: Path, qwen: tuple[str, ...]) -> None:
    line = ("compress", clip_file, "--method", "none", "--json", *qwen)
    whole = run_aot(*line, "-o", "whole.pt").json
    cut = run_aot(*line, "-o", "cut.pt", "--segment-frames", "4").json
    assert [frame["timestamp_s"] for frame in cut["frames"]] == [frame["timestamp_s"] for frame in whole["frames"]]
    one, other = (torch.load(name, weights_only=True) for name in ("whole.pt", "cut.pt"))
    torch.testing.assert_close(one["features"], other["features"], rtol=1e-4, atol=1e-4)
    assert torch.equal(one["frame"], other["frame"])


def test_segments_that_would_part_pairs_are_refused(run_aot: Aot, clip_file: Path, qwen: tuple[str, ...]) -> None:
    line = ("ask", clip_file, "what?", *qwen, *SHORT)
    refused = run_aot(*line, "--segment-frames", "5")
    assert refused.code == 2
    assert "reads 2 frames as one" in refused.err and "--segment-frames 4" in refused.err
    assert "--segment-frames 2" in run_aot(*line, "--segment-frames", "1").err
    assert run_aot(*line, "--segment-frames", "9").code == 0


def test_chosen_frames(run_aot: Aot, clip_file: Path, qwen: tuple[str, ...]) -> None:
    line = ("ask", clip_file, "what is the square doing?", *qwen, *SHORT, "--frame-pixels", "400")
    done = run_aot(*line, "--select-frames", "5", "--segment-frames", "4", "--json")
    assert done.code == 0, done.err
    assert done.json["visual_tokens"] == 2 * 2 * 2
    assert re.search(r"[34] of 9 sampled frames were chosen", done.err)  # the last has no other


def test_frames_of_fewer_pixels(run_aot: Aot, clip_file: Path, qwen: tuple[str, ...]) -> None:
    line = ("ask", clip_file, "what?", *qwen, *ONE)
    small = run_aot(*line, "--frame-pixels", "400")
    assert small.json["visual_tokens"] == PAIRS * 2 * 2
    assert small.json["config"]["model"]["frame_pixels"] == 400
    assert run_aot(*line, "--frame-pixels", "1000000").json["visual_tokens"] == PAIRS * TOKENS
    refused = run_aot(*line, "--frame-pixels", "63")
    assert refused.code == 2
    assert "at least 64 (8 x 8, one token)" in refused.err


def test_progress_counts_sampled_frames(
    run_aot: Aot, clip_file: Path, qwen: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    from aot_cli.output.console import StageBars

    calls: list[tuple[str, int, int]] = []
    monkeypatch.setattr(StageBars, "__call__", lambda self, *call: calls.append(call))
    run_aot("compress", clip_file, "-o", "t.pt", "--segment-frames", "4", *qwen)
    for stage in ("decode", "encode", "compress"):
        assert [(done, total) for name, done, total in calls if name == stage][-1] == (9, 9)


def test_a_folder_says_which_models_there_are(run_aot: Aot, clip_file: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2_audio"}))
    refused = run_aot("ask", clip_file, "what?", "--model", tmp_path)
    assert refused.code == 4
    assert refused.err.count("Qwen3-VL (") == refused.err.count("Qwen2.5-VL (") == 1
