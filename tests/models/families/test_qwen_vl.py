"""Qwen2.5-VL and Qwen3-VL against the stock models: all tokens, few tokens, and what methods are given."""

from __future__ import annotations

import inspect
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.qwen3_vl.modeling_qwen3_vl import (
    BaseModelOutputWithDeepstackFeatures,
    apply_rotary_pos_emb_vision,
    eager_attention_forward,
)
from transformers.vision_utils import get_vision_window_index

from aot.compression.methods import build_method
from aot.config.schema import Config, GenerationConfig, ModelConfig
from aot.errors import ConfigError, UnsupportedError
from aot.models import load_model
from aot.models.families.qwen_vl import QwenVL
from aot.types import CompressedTokens, Needs, VideoFrames
from tests.support.compressed import compress_frames
from tests.support.qwen_inputs import (
    PAD,
    QUESTION,
    STEP_S,
    frames_of,
    is_25,
    part_of,
    pixel_values,
    stock_inputs,
    variant,
    video_of,
)
from tests.support.tiny_qwen import DEEPSTACK_BLOCKS, MERGE, PATCH, TOKEN_SIDE, WINDOW, make_qwen3_vl, make_qwen25_vl

GREEDY = GenerationConfig(max_new_tokens=16)
CLOSE = {"atol": 1e-5, "rtol": 1e-5}
FAMILIES = ["qwen25", "qwen3", "qwen3_moe"]
SHAPES = [((24, 40), 4), ((40, 24), 5), ((8, 16), 1)]


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest) -> QwenVL:
    folder = request.getfixturevalue(f"{request.param}_folder")
    found = load_model(ModelConfig(name=str(folder), device="cpu", dtype="float32"))
    assert isinstance(found, QwenVL)
    return found


@pytest.fixture(scope="module")
def stock(model: QwenVL) -> Any:
    return type(model.network).from_pretrained(model.config.name, dtype="float32").eval()


def compressed(model: QwenVL, parts: list[VideoFrames], config: Config) -> CompressedTokens:
    """What is kept of a video in chunks."""
    return compress_frames(model, parts, config)


def all_tokens(model: QwenVL, frames: VideoFrames) -> CompressedTokens:
    return compressed(model, [frames], Config(method="none"))


@torch.inference_mode()
def logits(model: QwenVL, tokens: CompressedTokens) -> Tensor:
    """Of every row of the prompt."""
    inputs = model.prompt(tokens, QUESTION).language_inputs()
    return model.network.lm_head(model.language(**inputs).last_hidden_state)


@torch.inference_mode()
def stock_logits(stock: Any, inputs: dict[str, Tensor]) -> Tensor:
    return stock(**inputs).logits


def said(model: QwenVL, ids: Tensor, prompt: int) -> str:
    return model.tokenizer.decode(ids[0, prompt:], skip_special_tokens=True)


# --- Identity: all tokens kept is the stock model


@pytest.mark.parametrize(("size", "count"), SHAPES)
@pytest.mark.parametrize("template", ["native", "hf"])
def test_logits_are_the_stock_models(
    model: QwenVL, stock: Any, template: str, size: tuple[int, int], count: int
) -> None:
    frames = frames_of(size, count)
    inputs = stock_inputs(model, frames, template)
    asked = variant(model, template=template)
    tokens = all_tokens(asked, frames)
    assert torch.equal(asked.prompt(tokens, QUESTION).ids, inputs["input_ids"])
    found = logits(asked, tokens)
    torch.testing.assert_close(found, stock_logits(stock, inputs), **CLOSE)
    assert found.std() > 0.1


@pytest.mark.parametrize("method", ["aot", "attention", "holitom"])
def test_ratio_one_is_the_stock_model(model: QwenVL, stock: Any, method: str) -> None:
    frames = frames_of((24, 40), 5)
    tokens = compressed(model, [frames], Config(method=method, ratio=1.0))
    torch.testing.assert_close(logits(model, tokens), stock_logits(stock, stock_inputs(model, frames)), **CLOSE)


