"""A network over several devices gives what it gives on one; the devices are pretended, mixing them is an error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from aot.compression.in_llm import divide
from aot.compression.methods import build_method
from aot.config.schema import Config, GenerationConfig, ModelConfig, build_config
from aot.models import load_model
from aot.plugins import INNER
from aot.runtime.devices import input_device
from aot.types import CompressedTokens, Needs
from tests.support.model_inputs import frames_for
from tests.support.pretend_devices import PretendDevices, spread
from tests.support.tiny_internvl import make_internvl

FRAMES = 4
QUESTIONS = ["What moves?", "Is it red, or blue, or something else?"]
GREEDY = GenerationConfig(max_new_tokens=12)
FIRST, SECOND, THIRD = "mtia:0", "mtia:1", "mtia:2"

# The tower ends on the second device, the projector is on the third; the language model begins on the second.
PLACES = {
    "model.vision_tower": FIRST,
    **{f"model.vision_tower.encoder.{layers}.{n}": SECOND for layers in ("layer", "layers") for n in (4, 5, 6)},
    "model.multi_modal_projector": THIRD,
    "model.language_model": SECOND,
    "model.language_model.layers.1": THIRD,
    "model.language_model.layers.2": FIRST,
    "model.language_model.norm": FIRST,
    "lm_head": FIRST,
}


@pytest.fixture(params=["llava", "internvl"])
def folder(request: pytest.FixtureRequest, small_folder: Path, tmp_path: Path) -> Path:
    return small_folder if request.param == "llava" else make_internvl(tmp_path / "internvl")


@pytest.fixture
def one(folder: Path) -> Any:
    return load_model(ModelConfig(name=str(folder), device="cpu", encode_batch_frames=3))


@pytest.fixture
def devices() -> PretendDevices:
    return PretendDevices()


@pytest.fixture
def several(one: Any, folder: Path, devices: PretendDevices) -> Iterator[Any]:
    """The same model over three devices, which are pretended during the test."""
    network = type(one.network).from_pretrained(folder, dtype="float32").eval().requires_grad_(False)
    spread(devices, network, PLACES)
    if hasattr(network.model, "image_newline"):
        devices.put(network.model.image_newline, FIRST)
    with devices:
        yield type(one)(network, one.tokenizer, one.config, one.identity)


def kept(model: Any, config: Config) -> CompressedTokens:
    outer = divide(config, model.language_layers)[0]
    method = build_method(outer)
    visual = model.encode(frames_for(model, FRAMES), method.needs)
    return method.compress(visual, outer.token_budget(FRAMES, model.tokens_per_frame))


def test_pretended_devices_do_not_mix(devices: PretendDevices) -> None:
    with devices:
        first, second = torch.ones(2, device=FIRST), torch.ones(2).to(SECOND)
        assert (str((first * 2)[1:].device), str(second.float().device)) == (FIRST, SECOND)
        assert str((first * torch.tensor(3.0)).device) == FIRST
        for mix in (lambda: first + second, lambda: torch.cat([first, second]), lambda: first[second.long()]):
            with pytest.raises(RuntimeError, match="expected one device"):
                mix()
        assert torch.equal(first + second.to(FIRST), torch.full((2,), 2.0, device=FIRST))


def test_what_is_encoded_is_the_same_and_on_one_device(one: Any, several: Any, devices: PretendDevices) -> None:
    needs = Needs((2, -1), (-1,), frame_embeddings=True, pooling_attention=True)
    frames = frames_for(one, FRAMES)
    expected, found = one.encode(frames, needs), several.encode(frames, needs)
    assert str(several.device) == several.placement["device"] == FIRST
    for name in ("features", "frame_embeddings", "pooling_attention"):
        assert str(getattr(found, name).device) == THIRD
        assert torch.equal(getattr(found, name).cpu(), getattr(expected, name))
    for name, layer in (("saliency", 2), ("saliency", -1), ("keys", -1)):
        assert str(getattr(found, name)[layer].device) == THIRD
        assert torch.equal(getattr(found, name)[layer].cpu(), getattr(expected, name)[layer])
    assert devices.moves > 0


@pytest.mark.parametrize("method", ["aot", "aot-dyn", "fastvid", "visionzip", "prunevid", "standout", "none"])
def test_answers_are_the_same(one: Any, several: Any, method: str) -> None:
    config = Config(ratio=0.4, method=method)
    expected = one.read(kept(one, config)).answers(QUESTIONS, GREEDY)
    tokens = kept(several, config)
    assert several.read(tokens).answers(QUESTIONS, GREEDY) == expected
    streamed = several.generate(tokens, QUESTIONS[0], GREEDY)
    assert "".join(streamed.pieces()) == expected[0]  # not in a thread, where nothing is pretended


@pytest.mark.parametrize("name", INNER)
def test_reductions_inside_are_the_same(one: Any, several: Any, name: str) -> None:
    config = build_config({"ratio": 0.5, "method": "uniform", "inner": {"name": name}})
    inner = divide(config, one.language_layers)[1]
    whole = one.generate(kept(one, config), QUESTIONS[0], GREEDY, inner)
    answer = several.generate(kept(several, config), QUESTIONS[0], GREEDY, inner)
    assert "".join(answer.pieces()) == "".join(whole)
    assert answer.layer_tokens == whole.layer_tokens


@pytest.mark.parametrize("folder", ["llava"], indirect=True)
@pytest.mark.parametrize("method", ["tome", "tempme"])
def test_towers_that_merge_are_the_same(one: Any, several: Any, method: str) -> None:
    config = Config(ratio=0.4, method=method)
    expected, found = kept(one, config), kept(several, config)
    assert torch.equal(found.features.cpu(), expected.features)
    assert several.read(found).answers(QUESTIONS, GREEDY) == one.read(expected).answers(QUESTIONS, GREEDY)


def test_frames_are_scored_the_same(one: Any, several: Any) -> None:
    scores = []
    for model in (one, several):
        scorer = model.frame_scorer(["a red ox?", "blue"])
        scorer.add(model.encode(frames_for(one, FRAMES), Needs()))
        scores.append(scorer.scores())
    assert torch.equal(*scores)


@pytest.mark.gpu  # a device by its number
def test_inputs_belong_where_a_hook_says() -> None:
    """As accelerate leaves a module whose weights are fetched for each call."""
    module = nn.Sequential(nn.Linear(2, 2, device="meta"), nn.Linear(2, 2, device="meta"))
    assert input_device(module) == torch.device("meta")
    module[0]._hf_hook = SimpleNamespace(execution_device=None)
    assert input_device(module) == torch.device("meta")
    module[1]._hf_hook = SimpleNamespace(hooks=(SimpleNamespace(), SimpleNamespace(execution_device="cpu")))
    assert input_device(module) == torch.device("cpu")
    module[0]._hf_hook = SimpleNamespace(execution_device=0)  # the first GPU's number is a device too
    with suppress(RuntimeError):  # a torch that is built for CPUs alone knows no device by number
        assert input_device(module) == torch.device(0)
