"""Options for large models: what transformers is told, what is refused beforehand, and that the answers are right."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import aot.models.loading.load_options as module
from aot.bench import synthetic_model
from aot.compression.in_llm import divide
from aot.compression.methods import build_method
from aot.config.schema import Config, GenerationConfig, ModelConfig, build_config
from aot.errors import ConfigError, ModelError
from aot.models import load_model
from aot.models.loading.checkpoints import load_network
from aot.models.loading.load_options import check_load_options, load_arguments
from aot.types import CompressedTokens, Needs
from tests.support.model_inputs import frames_for
from tests.support.tiny_checkpoint import make_checkpoint
from tests.support.tiny_internvl import make_internvl

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
GREEDY = GenerationConfig(max_new_tokens=12)
QUESTIONS = ["What moves?", "Is it red, or blue, or something else?"]
FRAMES = 4

needs_accelerate = pytest.mark.skipif(find_spec("accelerate") is None, reason="accelerate is not installed")
needs_bitsandbytes = pytest.mark.skipif(
    find_spec("bitsandbytes") is None or find_spec("accelerate") is None,
    reason="bitsandbytes and accelerate are not installed",
)


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Any:
    """without(*modules): those are not installed, and all others are."""
    return lambda *names: monkeypatch.setattr(module, "find_spec", lambda name: None if name in names else object())


# --- What is refused, before anything is fetched


@pytest.mark.parametrize(
    ("settings", "device", "missing", "said"),
    [
        ({"attention": "flash"}, CPU, (), r"--attn flash needs a CUDA device.*leave --attn out"),
        ({"attention": "flash", "dtype": "float32"}, CUDA, (), r"16-bit dtype; use --dtype bfloat16"),
        ({"attention": "flash"}, CUDA, ("flash_attn",), r"needs flash_attn, which is not .*pip install flash-attn "),
        (
            {"quantize": "4bit"},
            CPU,
            ("bitsandbytes", "accelerate"),
            r'--quantize 4bit needs bitsandbytes and accelerate, which are not .*; pip install "aot\[quantize\]"',
        ),
        ({"quantize": "8bit"}, CUDA, ("accelerate",), r"--quantize 8bit needs accelerate, which is not installed"),
        ({"device_map": "auto"}, CPU, ("accelerate",), r"--device-map auto needs accelerate.*pip install accelerate"),
    ],
)
def test_what_is_not_there(
    without: Any, settings: dict[str, Any], device: torch.device, missing: tuple[str, ...], said: str
) -> None:
    without(*missing)
    with pytest.raises(ConfigError, match=said):
        check_load_options(ModelConfig(**settings), device)
    without()
    if device == CUDA and settings.get("dtype") != "float32":
        check_load_options(ModelConfig(**settings), device)


def test_it_is_refused_before_the_checkpoint_is_looked_for(without: Any) -> None:
    without("bitsandbytes", "accelerate")
    for settings in ({"attention": "flash"}, {"quantize": "8bit"}, {"device_map": "auto"}):
        with pytest.raises(ConfigError):
            load_model(ModelConfig(name="no/such-model", **settings))
    with pytest.raises(ModelError):
        load_model(ModelConfig(name="no/such-model", offline=True))


def test_a_device_and_a_map_of_devices_contradict() -> None:
    with pytest.raises(ConfigError, match="device_map auto chooses the devices itself; leave out the device, cpu"):
        ModelConfig(device="cpu", device_map="auto")


@pytest.mark.parametrize("settings", [{"quantize": "4bit"}, {"device_map": "auto"}])
def test_random_weights_are_neither_quantized_nor_spread(without: Any, settings: dict[str, Any]) -> None:
    without()
    with pytest.raises(ConfigError, match="leave them out with --synthetic"):
        synthetic_model("onevision-0.5b", ModelConfig(**settings))
    with pytest.raises(ConfigError, match="CUDA"):
        synthetic_model("onevision-0.5b", ModelConfig(attention="flash", device="cpu"))


# --- What transformers is told


class Network(nn.Module):
    """Takes what `from_pretrained` is told; moving it afterwards is an error where it is placed."""

    told: dict[str, Any]

    @classmethod
    def from_pretrained(cls, name: str, **told: Any) -> tuple[Network, dict[str, Any]]:
        cls.told = told
        return cls(), {"missing_keys": []}

    def to(self, *args: Any, **kwargs: Any) -> Network:
        assert "device_map" not in self.told
        return super().to(*args, **kwargs)


@pytest.mark.parametrize("settings", [{}, {"device_map": "auto"}, {"quantize": "4bit"}, {"quantize": "8bit"}])
def test_the_loader_is_told(small_folder: Path, settings: dict[str, Any]) -> None:
    load_network(ModelConfig(name=str(small_folder), dtype="bfloat16", **settings), Network)
    told = Network.told
    assert (told["attn_implementation"], told["dtype"]) == ("sdpa", torch.bfloat16)
    assert told["use_safetensors"] and not told["trust_remote_code"]
    place = "cuda" if torch.cuda.is_available() else "cpu"
    expected = {"device_map": settings.get("device_map", {"": place})} if settings else {}
    assert {name: told[name] for name in ("device_map",) if name in told} == expected
    assert ("quantization_config" in told) == ("quantize" in settings)


def test_flash_attention_under_transformers_name() -> None:
    assert load_arguments(ModelConfig(attention="flash"), CUDA, torch.bfloat16) == {
        "attn_implementation": "flash_attention_2"
    }


def test_bits() -> None:
    four = load_arguments(ModelConfig(quantize="4bit"), CUDA, torch.bfloat16)
    assert four["device_map"] == {"": "cuda:0"}
    config = four["quantization_config"]
    assert (config.load_in_4bit, config.bnb_4bit_quant_type, config.bnb_4bit_compute_dtype) == (
        True,
        "nf4",
        torch.bfloat16,
    )
    eight = load_arguments(ModelConfig(quantize="8bit", device_map="auto"), CUDA, torch.float16)
    assert eight["device_map"] == "auto"
    assert eight["quantization_config"].load_in_8bit
    for told in (four, eight):
        kept = told["quantization_config"].llm_int8_skip_modules
        assert {"lm_head", "model.vision_tower", "model.visual", "model.multi_modal_projector"} == set(kept)


# --- For real, on the CPU


@pytest.fixture(scope="module", params=["llava", "internvl"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    make = make_internvl if request.param == "internvl" else make_checkpoint
    return make(tmp_path_factory.mktemp(request.param), grid=3 if make is make_internvl else 9)


@pytest.fixture(scope="module")
def plain(folder: Path) -> Any:
    return load_model(ModelConfig(name=str(folder), device="cpu"))


def kept(model: Any, config: Config) -> CompressedTokens:
    outer = divide(config, model.language_layers)[0]
    method = build_method(outer)
    visual = model.encode(frames_for(model, FRAMES), method.needs)
    return method.compress(visual, outer.token_budget(FRAMES, model.tokens_per_frame))


@torch.inference_mode()
def logits(model: Any, tokens: CompressedTokens) -> torch.Tensor:
    return model.network(inputs_embeds=model.prompt(tokens, QUESTIONS[0]).embeddings).logits


@needs_bitsandbytes
@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_only_the_language_models_layers_have_fewer_bits(folder: Path, plain: Any, bits: str) -> None:
    model = load_model(ModelConfig(name=str(folder), device="cpu", quantize=bits))  # type: ignore[arg-type]
    quantized = {"4bit": "Linear4bit", "8bit": "Linear8bitLt"}[bits]
    for name, part in model.network.named_modules():
        if isinstance(part, nn.Linear):
            inside = name.startswith("model.language_model.")
            assert (type(part).__name__ == quantized) == inside, name
    needs = Needs((2, -1), frame_embeddings=True)
    frames = frames_for(plain, FRAMES)
    expected, found = plain.encode(frames, needs), model.encode(frames, needs)
    assert torch.equal(found.features, expected.features)
    assert torch.equal(found.saliency[2], expected.saliency[2])
    assert model.placement["dtype"] == "float32"


@needs_bitsandbytes
def test_four_bits_compute_with_the_weights_they_stand_for(folder: Path, plain: Any) -> None:
    """The unquantized model with the quantized weights, spelt out, gives the same logits."""
    from bitsandbytes.functional import dequantize_4bit

    model = load_model(ModelConfig(name=str(folder), device="cpu", quantize="4bit"))
    twin = load_model(ModelConfig(name=str(folder), device="cpu"))
    changed = 0
    for name, part in model.network.named_modules():
        if type(part).__name__ == "Linear4bit":
            spelt = dequantize_4bit(part.weight.data, part.weight.quant_state)
            changed += not torch.equal(twin.network.get_submodule(name).weight, spelt)
            twin.network.get_submodule(name).weight.copy_(spelt)
    assert changed == 3 * 7
    tokens = kept(plain, Config(ratio=0.5))
    torch.testing.assert_close(logits(model, tokens), logits(twin, tokens), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(logits(model, tokens), logits(plain, tokens), atol=1e-2)
    assert model.read(tokens).answers(QUESTIONS, GREEDY) == twin.read(tokens).answers(QUESTIONS, GREEDY)
    config = build_config({"ratio": 0.6, "method": "uniform", "inner": {"name": "pyramiddrop"}})
    inner, tokens = divide(config, 3)[1], kept(plain, config)
    said = ["".join(each.generate(tokens, QUESTIONS[0], GREEDY, inner)) for each in (model, twin)]
    assert said[0] == said[1]


@needs_bitsandbytes
def test_eight_bits_are_close(folder: Path, plain: Any) -> None:
    model = load_model(ModelConfig(name=str(folder), device="cpu", quantize="8bit"))
    tokens = kept(plain, Config(ratio=0.5))
    both = torch.stack([logits(each, tokens).flatten() for each in (plain, model)])
    assert 0.97 < torch.corrcoef(both)[0, 1] < 1
    assert "".join(model.generate(tokens, QUESTIONS[0], GREEDY))


@needs_bitsandbytes
@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_a_checkpoint_that_is_quantized_is_left_where_it_is(
    folder: Path, plain: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bits: str
) -> None:
    model = load_model(ModelConfig(name=str(folder), device="cpu", quantize=bits))  # type: ignore[arg-type]
    shutil.copytree(folder, tmp_path / "quantized", ignore=shutil.ignore_patterns("*.safetensors"))
    model.network.save_pretrained(tmp_path / "quantized")
    monkeypatch.setattr(type(model.network), "to", None)
    again = load_model(ModelConfig(name=str(tmp_path / "quantized"), device="cpu", dtype="float32"))
    tokens = kept(plain, Config(ratio=0.5))
    torch.testing.assert_close(logits(again, tokens), logits(model, tokens))


def weights_bytes(folder: Path) -> int:
    return (folder / "model.safetensors").stat().st_size


@needs_accelerate
@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_a_model_that_does_not_fit_is_fetched_part_by_part(
    folder: Path, plain: Any, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    """What the memory does not hold stays on the disk, and hooks fetch it for each call."""
    import transformers.integrations.accelerate as placing
    from accelerate.hooks import AlignDevicesHook

    memory = {"cpu": int(share * weights_bytes(folder))}
    monkeypatch.setattr(placing, "get_max_memory", lambda given=None: memory)
    model = load_model(ModelConfig(name=str(folder), device_map="auto"))
    places = set(model.network.hf_device_map.values())
    assert "disk" in places and ("cpu" in places or share < 0.5)
    absent = [name for name, weight in model.network.named_parameters() if weight.device.type == "meta"]
    assert absent

    fetched: list[AlignDevicesHook] = []
    before = AlignDevicesHook.pre_forward

    def fetch(hook: AlignDevicesHook, *args: Any, **kwargs: Any) -> Any:
        if hook.offload:
            fetched.append(hook)
        return before(hook, *args, **kwargs)

    monkeypatch.setattr(AlignDevicesHook, "pre_forward", fetch)
    needs = Needs((2, -1), frame_embeddings=True)
    frames = frames_for(plain, FRAMES)
    expected, found = plain.encode(frames, needs), model.encode(frames, needs)
    assert torch.equal(found.features, expected.features)
    assert torch.equal(found.saliency[2], expected.saliency[2])
    tokens = kept(model, Config(ratio=0.5))
    assert torch.equal(logits(model, tokens), logits(plain, kept(plain, Config(ratio=0.5))))
    assert fetched
    assert model.read(tokens).answers(QUESTIONS, GREEDY) == plain.read(tokens).answers(QUESTIONS, GREEDY)
    config = build_config({"ratio": 0.6, "method": "uniform", "inner": {"name": "fastv"}})
    inner, tokens = divide(config, 3)[1], kept(plain, config)
    said = ["".join(each.generate(tokens, QUESTIONS[0], GREEDY, inner)) for each in (model, plain)]
    assert said[0] == said[1]
    scores = []
    for each in (model, plain):
        scorer = each.frame_scorer(QUESTIONS)
        scorer.add(expected)
        scores.append(scorer.scores())
    assert torch.equal(*scores)
    assert [name for name, weight in model.network.named_parameters() if weight.device.type == "meta"] == absent
    assert model.placement["device"] == "cpu"


@needs_accelerate
def test_a_model_that_fits_is_where_it_would_be(folder: Path, plain: Any) -> None:
    model = load_model(ModelConfig(name=str(folder), device_map="auto"))
    tokens = kept(plain, Config(ratio=0.5))
    assert all(weight.device.type != "meta" for weight in model.network.parameters())
    torch.testing.assert_close(logits(model, tokens).cpu(), logits(plain, tokens))


@needs_accelerate
def test_missing_weights_are_still_refused(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers.integrations.accelerate as placing

    from tests.support.tiny_checkpoint import drop_weights

    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    drop_weights(copy, "multi_modal_projector.linear_2")
    monkeypatch.setattr(placing, "get_max_memory", lambda given=None: {"cpu": weights_bytes(folder) // 2})
    with pytest.raises(ModelError, match="lacks 2 weights"):
        load_model(ModelConfig(name=str(copy), device_map="auto"))
    assert json.loads((copy / "config.json").read_text())
