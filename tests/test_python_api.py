"""The public names as a user's script uses them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import aot
from aot.config.schema import BUNDLED_MODEL, REAL_MODEL, SamplingConfig
from aot.config.sources import resolve_config
from aot.errors import ConfigError
from aot.models.families.llava import Llava
from aot.types import Needs

PAGE = Path(__file__).parents[1] / "docs" / "python-api.md"


def run_example(heading: str, clip_file: Path) -> dict[str, Any]:
    """Run the example under a heading of the page with the bundled model; return its names."""
    section = PAGE.read_text(encoding="utf-8").partition(f"## {heading}\n")[2]
    code = section.partition("```python\n")[2].partition("```")[0]
    assert REAL_MODEL in code
    shutil.copy(clip_file, "clip.mp4")
    names: dict[str, Any] = {}
    exec(code.replace(REAL_MODEL, BUNDLED_MODEL), names)
    return names


def test_the_example_of_the_page(
    tmp_path: Path, clip_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names = run_example("From Python", clip_file)
    assert capsys.readouterr().out.strip()
    file = aot.load_tokens("clip.tokens.pt")
    assert torch.equal(file.tokens.features, names["result"].tokens.features)
    assert file.report == names["result"].report
    assert file.report.config == names["config"]
    assert Path("kept.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_the_example_of_training(tmp_path: Path, clip_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = run_example("Train with compression in the loop", clip_file)
    model, projector, visual = names["model"], names["projector"], names["visual"]
    assert all(weight.grad.isfinite().all() and weight.grad.any() for weight in projector.parameters())
    encoded = model.encode(names["frames"], names["method"].needs)
    torch.testing.assert_close(visual.features.detach(), encoded.features)
    # The gradient is the slope of the loss along it.
    slope = sum(float(weight.grad.square().sum()) for weight in projector.parameters())
    step = 1e-3 / slope

    def loss() -> float:
        moved = replace(visual, features=projector(torch.cat(names["inputs"])))
        kept = names["method"].compress(moved, len(names["kept"].features))
        prompt = model.prompt(kept, "what happens?")
        logits = model.network(inputs_embeds=prompt.embeddings, logits_to_keep=1).logits[0, -1]
        return float(-logits.log_softmax(-1)[names["word"]])

    with torch.no_grad():
        assert loss() == pytest.approx(float(names["loss"].detach()))
        for weight in projector.parameters():
            weight.sub_(step * weight.grad)
        assert float(names["loss"].detach()) - loss() == pytest.approx(1e-3, rel=0.1)


def test_python_and_command_line_settle_the_same_by_a_models_name(tmp_path: Path) -> None:
    config = aot.build_config({"model": {"name": BUNDLED_MODEL}})
    assert config.sampling.frames == 8
    assert config == resolve_config({}, BUNDLED_MODEL, folder=tmp_path)
    assert aot.build_config({"model": {"name": BUNDLED_MODEL}, "sampling": {"frames": 3}}).sampling.frames == 3
    assert aot.build_config({"model": {"name": "./shapes"}}).sampling.frames == SamplingConfig().frames


@pytest.mark.parametrize("kind", [str, Path])
def test_paths_as_text_or_paths(
    kind: type, tmp_path: Path, clip_file: Path, small_folder: Path, small_model: Llava
) -> None:
    config = aot.build_config({"model": {"name": kind(small_folder)}, "sampling": {"frames": 2}})
    assert config.model.name == str(small_folder)
    assert aot.probe(kind(clip_file)).info.frames == 24
    assert len(aot.decode(kind(clip_file), config.sampling, size=(4, 4)).pixels) == 2
    result = aot.Pipeline(small_model, config).compress(kind(clip_file))
    for name in ("a.pt", "a.safetensors"):
        aot.save_tokens(kind(tmp_path / name), result.tokens, result.report)
        assert torch.equal(aot.load_tokens(kind(tmp_path / name)).tokens.features, result.tokens.features)


@pytest.mark.parametrize("family", ["small_folder", "qwen3_folder"])
def test_what_models_return_can_be_trained_with(family: str, clip_file: Path, request: pytest.FixtureRequest) -> None:
    of_model = {"name": request.getfixturevalue(family), "frame_pixels": 3136}
    config = aot.build_config({"model": of_model, "sampling": {"frames": 2}, "ratio": 0.5})
    model = aot.load_model(config.model)
    size = model.frame_size(aot.probe(clip_file).info, 2)
    visual = model.encode(aot.decode(clip_file, config.sampling, size=size), Needs(saliency_layers=(-1,)))
    tokens = aot.Pipeline(model, config).compress(clip_file).tokens
    embeddings = model.prompt(tokens, "what happens?").embeddings  # type: ignore[attr-defined]
    for values in (visual.features, visual.saliency[-1], tokens.features, embeddings):
        weight = torch.ones((), requires_grad=True)
        (values * weight).sum().backward()
        assert weight.grad is not None
        assert not values.requires_grad


def test_frames_of_another_size_are_refused_with_the_right_one(clip_file: Path, small_model: Llava) -> None:
    frames = aot.decode(clip_file, SamplingConfig(frames=2))
    with pytest.raises(ConfigError, match=r"120 x 160 pixels .*reads 36 x 36; decode them with size=\(36, 36\)"):
        small_model.encode(frames, Needs())
