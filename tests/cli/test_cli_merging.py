"""Methods that merge inside the vision tower, through the real entry point."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.support.cli_run import Aot

METHODS = ["tome", "tempme"]


@pytest.mark.parametrize("ratio", ["0.05", "0.1", "0.37", "0.9"])
@pytest.mark.parametrize("method", METHODS)
def test_budgets_are_exact(run_aot: Aot, small: tuple[str, ...], clip_file: Path, method: str, ratio: str) -> None:
    arguments = ("-o", "t.pt", "--method", method, "--ratio", ratio, "--json", *small)
    report = run_aot("compress", clip_file, *arguments).json
    assert report["kept_tokens"] == report["budget_tokens"] == round(float(ratio) * 8 * 25)
    assert report["visual_tokens"] == 200
    assert sum(frame["kept"] for frame in report["frames"]) == report["kept_tokens"]
    assert 0 < report["facts"]["tower_share"] < 1
    found = torch.load("t.pt", weights_only=True)
    assert found["mass"].sum().item() == pytest.approx(200, rel=1e-5)


@pytest.mark.parametrize("segment", [1, 3, 5, 64])
@pytest.mark.parametrize("method", METHODS)
def test_segments(run_aot: Aot, small: tuple[str, ...], clip_file: Path, method: str, segment: int) -> None:
    arguments = ("--method", method, "--json", *small, "--frames", "23", "--set", f"sampling.segment_frames={segment}")
    report = run_aot("compress", clip_file, "-o", "t.pt", *arguments).json
    assert report["kept_tokens"] == report["budget_tokens"] == round(0.1 * 23 * 25)


@pytest.mark.parametrize("method", METHODS)
def test_answers(run_aot: Aot, small: tuple[str, ...], clip_file: Path, method: str) -> None:
    arguments = ("--method", method, "--max-new-tokens", "8", *small)
    whole = run_aot("ask", clip_file, "What moves?", *arguments)
    run_aot("compress", clip_file, "-o", "t.pt", "--method", method, *small)
    from_file = run_aot("ask", "t.pt", "What moves?", "--max-new-tokens", "8", *small[:2])
    assert whole.code == from_file.code == 0
    assert whole.out == from_file.out


@pytest.mark.parametrize("method", METHODS)
def test_inspect(run_aot: Aot, small: tuple[str, ...], clip_file: Path, method: str) -> None:
    shown = run_aot("inspect", clip_file, "--method", method, *small)
    assert shown.code == 0
    assert "merges: 0." in shown.out
    predicted = run_aot("inspect", clip_file, "--method", method, "--frames", "8", "--json").json["prediction"]
    assert predicted["tokens_after"] == round(0.1 * predicted["tokens_before"])


def test_presets(run_aot: Aot, small: tuple[str, ...], clip_file: Path) -> None:
    for method in METHODS:
        found = run_aot("compress", clip_file, "-o", f"{method}.pt", "--preset", f"methods/{method}", "--json", *small)
        assert found.json["config"]["method"] == method
        assert found.json["kept_tokens"] == 20
