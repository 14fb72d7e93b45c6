"""Checkpoints in LLaVA's own layout are what their twins in transformers' layout are, weight for weight."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlavaOnevisionForConditionalGeneration

from aot.compression.methods import build_method
from aot.config.schema import Config, ModelConfig
from aot.errors import ConfigError, ModelError
from aot.models import load_model
from aot.models.families.llava import Llava
from aot.models.families.original_llava import network_config
from aot.types import Pooling
from tests.support.checkpoint_files import Touch, edit_json
from tests.support.model_inputs import PROMPTS, QUESTION, frames_for, stock_inputs
from tests.support.original_checkpoint import (
    HEAD_WIDTH,
    TOWER,
    make_original,
    make_twins,
    rewrite_weights,
    whole_siglip,
    write_weights,
)
from tests.support.tiny_checkpoint import WEIGHTS

FRAMES = 3
ALL = {"none": Config(method="none"), "aot": Config(method="aot", ratio=1.0)}
VIDEO = {"mm_newline_position": "grid", "mm_spatial_pool_stride": 2, "image_aspect_ratio": "anyres_max_9"}


def load(folder: Path, **changes: Any) -> Llava:
    model = load_model(ModelConfig(name=str(folder), **{"device": "cpu", "dtype": "float32", **changes}))
    assert isinstance(model, Llava)
    return model


def stock(twin: Path) -> Any:
    return LlavaOnevisionForConditionalGeneration.from_pretrained(twin, dtype="float32").eval()


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_twins(tmp_path_factory.mktemp("twins"))


@pytest.fixture(scope="module")
def deep_twins(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """With as many blocks as the real tower."""
    return make_twins(tmp_path_factory.mktemp("deep"), blocks=26)


@pytest.fixture
def folder(twins: tuple[Path, Path], tmp_path: Path) -> Path:
    """An original to damage."""
    return Path(shutil.copytree(twins[0], tmp_path / "copy"))


def assert_same_network(found: Llava, twin: Path) -> None:
    expected = stock(twin).state_dict()
    weights = found.network.state_dict()
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weight, expected[name]) for name, weight in weights.items())


# --- The same network


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("depth", ["twins", "deep_twins"])
def test_logits_are_the_stock_twins_from_the_pixels(depth: str, method: str, request: pytest.FixtureRequest) -> None:
    original, twin = request.getfixturevalue(depth)
    model, config = load(original), ALL[method]
    frames = frames_for(model, FRAMES)
    budget = config.token_budget(FRAMES, model.tokens_per_frame)
    chosen = build_method(config)
    tokens = chosen.compress(model.encode(frames, chosen.needs), budget)
    with torch.inference_mode():
        found = model.network(inputs_embeds=model.prompt(tokens, QUESTION).embeddings).logits
        expected = stock(twin)(**stock_inputs(load(twin), frames, PROMPTS["native"])).logits
    assert torch.equal(found, expected)
    assert found.std() > 0.1


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("tied", [False, True])
def test_single_and_sharded_tied_and_not(tied: bool, shards: int, tmp_path: Path) -> None:
    _, twin = make_twins(tmp_path, blocks=2, tied=tied)
    original = make_original(tmp_path / "sharded", twin, shards=shards)
    names = {name for file in original.glob("*.safetensors") for name in load_file(file)}
    assert ("lm_head.weight" in names) != tied
    model = load(original)
    assert_same_network(model, twin)
    assert (model.network.lm_head.weight is model.network.get_input_embeddings().weight) == tied


def test_the_whole_siglip_may_be_there(deep_twins: tuple[Path, Path], tmp_path: Path) -> None:
    """Its 27th block and its pooling head: LLaVA's features do not go through them."""
    original = Path(shutil.copytree(deep_twins[0], tmp_path / "whole"))
    rewrite_weights(original, whole_siglip())
    model = load(original)
    assert model.placement["vision_blocks"] == 26
    assert_same_network(model, deep_twins[1])


def test_the_norm_after_the_features_may_be_missing(folder: Path, twins: tuple[Path, Path]) -> None:
    assert len(rewrite_weights(folder, without=TOWER + "post_layernorm")) == 2
    found, expected = (load(each).network.state_dict() for each in (folder, twins[1]))
    differing = {name for name, weight in found.items() if not torch.equal(weight, expected[name])}
    assert differing == {"model.vision_tower.post_layernorm.weight", "model.vision_tower.post_layernorm.bias"}


def test_buffers_that_older_versions_stored_do_not_matter(folder: Path, twins: tuple[Path, Path]) -> None:
    rewrite_weights(
        folder,
        {
            "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4),
            TOWER + "embeddings.position_ids": torch.arange(81)[None],
        },
    )
    assert_same_network(load(folder), twins[1])