@pytest.mark.parametrize("method", ["none", "aot"])
def test_segments_are_the_stock_model(model: QwenVL, stock: Any, method: str) -> None:
    """An odd rest is padded at the end of the video alone."""
    frames = frames_of((24, 40), 7)
    parts = [part_of(frames, first, stop) for first, stop in ((0, 2), (2, 6), (6, 7))]
    found = logits(model, compressed(model, parts, Config(method=method, ratio=1.0)))
    torch.testing.assert_close(found, stock_logits(stock, stock_inputs(model, frames)), **CLOSE)


@pytest.mark.parametrize(("size", "count"), SHAPES)
def test_greedy_answer_is_the_stock_models(model: QwenVL, stock: Any, size: tuple[int, int], count: int) -> None:
    frames = frames_of(size, count)
    inputs = stock_inputs(model, frames)
    written = stock.generate(**inputs, max_new_tokens=GREEDY.max_new_tokens, do_sample=False)
    answer = model.generate(all_tokens(model, frames), QUESTION, GREEDY)
    length = inputs["input_ids"].shape[1]
    assert "".join(answer) == said(model, written, length)
    assert (answer.prompt_tokens, answer.output_tokens) == (length, written.shape[1] - length)


def test_logits_depend_on_the_frames(model: QwenVL) -> None:
    first, second = (logits(model, all_tokens(model, frames_of((24, 40), 4, seed))) for seed in (0, 1))
    assert not torch.allclose(first, second, atol=1e-2)


# --- Few tokens


def chosen(model: QwenVL, frames: VideoFrames, keep: list[int]) -> CompressedTokens:
    """These of all tokens, by their numbers in the whole video, in this order."""
    every, cell = all_tokens(model, frames), torch.tensor(keep)
    named = {name: getattr(every, name)[cell] for name in ("features", "frame", "row", "col", "role", "mass")}
    deepstack = None if every.deepstack is None else every.deepstack[:, cell]
    return replace(every, **named, deepstack=deepstack)


KEPT = [3, 7, 14, 17, 40, 16]  # of three pairs with 15 tokens each: the last pair keeps one, the order is not theirs
NONE_OF_ONE = [31, 44, 2, 5]  # the second pair keeps nothing


def whole_rows(inputs: dict[str, Tensor], model: QwenVL, keep: list[int]) -> list[int]:
    """Rows of the whole prompt that a prompt with these tokens of the video has, by hand."""
    video = (inputs["input_ids"][0] == model.tokenizer.convert_tokens_to_ids(PAD)).nonzero()[:, 0].tolist()
    left_out = {row for number, row in enumerate(video) if number not in keep}
    return [row for row in range(inputs["input_ids"].shape[1]) if row not in left_out]


def stock_positions(stock: Any, inputs: dict[str, Tensor]) -> Tensor:
    names = ("input_ids", "mm_token_type_ids", "video_grid_thw", "second_per_grid_ts")
    return stock.model.get_rope_index(**{name: inputs[name] for name in names if name in inputs})[0]


@pytest.mark.parametrize("template", ["native", "hf"])
@pytest.mark.parametrize("keep", [KEPT, NONE_OF_ONE])
@pytest.mark.parametrize("count", [5, 6])
def test_kept_rows_are_those_of_the_whole(
    model: QwenVL, stock: Any, count: int, keep: list[int], template: str
) -> None:
    frames = frames_of((24, 40), count)
    inputs, asked = stock_inputs(model, frames, template), variant(model, template=template)
    rows, tokens = whole_rows(inputs, model, keep), chosen(model, frames, keep)
    prompt = asked.prompt(tokens, QUESTION)
    assert torch.equal(prompt.ids, inputs["input_ids"][:, rows])
    with torch.no_grad():
        seen = stock.model.visual(inputs["pixel_values_videos"], grid_thw=inputs["video_grid_thw"], return_dict=True)
        embedded = stock.get_input_embeddings()(prompt.ids.clone())[0]
    visual = prompt.ids[0] == asked.video_token
    embedded[visual] = seen.pooler_output[sorted(keep)]
    torch.testing.assert_close(prompt.embeddings[0], embedded, **CLOSE)
    assert prompt.positions is not None
    assert torch.equal(prompt.positions, stock_positions(stock, inputs)[..., rows])
    given = prompt.language_inputs()
    if is_25(model):
        assert "deepstack_visual_embeds" not in given
        return
    assert torch.equal(given["visual_pos_masks"][0], visual)
    for level, expected in zip(given["deepstack_visual_embeds"], seen.deepstack_features, strict=True):
        torch.testing.assert_close(level, expected[sorted(keep)], **CLOSE)
    assert len(given["deepstack_visual_embeds"]) == len(DEEPSTACK_BLOCKS)


