"""A stage that was cut off goes on as if it had not been."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from aot.shapes.training.stage import Schedule, run_stage


class Line(nn.Module):
    """Fits a line; every step has its own data."""

    def __init__(self, cut_off_at: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([nn.Linear(4, 1)])  # so named that its matrix is one within layers
        self.cut_off_at = cut_off_at

    def forward(self, step: int) -> tuple[Tensor, dict[str, float]]:
        if step == self.cut_off_at:
            raise KeyboardInterrupt
        x = torch.randn(16, 4, generator=torch.Generator().manual_seed(step))
        loss = (self.layers[0](x) - x.sum(1, keepdim=True)).square().mean()
        return loss, {"step_was": float(step)}


SCHEDULE = Schedule(60, 0.05, matrix_peak=0.5, warmup=5)


def test_resumed_is_uninterrupted(tmp_path: Path) -> None:
    whole, parts = Line(), Line(cut_off_at=37)
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    run_stage("line", whole, SCHEDULE, tmp_path / "whole", checkpoint_every_s=0.0)
    with pytest.raises(KeyboardInterrupt):
        run_stage("line", parts, SCHEDULE, tmp_path / "parts", checkpoint_every_s=0.0)
    resumed = Line()
    run_stage("line", resumed, SCHEDULE, tmp_path / "parts", checkpoint_every_s=0.0)
    assert torch.equal(whole.layers[0].weight, resumed.layers[0].weight)
    assert not list(tmp_path.rglob("*.partial"))


def test_it_learns_and_keeps_a_log(tmp_path: Path) -> None:
    run_stage("line", Line(), SCHEDULE, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [20, 40, 60]
    assert rows[-1]["loss"] < 0.1 * rows[0]["loss"]
    assert rows[0]["step_was"] == pytest.approx(9.5)


def test_a_finished_stage_is_not_run_again(tmp_path: Path) -> None:
    run_stage("line", Line(), SCHEDULE, tmp_path)
    run_stage("line", Line(cut_off_at=0), SCHEDULE, tmp_path)


def test_the_rate_rises_then_falls_to_a_fiftieth() -> None:
    heights = [SCHEDULE.height(step) for step in range(60)]
    assert max(heights) == pytest.approx(1)
    assert heights.index(max(heights)) in (4, 5)
    assert SCHEDULE.height(60) == pytest.approx(0.02)