def test_patches_need_not_fill_the_picture(tmp_path: Path) -> None:
    """27 patches of 14 pixels in 384, as in the real tower: frames have 384, not 378."""
    _, twin = make_twins(tmp_path, grid=27, blocks=2)
    weights = load_file(twin / WEIGHTS)
    patches = torch.randn(HEAD_WIDTH, 3, 14, 14, generator=torch.Generator().manual_seed(0)) / 24
    write_weights(twin, {**weights, "vision_tower.vision_model.embeddings.patch_embedding.weight": patches})
    vision = json.loads((twin / "config.json").read_text(encoding="utf-8"))["vision_config"]
    edit_json(twin / "config.json", vision_config={**vision, "image_size": 384, "patch_size": 14})
    model = load(make_original(tmp_path / "real", twin))
    assert (model.image_size, model.grid) == ((384, 384), (27, 27))
    frames = frames_for(model, 1)
    inputs = stock_inputs(model, frames, PROMPTS["native"].replace("<video>", ""))["pixel_values_videos"]
    with torch.inference_mode():
        expected = stock(twin).model.get_video_features(inputs, vision_feature_layer=-1).pooler_output
        pooled = ALL["none"]
        tokens = build_method(pooled).compress(model.encode(frames, build_method(pooled).needs), 196)
    assert torch.equal(tokens.features, expected.reshape(-1, 32)[:196])


def test_nothing_is_drawn_at_random(twins: tuple[Path, Path]) -> None:
    before = torch.get_rng_state()
    load(twins[0])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_network_has_the_dtype(twins: tuple[Path, Path], dtype: str) -> None:
    network = load(twins[0], dtype=dtype).network
    assert {weight.dtype for weight in network.parameters()} == {getattr(torch, dtype)}
    assert not network.training and not any(weight.requires_grad for weight in network.parameters())
    assert network.config.vision_config._attn_implementation == "sdpa"


def test_a_device_that_is_not_there(twins: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="--device auto"):
        load(twins[0], device="cuda")


def test_generation_settings_come_with_the_checkpoint(folder: Path) -> None:
    edit_json(folder / "generation_config.json", repetition_penalty=1.05, do_sample=True, top_k=20)
    assert load(folder).network.generation_config.repetition_penalty == 1.05
    (folder / "generation_config.json").unlink()
    assert load(folder).network.generation_config.eos_token_id == 258  # config.json's


def test_pixels_are_centerd_on_a_half(twins: tuple[Path, Path]) -> None:
    model = load(twins[0])
    assert not list(twins[0].glob("*processor*"))
    assert (model.mean.unique().tolist(), model.std.unique().tolist()) == ([0.5], [0.5])


# --- Its configuration

SO400M = {
    TOWER + "embeddings.patch_embedding.weight": (1152, 3, 14, 14),
    TOWER + "embeddings.position_embedding.weight": (729, 1152),
    **{TOWER + f"encoder.layers.{k}.mlp.fc1.weight": (4304, 1152) for k in range(27)},
}
QWEN2_7B = {
    "architectures": ["LlavaQwenForCausalLM"],
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "max_position_embeddings": 32768,
    "mm_projector_type": "mlp2x_gelu",
    "mm_spatial_pool_mode": "bilinear",
    "model_type": "llava",
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "sliding_window": 131072,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "vocab_size": 152064,
}


@pytest.mark.parametrize("blocks", [25, 26, 27])
def test_the_real_sizes(blocks: int) -> None:
    """A tower as wide as the real one has 26 blocks, so that one with fewer is not taken for a smaller one."""
    shapes = {k: shape for k, shape in SO400M.items() if not any(f"layers.{n}." in k for n in range(blocks, 27))}
    found = network_config("a name", QWEN2_7B, shapes)
    vision, text = found.vision_config, found.text_config
    assert (vision.hidden_size, vision.num_attention_heads, vision.intermediate_size) == (1152, 16, 4304)
    assert (vision.num_hidden_layers, vision.patch_size, vision.image_size) == (26, 14, 384)
    assert (vision.hidden_act, vision.layer_norm_eps, vision.vision_use_head) == ("gelu_pytorch_tanh", 1e-6, False)
    assert (text.hidden_size, text.num_hidden_layers, text.num_attention_heads) == (3584, 28, 28)
    assert (text.num_key_value_heads, text.intermediate_size, text.vocab_size) == (4, 18944, 152064)
    assert text.rope_parameters == {"rope_type": "default", "rope_theta": 1e6}
    assert set(text.layer_types) == {"full_attention"}
    assert (found.image_token_index, found.video_token_index) == (151646, 151647)
    assert (found.vision_feature_layer, found.vision_feature_select_strategy) == (-1, "full")


