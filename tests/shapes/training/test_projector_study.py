"""docs/studies/projector on two drawn clips: what is trained, and what its gradient goes through."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import aot
from aot.config.schema import ModelConfig
from aot.shapes.training.stage import Schedule, run_stage

STUDY = Path(__file__).parents[3] / "docs" / "studies" / "projector"
BUNDLED = Path(aot.__file__).parent / "shapes" / "model" / "model.safetensors"
PROJECTOR = {f"multi_modal_projector.linear_{k}.{name}" for k in (1, 2) for name in ("weight", "bias")}


@pytest.fixture(scope="module")
def study() -> Iterator[Any]:
    """The scripts of the study, and its lesson with two clips to validate on, two in a step."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(STUDY))
        import gradients  # type: ignore[import-not-found]
        import train  # type: ignore[import-not-found]

        patch.setattr(train, "CLIPS", 2)
        config = aot.build_config({"method": "aot", "ratio": 0.1, "model": train.MODEL})
        lesson = train.ProjectorLesson(config, Path(), validation_clips=2)
        state = deepcopy(lesson.projector.state_dict())
        yield SimpleNamespace(gradients=gradients, lesson=lesson, state=state)
    for name in ("train", "gradients"):
        del sys.modules[name]


@pytest.fixture
def lesson(study: Any, tmp_path: Path) -> Any:
    study.lesson.projector.load_state_dict(study.state)
    study.lesson.zero_grad()
    study.lesson.network.model.language_model.requires_grad_(False)
    study.lesson.lowest.fill_(torch.inf)
    study.lesson.folder = tmp_path
    return study.lesson


def changed(folder: Path) -> set[str]:
    """The names of the weights in which a saved checkpoint differs from the bundled one."""
    before, after = load_file(BUNDLED), load_file(folder / "model" / "model.safetensors")
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name].float(), after[name].float())}


def test_only_the_projector_is_trained_and_what_is_saved_can_be_loaded(lesson: Any, tmp_path: Path) -> None:
    assert len(lesson.kept(lesson.held_out[0])) == round(0.1 * 512)
    lesson.validate()
    assert not changed(tmp_path)
    run_stage("aot", lesson, Schedule(2, 1e-3, warmup=1), tmp_path)
    lesson.save(tmp_path / "model")
    assert changed(tmp_path) == PROJECTOR
    model = aot.load_model(ModelConfig(name=str(tmp_path / "model"), device="cpu"))
    assert model.identity.fingerprint != lesson.model.identity.fingerprint  # it makes other tokens
    saved = model.network.model.multi_modal_projector.state_dict()
    assert all(torch.equal(weight, saved[name]) for name, weight in lesson.projector.state_dict().items())


def test_the_best_projector_is_saved(lesson: Any, tmp_path: Path) -> None:
    best = lesson.validate()["validation_loss"]
    with torch.no_grad():
        lesson.projector.linear_2.bias.add_(1.0)
    assert lesson.validate()["validation_loss"] > best
    assert not changed(tmp_path)


def test_the_language_model_can_be_trained_too(lesson: Any, tmp_path: Path) -> None:
    weights = list(lesson.network.model.language_model.requires_grad_().parameters())
    lesson.answer(lesson.held_out, np.random.default_rng(0))[0].backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in weights if weight.ndim > 1)
    lesson.save(tmp_path / "model")
    assert not changed(tmp_path)
    saved = load_file(tmp_path / "model" / "model.safetensors")
    trained = {name for name, weight in saved.items() if weight.dtype == torch.float32}  # the others are as bundled
    assert trained == PROJECTOR | {name for name in saved if name.startswith("language_model.")}


def test_a_step_along_the_gradient_lowers_the_loss_of_the_same_batch(lesson: Any) -> None:
    optimizer = torch.optim.SGD(lesson.projector.parameters(), lr=0.01)
    losses = []
    for _ in range(3):
        loss, _ = lesson.answer(lesson.held_out, np.random.default_rng(0))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > losses[1] > losses[2]
    assert all(weight.grad is None for name, weight in lesson.named_parameters() if "projector" not in name)


def test_the_gradient_passes_through_both_transports(study: Any, lesson: Any) -> None:
    whole, *others = (
        study.gradients.gradient(lesson, lesson.held_out, files) for files in ((), *study.gradients.PHASES.values())
    )
    assert whole.norm() > 0
    assert all((whole - other).norm() > 1e-4 * whole.norm() for other in others)
