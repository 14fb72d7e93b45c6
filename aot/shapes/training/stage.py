"""Run one stage of training with a learning-rate schedule; an interrupted stage is resumed."""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import nn

from aot.shapes.training.muon import Muon

__all__ = ["Schedule", "run_stage"]

_LOG_EVERY = 20


@dataclass(frozen=True, slots=True)
class Schedule:
    """Learning rates that rise over `warmup` steps and fall along a cosine to 2 % of the peak.

    Muon trains the matrices inside layers, with the peak `matrix_peak`. If `matrix_peak` is None,
    AdamW trains all parameters.
    """

    steps: int
    peak: float
    matrix_peak: float | None = None
    warmup: int = 100
    weight_decay: float = 0.05
    clip: float = 1.0

    def height(self, step: int) -> float:
        """Return the learning rate of a step as a share of the peak, at most 1."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done))


def run_stage(name: str, lesson: nn.Module, schedule: Schedule, folder: Path, checkpoint_every_s: float = 60.0) -> None:
    """Train every parameter of `lesson` that requires a gradient; resume from `folder/name.pt`.

    Args:
        name: name of the stage in the checkpoint, the log and the progress bar.
        lesson: module that returns, for a step, the loss and numbers that the log averages.
        schedule: learning rates and number of steps.
        folder: folder of the checkpoint and of `log.jsonl`.
        checkpoint_every_s: seconds between checkpoints.
    """
    optimizers = _optimizers(lesson, schedule)
    checkpoint = folder / f"{name}.pt"
    first = _resume(lesson, optimizers, checkpoint)
    saved_at = started_at = time.monotonic()
    sums: dict[str, list[float]] = defaultdict(list)
    with _progress() as progress:
        bar = progress.add_task(name, total=schedule.steps, completed=first)
        for step in range(first, schedule.steps):
            loss, facts = lesson(step)
            lesson.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(lesson.parameters(), schedule.clip)
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = group["peak"] * schedule.height(step)
                optimizer.step()
            for key, value in {"loss": loss.item(), **facts}.items():
                sums[key].append(value)
            progress.update(bar, completed=step + 1)
            if (step + 1) % _LOG_EVERY == 0:
                _log(folder, name, step + 1, time.monotonic() - started_at, sums)
                sums.clear()
            if time.monotonic() - saved_at > checkpoint_every_s or step + 1 == schedule.steps:
                _save(lesson, optimizers, step + 1, checkpoint)
                saved_at = time.monotonic()


def _optimizers(lesson: nn.Module, schedule: Schedule) -> list[torch.optim.Optimizer]:
    """Return AdamW alone, or AdamW and Muon (for matrices in layers) if `matrix_peak` is set."""
    wanted = {name: p for name, p in lesson.named_parameters() if p.requires_grad}
    inner = {name: p for name, p in wanted.items() if schedule.matrix_peak and p.ndim == 2 and ".layers." in name}
    outer = [p for name, p in wanted.items() if name not in inner]
    groups = [
        {"params": [p for p in outer if p.ndim >= 2], "peak": schedule.peak, "weight_decay": schedule.weight_decay},
        {"params": [p for p in outer if p.ndim < 2], "peak": schedule.peak, "weight_decay": 0.0},
    ]
    adam = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98))
    if not inner:
        return [adam]
    matrices = {"params": list(inner.values()), "peak": schedule.matrix_peak, "weight_decay": schedule.weight_decay}
    return [adam, Muon([matrices])]


def _resume(lesson: nn.Module, optimizers: list[torch.optim.Optimizer], checkpoint: Path) -> int:
    """Load `checkpoint` if it exists; return the index of the first step to run."""
    if not checkpoint.exists():
        return 0
    state = torch.load(checkpoint, weights_only=True)
    lesson.load_state_dict(state["lesson"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return int(state["step"])


def _save(lesson: nn.Module, optimizers: list[torch.optim.Optimizer], step: int, checkpoint: Path) -> None:
    """Write a checkpoint atomically, so that an interruption leaves the previous one."""
    partial = checkpoint.with_suffix(".partial")
    states = [optimizer.state_dict() for optimizer in optimizers]
    torch.save({"lesson": lesson.state_dict(), "optimizers": states, "step": step}, partial)
    partial.replace(checkpoint)


def _log(folder: Path, name: str, step: int, seconds: float, sums: dict[str, list[float]]) -> None:
    means = {key: round(sum(values) / len(values), 4) for key, values in sums.items()}
    with (folder / "log.jsonl").open("a", encoding="utf-8") as log:
        log.write(json.dumps({"stage": name, "step": step, "seconds": round(seconds, 1), **means}) + "\n")


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    )