@pytest.mark.parametrize(("vocabulary", "tokens"), [(151936, (151646, 151647)), (151647, (151645, 151646))])
def test_tokens_that_stand_for_pictures_are_in_the_vocabulary(vocabulary: int, tokens: tuple[int, int]) -> None:
    found = network_config("a name", {**QWEN2_7B, "vocab_size": vocabulary}, SO400M)
    assert (found.image_token_index, found.video_token_index) == tokens


@pytest.mark.parametrize(
    ("key", "value", "supported"),
    [
        ("mm_projector_type", "linear", "'mlp2x_gelu'"),
        ("mm_resampler_type", "spatial_pool", "none"),
        ("mm_newline_position", "frame", "'one_token' or 'grid' or 'no_token' or none"),
        ("mm_spatial_pool_mode", "max", "'bilinear' or 'average' or none"),
        ("mm_spatial_pool_stride", 4, "2 or none"),
        ("add_faster_video", True, "False or none"),
    ],
)
def test_settings_of_other_models_are_refused(folder: Path, key: str, value: Any, supported: str) -> None:
    edit_json(folder / "config.json", **{key: value})
    with pytest.raises(
        ModelError, match=rf"has {key} {value!r} in its config\.json.*; use a checkpoint with {supported}$"
    ):
        load(folder)


def test_another_tower_is_refused() -> None:
    shapes = {TOWER + "embeddings.patch_embedding.weight": (768, 3, 16, 16)}
    shapes[TOWER + "embeddings.position_embedding.weight"] = (196, 768)
    with pytest.raises(ModelError, match="768 wide; only SigLIP so400m"):
        network_config("a name", QWEN2_7B, shapes)


@pytest.mark.parametrize("model_type", ["llava", "llava_qwen", "qwen2"])
def test_the_architecture_tells(folder: Path, twins: tuple[Path, Path], model_type: str) -> None:
    """Published are the first two: LLaVA-OneVision, and LLaVA-OneVision 7B chat."""
    edit_json(folder / "config.json", model_type=model_type)
    assert_same_network(load(folder), twins[1])


def test_a_model_type_without_an_architecture(folder: Path) -> None:
    edit_json(folder / "config.json", model_type="llava_qwen", architectures=None)
    assert load(folder).tokens_per_frame == 25


@pytest.mark.parametrize("architectures", [["LlavaForConditionalGeneration"], ["LlavaQwenGMoeForCausalLM"], None, 3])
def test_transformers_own_llava_stays_unsupported(folder: Path, architectures: Any) -> None:
    edit_json(folder / "config.json", architectures=architectures)
    with pytest.raises(ModelError, match=r"is a llava model, which is not supported; use LLaVA-OneVision"):
        load(folder)


@pytest.mark.parametrize(
    ("settings", "pool", "newline"),
    [
        ({}, "bilinear", "one_token"),
        (VIDEO, "average", "grid"),
        ({**VIDEO, "mm_spatial_pool_mode": "average"}, "average", "grid"),
        ({"mm_spatial_pool_mode": "average"}, "average", "one_token"),
        ({"mm_newline_position": "no_token"}, "bilinear", "none"),
    ],
)
def test_geometry(folder: Path, settings: dict[str, Any], pool: str, newline: str) -> None:
    edit_json(folder / "config.json", **settings)
    model = load(folder)
    assert (model.pool, model.geometry.newline) == (Pooling(pool, 2), newline)
    assert (model.placement["pooling"], model.placement["newline"]) == (pool, newline)
    frames = frames_for(model, FRAMES)
    tokens = build_method(ALL["none"]).compress(model.encode(frames, build_method(ALL["none"]).needs), 0)
    visual = {"one_token": FRAMES * model.tokens_per_frame + 1, "grid": FRAMES * 4 * 5, "none": FRAMES * 25}[newline]
    text = len(model.tokenizer(PROMPTS["native"].replace("<video>", ""))["input_ids"])
    assert model.prompt(tokens, QUESTION).embeddings.shape[1] == text + visual


# --- What is refused


@pytest.mark.parametrize(
    "name",
    [
        "model.faster_token",
        "model.vision_resampler.mask",
        "model.mm_projector.4.weight",
        "model.layers.3.self_attn.q_proj.weight",
        "model.layers.0.self_attn.q_norm.weight",
        "lm_head.bias",
        TOWER + "encoder.layers.0.self_attn.relative.weight",
        "score.weight",
        "head.mlp.fc1.weight",
        "encoder.layers.26.mlp.fc1.weight",
    ],
)
def test_weights_without_a_place_are_refused(folder: Path, name: str) -> None:
    rewrite_weights(folder, {name: torch.zeros(4)})
    with pytest.raises(ModelError, match=rf"has 1 weights .*does not use \({name}, .*use a checkpoint of"):
        load(folder)