def few_stock_inputs(stock: Any, model: QwenVL, frames: VideoFrames, keep: list[int]) -> dict[str, Any]:
    """The stock model's inputs without pixels: kept ids, their positions, what the tower made of the kept cells."""
    inputs = stock_inputs(model, frames)
    rows = whole_rows(inputs, model, keep)
    with torch.no_grad():
        seen = stock.model.visual(inputs["pixel_values_videos"], grid_thw=inputs["video_grid_thw"], return_dict=True)
    kept = seen.pooler_output[sorted(keep)]
    made: Any = BaseModelOutputWithPooling(pooler_output=(kept,))
    if not is_25(model):
        levels = [(level[sorted(keep)],) for level in seen.deepstack_features]
        made = BaseModelOutputWithDeepstackFeatures(pooler_output=(kept,), deepstack_features=levels)
    return {
        "input_ids": inputs["input_ids"][:, rows],
        "position_ids": stock_positions(stock, inputs)[..., rows],
        "mm_encoder_outputs": {"video": made},
    }


@pytest.mark.parametrize("keep", [KEPT, NONE_OF_ONE])
def test_few_tokens_are_the_stock_model_with_few_tokens(model: QwenVL, stock: Any, keep: list[int]) -> None:
    frames = frames_of((24, 40), 5)
    tokens = chosen(model, frames, keep)
    given = few_stock_inputs(stock, model, frames, keep)
    if "mm_encoder_outputs" not in inspect.signature(stock.forward).parameters:
        pytest.skip("this version of transformers cannot be given few tokens")
    torch.testing.assert_close(logits(model, tokens), stock_logits(stock, given), **CLOSE)
    written = stock.generate(**given, max_new_tokens=GREEDY.max_new_tokens, do_sample=False)
    answer = "".join(model.generate(tokens, QUESTION, GREEDY))
    assert answer == said(model, written, given["input_ids"].shape[1])
    assert answer != "".join(model.generate(all_tokens(model, frames), QUESTION, GREEDY))


@pytest.mark.parametrize("method", ["aot", "framefusion", "tome-pooled"])
def test_merged_tokens_stand_where_their_anchors_were(model: QwenVL, stock: Any, method: str) -> None:
    frames = frames_of((24, 40), 7)
    tokens = compressed(model, [part_of(frames, 0, 4), part_of(frames, 4, 7)], Config(method=method, ratio=0.3))
    assert len(tokens.features) == round(0.3 * 4 * 15)
    inputs = stock_inputs(model, frames)
    video = (inputs["input_ids"][0] == model.video_token).nonzero()[:, 0]
    prompt = model.prompt(tokens, QUESTION)
    cell = prompt.tokens.cell
    assert torch.equal(cell.sort().values, tokens.cell.sort().values)
    of_tokens = prompt.token[prompt.token >= 0]
    assert sorted(of_tokens.tolist()) == list(range(len(tokens.features)))
    assert torch.equal(cell[of_tokens], cell.sort().values)
    assert prompt.positions is not None
    found = prompt.positions[:, 0, prompt.token >= 0]
    assert torch.equal(found, stock_positions(stock, inputs)[:, 0, video[cell[of_tokens]]])


def test_prompts_of_two_questions_differ_after_the_video_alone(model: QwenVL) -> None:
    tokens = chosen(model, frames_of((24, 40), 5), KEPT)
    one, other = (model.prompt(tokens, question) for question in ("one?", "and another one?"))
    end = one.video_end
    assert end == other.video_end and one.token[end - 1] >= 0
    assert one.positions is not None and other.positions is not None
    assert torch.equal(one.positions[..., :end], other.positions[..., :end])
    behind = other.positions[:, 0, end:]
    assert torch.equal(behind, (behind[0, 0] + torch.arange(behind.shape[1])).expand(3, -1))