@pytest.mark.parametrize(
    "name",
    [
        "model.mm_projector.2.bias",
        "model.image_newline",
        "model.norm.",
        "model.embed_tokens.",
        "lm_head.",
        "model.layers.1.",
        TOWER + "encoder.layers.1.",
        TOWER + "encoder.layers.0.mlp.fc1.bias",
    ],
)
def test_missing_weights_are_refused(folder: Path, name: str) -> None:
    dropped = rewrite_weights(folder, without=name)
    with pytest.raises(ModelError, match=rf"lacks {len(dropped)} weights \({name}.*random"):
        load(folder)


@pytest.mark.parametrize("name", [TOWER, TOWER + "embeddings.patch_embedding.", TOWER + "encoder.layers.0.mlp.fc1.w"])
def test_without_its_tower_a_checkpoint_is_refused(folder: Path, name: str) -> None:
    rewrite_weights(folder, without=name)
    with pytest.raises(ModelError, match=rf"lacks {TOWER}.*use a checkpoint that includes its SigLIP tower"):
        load(folder)


@pytest.mark.parametrize("name", ["model.mm_projector.0.weight", "model.embed_tokens.weight"])
def test_weights_of_another_size_are_refused(folder: Path, name: str) -> None:
    rewrite_weights(folder, {name: torch.zeros(7, 7)})
    with pytest.raises(ModelError):
        load(folder)


def test_pickled_weights_are_not_opened(folder: Path, tmp_path: Path) -> None:
    (folder / WEIGHTS).unlink()
    marker = tmp_path / "ran"
    for name in ("pytorch_model.bin", "pytorch_model-00001-of-00001.bin"):
        with (folder / name).open("wb") as file:
            pickle.dump({"weight": Touch(marker)}, file)
    with pytest.raises(ModelError, match=r"has no model\.safetensors; pass a checkpoint with safetensors weights"):
        load(folder)
    assert not marker.exists()


def test_a_missing_shard_is_named(twins: tuple[Path, Path], tmp_path: Path) -> None:
    original = make_original(tmp_path / "sharded", twins[1], shards=3)
    (original / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(ModelError, match=r"has no model-00002-of-00003\.safetensors"):
        load(original)


@pytest.mark.parametrize("left", [(), ("tokenizer_config.json", "added_tokens.json"), ("vocab.json",)])
def test_without_a_tokenizer_a_checkpoint_is_refused(folder: Path, left: tuple[str, ...]) -> None:
    for name in {"tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json", "added_tokens.json"} - {*left}:
        (folder / name).unlink()
    with pytest.raises(ModelError, match=r"has no tokenizer\.json; copy the tokenizer files"):
        load(folder)


def test_a_tokenizer_of_two_files_is_enough(folder: Path, twins: tuple[Path, Path]) -> None:
    (folder / "tokenizer.json").unlink()
    texts = PROMPTS["native"].split("<video>")
    found, expected = (load(each).tokenizer for each in (folder, twins[0]))
    assert [found(text)["input_ids"] for text in texts] == [expected(text)["input_ids"] for text in texts]


@pytest.mark.parametrize("filename", ["config.json", "tokenizer.json", WEIGHTS])
def test_damaged_files_are_explained(folder: Path, filename: str) -> None:
    data = (folder / filename).read_bytes()
    (folder / filename).write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelError):
        load(folder)


# --- Tokens files are exchangeable


def test_fingerprints_are_equal(twins: tuple[Path, Path], tmp_path: Path) -> None:
    original, twin = (load(folder).identity for folder in twins)
    assert original.fingerprint == twin.fingerprint
    other, _ = make_twins(tmp_path, seed=1)
    assert load(other).identity.fingerprint != original.fingerprint


def test_fingerprints_are_equal_as_the_hub_stores_them(twins: tuple[Path, Path], tmp_path: Path) -> None:
    """Originals are in bfloat16 and their converted copies in float16, which has fewer small numbers."""
    weights = {name: weight.to(torch.bfloat16) for name, weight in load_file(twins[1] / WEIGHTS).items()}
    weights["image_newline"][:4] = torch.tensor([1e-30, 3e-8, -1.0e-6, 6e-5], dtype=torch.bfloat16)
    twin = Path(shutil.copytree(twins[1], tmp_path / "twin"))
    save_file(weights, twin / WEIGHTS, metadata={"format": "pt"})
    original = make_original(tmp_path / "original", twin)
    converted = {name: weight.to(torch.float16) for name, weight in weights.items()}
    assert not torch.equal(converted["image_newline"].float(), weights["image_newline"].float())
    save_file(converted, twin / "new", metadata={"format": "pt"})
    (twin / "new").replace(twin / WEIGHTS)
    assert load(original).identity.fingerprint == load(twin).identity.fingerprint