# --- Encoding


def test_what_encode_gives(model: QwenVL) -> None:
    calls: list[tuple[int, int]] = []
    asked = variant(model, encode_batch_frames=4)
    visual = asked.encode(frames_of((24, 40), 7), Needs((5, -2)), on_frame=lambda *call: calls.append(call))
    assert calls == [(4, 7), (7, 7)]
    assert (visual.grid, visual.pool.kind) == ((3, 5), "none")
    assert visual.features.shape == (4, 15, 64)
    assert {layer: tuple(values.shape) for layer, values in visual.saliency.items()} == {5: (4, 15), -2: (4, 15)}
    assert visual.frame_embeddings is None and visual.pooling_attention is None and visual.embedding_source is None
    middle = [0.0, 2.0, 4.0] if is_25(model) else [0.5, 2.5, 4.5]
    assert visual.timestamps_s == tuple(STEP_S * k for k in [*middle, 6.0])
    at_once = variant(model, encode_batch_frames=64).encode(frames_of((24, 40), 7), Needs())
    torch.testing.assert_close(visual.features, at_once.features, **CLOSE)
    if is_25(model):
        assert visual.deepstack is None
    else:
        assert visual.deepstack is not None and at_once.deepstack is not None
        assert visual.deepstack.shape == (2, 4, 15, 64)
        torch.testing.assert_close(visual.deepstack, at_once.deepstack, **CLOSE)


@pytest.fixture(scope="module")
def eager(model: QwenVL) -> Any:
    """The stock tower with eager attention."""
    return type(model.network).from_pretrained(model.config.name, attn_implementation="eager").eval().model.visual


@torch.no_grad()
def attended(model: QwenVL, eager: Any, frames: VideoFrames, block: int) -> tuple[Tensor, Tensor]:
    """What patches receive in a block of the eager tower, and their keys, in the tower's order: [T, N] and
    [T, N, heads, d].
    """
    values, grid = pixel_values(model, frames)
    module, seen = eager.blocks[block].attn, {}
    hook = module.register_forward_pre_hook(lambda _, args, named: seen.update(named, x=args[0]), with_kwargs=True)
    eager(values, grid_thw=grid)
    hook.remove()
    query, key, value = module.qkv(seen["x"]).view(len(values), 3, module.num_heads, -1).unbind(1)
    query, key = apply_rotary_pos_emb_vision(query, key, *seen["position_embeddings"])
    received, pairs = [], int(grid[0, 0])
    for parts in zip(*(each.chunk(pairs) for each in (query, key, value)), strict=True):
        headed = [part.transpose(0, 1)[None] for part in parts]
        _, weights = eager_attention_forward(module, *headed, None, scaling=module.scaling)
        received.append(weights[0].mean(0).sum(0))
    return torch.stack(received), torch.stack(key.chunk(pairs))


def by_token(model: QwenVL, values: Tensor, grid: tuple[int, int]) -> Tensor:
    """Means over each token's four patches, [T, n, ...], tokens in raster order."""
    count = grid[0] * grid[1]
    order = list(range(count))
    if is_25(model):
        sides = torch.tensor([[1, grid[0] * MERGE, grid[1] * MERGE]])
        order = get_vision_window_index(sides, MERGE, WINDOW * TOKEN_SIDE, PATCH)[0].tolist()
    found = torch.zeros(len(values), count, *values.shape[2:])
    for index, token in enumerate(order):
        found[:, token] = values[:, 4 * index : 4 * index + 4].mean(1)
    return found


def blocks(model: QwenVL) -> dict[int, int]:
    """Which block a layer number stands for: of Qwen2.5-VL's seven, 1 and 5 attend in full."""
    return {0: 1, 2: 1, 3: 5, -1: 5, -6: 1} if is_25(model) else {0: 0, 3: 3, -1: 4, -4: 1}


@pytest.mark.parametrize(("size", "count"), SHAPES)
def test_saliency_is_that_of_eager_attention(model: QwenVL, eager: Any, size: tuple[int, int], count: int) -> None:
    frames, named = frames_of(size, count), blocks(model)
    visual = variant(model, encode_batch_frames=4).encode(frames, Needs(tuple(named)))
    assert model.saliency_blocks(tuple(named)) == tuple(named.values())
    for layer, block in named.items():
        received, _ = attended(model, eager, frames, block)
        expected = by_token(model, received, visual.grid)
        torch.testing.assert_close(visual.saliency[layer], expected, **CLOSE)
        torch.testing.assert_close(expected.sum(1), torch.full((len(expected),), float(expected.shape[1])))
        assert expected.std() > 0.03
    assert visual.saliency[0].dtype == torch.float32


def test_keys_are_those_the_tower_attends_with(model: QwenVL, eager: Any) -> None:
    frames, named = frames_of((24, 40), 5), blocks(model)
    visual = model.encode(frames, Needs(key_layers=tuple(named), saliency_layers=(0,)))
    assert visual.saliency.keys() == {0}
    for layer, block in named.items():
        _, keys = attended(model, eager, frames, block)
        assert visual.keys[layer].shape == (3, 15, 2, 16)
        torch.testing.assert_close(visual.keys[layer], by_token(model, keys, (3, 5)), **CLOSE)


def test_frame_embeddings_and_pooling_attention(model: QwenVL, eager: Any) -> None:
    frames = frames_of((24, 40), 4)
    visual = model.encode(frames, Needs(frame_embeddings=True, pooling_attention=True))
    assert visual.embedding_source == "mean of the frame's features"
    assert torch.equal(visual.frame_embeddings, visual.features.mean(1))
    received = by_token(model, attended(model, eager, frames, blocks(model)[-1])[0], (3, 5))
    torch.testing.assert_close(visual.pooling_attention, received / 15, **CLOSE)
    assert not visual.saliency


def test_recording_changes_no_feature(model: QwenVL) -> None:
    frames = frames_of((24, 40), 4)
    plain = model.encode(frames, Needs())
    watched = model.encode(frames, Needs((0, -1), (2,), frame_embeddings=True, pooling_attention=True))
    assert torch.equal(watched.features, plain.features)
    assert model.placement["attention"] == "sdpa"


def test_pairs_that_do_not_fit_are_encoded_fewer_at_once(model: QwenVL, monkeypatch: pytest.MonkeyPatch) -> None:
    frames, tower, rows = frames_of((24, 40), 9), model.tower, list[int]()
    whole = variant(model, encode_batch_frames=16).encode(frames, Needs((0,)))
    forward = type(tower).forward

    def narrow(self: Any, pixels: Tensor, **named: Any) -> Any:
        rows.append(len(pixels))
        if len(pixels) > 2 * 60:
            raise MemoryError
        return forward(self, pixels, **named)

    monkeypatch.setattr(type(tower), "forward", narrow)
    asked = variant(model, encode_batch_frames=16)
    found = asked.encode(frames, Needs((0,)))
    assert rows == [300, 120, 120, 60]
    assert found.notices == ("out of memory; continuing with 4 frames per batch (see --encode-batch)",)
    torch.testing.assert_close(found.features, whole.features, **CLOSE)
    torch.testing.assert_close(found.saliency[0], whole.saliency[0], **CLOSE)
    asked.encode(frames, Needs())
    assert max(rows[4:]) == 120


def test_bfloat16(model: QwenVL) -> None:
    half = load_model(ModelConfig(name=model.config.name, device="cpu", dtype="bfloat16"))
    assert isinstance(half, QwenVL)
    tokens = compressed(half, [frames_of((24, 40), 4)], Config(ratio=0.4))
    assert tokens.features.dtype == torch.bfloat16
    assert "".join(half.generate(tokens, QUESTION, GREEDY))
    visual = half.encode(frames_of((24, 40), 4), Needs((5,)))
    assert visual.saliency[5].dtype == torch.float32


# --- What is refused, and what is read from files


@pytest.mark.parametrize("method", ["tome", "tempme"])
def test_merging_inside_the_tower_is_refused(model: QwenVL, method: str) -> None:
    needs = build_method(Config(method=method)).needs
    with pytest.raises(UnsupportedError, match=r"need that of LLaVA-OneVision or LLaVA-Video .*use another --method"):
        model.check_needs(needs)
    with pytest.raises(UnsupportedError, match="LLaVA-OneVision"):
        compressed(model, [frames_of((24, 40), 4)], Config(method=method))


def test_a_siglip_head_is_refused(model: QwenVL) -> None:
    with pytest.raises(ConfigError, match="siglip_head is for LLaVA"):
        load_model(replace(model.config, siglip_head="google/siglip"))


def test_tokens_without_their_deepstack_features_are_refused(model: QwenVL) -> None:
    tokens = replace(all_tokens(model, frames_of((24, 40), 2)), deepstack=None)
    if is_25(model):
        model.prompt(tokens, QUESTION)
        return
    with pytest.raises(ValueError, match="deepstack"):
        model.prompt(tokens, QUESTION)


def test_frames_of_another_size_are_refused(model: QwenVL) -> None:
    with pytest.raises(ConfigError, match=r"the frames have 24 x 36 pixels .*; decode them with size="):
        model.encode(frames_of((24, 36), 2), Needs())


def test_placement(model: QwenVL) -> None:
    depth = 7 if is_25(model) else 5
    told = {"device": "cpu", "dtype": "float32", "attention": "sdpa", "vision_blocks": depth, "temporal_patch": 2}
    assert model.placement == told | {"positions": "original"}
    assert model.language_layers == 4
    assert model.unknown_words("any wörd") == []


def test_frame_sizes_are_those_of_the_checkpoint(model: QwenVL) -> None:
    """Qwen2.5-VL's frames have up to 24 tokens; the most of Qwen3-VL's files is for all frames, 200."""
    found = [model.frame_size(video_of(120, 160), count) for count in (1, 2, 8, 40)]
    assert found == ([(32, 40)] * 4 if is_25(model) else [(64, 88), (64, 88), (32, 40), (8, 16)])
    assert variant(model, frame_pixels=600).frame_size(video_of(120, 160), 2) == (16, 24)
    assert variant(model, frame_pixels=64).frame_size(video_of(120, 160), 2) == (8, 8)
    with pytest.raises(ConfigError, match=r"model.frame_pixels must be at least 64 \(8 x 8, one token\).*got 63"):
        variant(model, frame_pixels=63).frame_size(video_of(120, 160), 2)


@pytest.mark.parametrize("make", [make_qwen25_vl, make_qwen3_vl])
def test_without_preprocessor_files_the_family_decides(make: Any, tmp_path: Path) -> None:
    folder = make(tmp_path)
    for name in ("preprocessor_config.json", "video_preprocessor_config.json"):
        (folder / name).unlink(missing_ok=True)
    model = load_model(ModelConfig(name=str(folder), device="cpu"))
    assert isinstance(model, QwenVL)
    mean = [0.48145466, 0.4578275, 0.40821073] if is_25(model) else [0.5] * 3
    assert model.mean.flatten().tolist() == pytest.approx(mean)
    if is_25(model):  # of a frame
        assert model.frame_size(video_of(1080, 1920), 32) == model.frame_size(video_of(1080, 1920), 2) == (576, 1032)
    else:  # of all
        assert model.frame_size(video_of(1080, 1920), 2) == (464, 832)
        assert model.frame_size(video_of(1080, 1920), 32) == (112, 208)


def test_fingerprints_are_of_what_makes_tokens(tmp_path: Path) -> None:
    prints = set()
    for number, (make, seed) in enumerate(
        [(make_qwen25_vl, 0), (make_qwen25_vl, 1), (make_qwen3_vl, 0), (make_qwen3_vl, 1)]
    ):
        folder = make(tmp_path / str(number), seed=seed)
        prints.add(load_model(ModelConfig(name=str(folder), device="cpu")).identity.fingerprint)
    assert len(prints) == 4


@pytest.mark.parametrize("family", ["qwen25", "qwen3"])
def test_tied_embeddings(family: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """The small models of both families have no head of their own."""
    folder = Path(shutil.copytree(request.getfixturevalue(f"{family}_folder"), tmp_path / "tied"))
    weights = load_file(folder / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    described = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(described | {"tie_word_embeddings": True}))
    network = load_model(ModelConfig(name=str(folder), device="cpu")).network  # type: ignore[attr-defined]
    assert network.lm_head.weight is network.get_input_embeddings().weight
