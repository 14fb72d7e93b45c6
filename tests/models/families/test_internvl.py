"""InternVL against the stock model: same logits from pixels, same answers; what is where, in prompt and frame."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from transformers import InternVLForConditionalGeneration, InternVLProcessor

from aot.compression.in_llm import InnerReduction, LayerPoint, Reduction, State, divide
from aot.compression.methods import build_method
from aot.config.schema import Config, GenerationConfig, ModelConfig, build_config
from aot.errors import ConfigError, ModelError
from aot.models import load_model
from aot.models.families.internvl import InternVL
from aot.models.language.prefill import prefill
from aot.models.language.prompt import TEXT
from aot.models.vision.saliency import resolve_layer
from aot.plugins import INNER, METHODS, Card
from aot.reports.retention import language_model_load
from aot.types import CompressedTokens, Needs, VideoFrames
from tests.support.decoded import continued
from tests.support.model_inputs import QUESTION, frames_for
from tests.support.tiny_internvl import IMAGENET_MEAN, IMAGENET_STD, make_internvl

FRAMES, GRID = 3, 3
GREEDY = GenerationConfig(max_new_tokens=20)
QUESTIONS = ["What moves?", "Is it red, or blue, or something else?", "Why", "How many are there?"]
DECODERS = ["qwen2", "qwen3", "llama", "qwen3_moe"]
MERGES_INSIDE = {"tome", "tempme"}


def load(folder: Path, **settings: Any) -> InternVL:
    model = load_model(ModelConfig(name=str(folder), device="cpu", **settings))
    assert isinstance(model, InternVL)
    return model


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, InternVL]:
    """By the kind of language model; "large" is a Qwen2 behind a tower with normalized queries and keys."""
    folder = tmp_path_factory.mktemp("internvl")
    kinds = {kind: load(make_internvl(folder / kind, text=kind)) for kind in DECODERS}
    return {**kinds, "large": load(make_internvl(folder / "large", qk_norm=True, grid=2, vision_layers=5))}


@pytest.fixture(scope="module")
def model(models: dict[str, InternVL]) -> InternVL:
    return models["qwen2"]


def stock_of(model: InternVL, **settings: Any) -> Any:
    return InternVLForConditionalGeneration.from_pretrained(model.config.name, dtype="float32", **settings).eval()


def stock_text(model: InternVL, frames: int, question: str = QUESTION) -> str:
    """What the checkpoint's own template and the processor of transformers make of a video and a question."""
    content = [{"type": "video"}, {"type": "text", "text": question}]
    text = model.tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    known = SimpleNamespace(
        start_image_token="<img>",
        end_image_token="</img>",
        image_token="<IMG_CONTEXT>",
        image_seq_length=model.network.config.image_seq_length,
    )
    video = {"pixel_values_videos": torch.zeros(1, frames, 1)}
    return str(text).replace("<video>", InternVLProcessor.replace_video_token(known, video, 0))


def stock_inputs(model: InternVL, frames: VideoFrames, question: str = QUESTION) -> dict[str, Tensor]:
    """Ids with every token's slot, and pixels [F, 3, S, S]."""
    text = stock_text(model, len(frames.pixels), question)
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    return {
        "input_ids": torch.tensor([model.tokenizer(text)["input_ids"]]),
        "pixel_values": (frames.pixels.float() / 255 - mean) / std,
    }


def kept(model: InternVL, config: Config, frames: int = FRAMES, seed: int = 0) -> CompressedTokens:
    method = build_method(config)
    budget = config.token_budget(frames, model.tokens_per_frame)
    tokens = model.encode(frames_for(model, frames, seed), method.needs)
    asked = model.embed_questions([QUESTION]) if method.needs.question else None
    return method.compress(replace(tokens, question=asked), budget)


@torch.inference_mode()
def logits(model: InternVL, tokens: CompressedTokens) -> Tensor:
    return model.network(inputs_embeds=model.prompt(tokens, QUESTION).embeddings).logits


# --- Identity: all tokens kept is the stock model


@pytest.mark.parametrize("kind", [*DECODERS, "large"])
@pytest.mark.parametrize("config", [Config(method="none"), Config(method="attention", ratio=1), Config(ratio=1)])
def test_logits_are_the_stock_models(models: dict[str, InternVL], kind: str, config: Config) -> None:
    model = models[kind]
    inputs = stock_inputs(model, frames_for(model, FRAMES))
    with torch.inference_mode():
        expected = stock_of(model)(**inputs).logits
    tokens = kept(model, config)
    found = logits(model, tokens)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert found.std() > 0.1  # the comparison is of something
    assert torch.equal(model.prompt(tokens, QUESTION).ids, inputs["input_ids"])
    assert not torch.allclose(logits(model, kept(model, config, seed=1)), expected, atol=1e-2)


@pytest.mark.parametrize("kind", ["qwen2", "llama", "large"])
def test_greedy_answer_is_the_stock_models(models: dict[str, InternVL], kind: str) -> None:
    model, tokens = models[kind], kept(models[kind], Config(method="none"))
    answers = set()
    for question in QUESTIONS:
        inputs = stock_inputs(model, frames_for(model, FRAMES), question)
        written = stock_of(model).generate(**inputs, max_new_tokens=GREEDY.max_new_tokens, do_sample=False)
        new = written[0, inputs["input_ids"].shape[1] :]
        answer = model.generate(tokens, question, GREEDY)
        assert "".join(answer) == model.tokenizer.decode(new, skip_special_tokens=True)
        assert (answer.output_tokens, answer.prompt_tokens) == (len(new), inputs["input_ids"].shape[1])
        answers.add("".join(answer))
    assert len(answers) > 1


def test_micro_batches_change_nothing(model: InternVL) -> None:
    apart = InternVL(model.network, model.tokenizer, replace(model.config, encode_batch_frames=2), model.identity)
    needs = Needs((5, -2), (-1,), frame_embeddings=True, pooling_attention=True)
    one, other = (each.encode(frames_for(model, 5), needs) for each in (model, apart))
    torch.testing.assert_close(one.features, other.features)
    torch.testing.assert_close(dict(one.saliency), dict(other.saliency))
    torch.testing.assert_close(dict(one.keys), dict(other.keys))
    torch.testing.assert_close(one.pooling_attention, other.pooling_attention)
    torch.testing.assert_close(one.frame_embeddings, other.frame_embeddings)


# --- The prompt


def test_both_templates_are_the_checkpoints(model: InternVL) -> None:
    other = InternVL(model.network, model.tokenizer, replace(model.config, template="hf"), model.identity)
    tokens = kept(model, Config(method="none"))
    ids = torch.tensor([model.tokenizer(stock_text(model, FRAMES))["input_ids"]])
    assert torch.equal(model.prompt(tokens, QUESTION).ids, ids)
    assert torch.equal(other.prompt(tokens, QUESTION).ids, ids)


@pytest.mark.parametrize("kind", ["qwen2", "llama"])
@pytest.mark.parametrize(
    "cells",
    [
        [(0, 1, 2), (0, 2, 0), (1, 0, 0), (2, 0, 2), (2, 1, 1)],
        [(2, 2, 2), (0, 1, 2), (2, 0, 1), (0, 0, 0)],  # in another order, and a frame that keeps nothing
        [(1, 1, 1)],
    ],
)
def test_few_tokens_are_rows_of_the_whole(
    models: dict[str, InternVL], kind: str, cells: list[tuple[int, int, int]]
) -> None:
    """The stock model's sequence without the rows of what was dropped."""
    model = models[kind]
    frames = frames_for(model, FRAMES)
    inputs, stock = stock_inputs(model, frames), stock_of(model)
    with torch.inference_mode():
        features = stock.get_image_features(inputs["pixel_values"]).pooler_output
        whole = stock.get_input_embeddings()(inputs["input_ids"])[0]
        slots = (inputs["input_ids"][0] == model.video_token).nonzero()[:, 0].view(FRAMES, GRID, GRID)
        whole[slots.flatten()] = features.flatten(0, 1)
    stays = inputs["input_ids"][0] != model.video_token
    stays[[int(slots[cell]) for cell in cells]] = True

    prompt = model.prompt(chosen(model, frames, cells), QUESTION)
    assert torch.equal(prompt.ids[0], inputs["input_ids"][0, stays])
    torch.testing.assert_close(prompt.embeddings[0], whole[stays], rtol=1e-5, atol=1e-5)
    assert prompt.positions is None and set(prompt.language_inputs()) == {"inputs_embeds"}
    assert prompt.token[prompt.token != TEXT].tolist() == sorted(range(len(cells)), key=cells.__getitem__)
    for frame in range(FRAMES):
        assert f"Frame{frame + 1}: <img>" in model.tokenizer.decode(prompt.ids[0])


def chosen(model: InternVL, frames: VideoFrames, cells: list[tuple[int, int, int]]) -> CompressedTokens:
    everything = build_method(Config(method="none")).compress(model.encode(frames, Needs()), 0)
    numbers = torch.tensor([(frame * GRID + row) * GRID + col for frame, row, col in cells])
    fields = {name: getattr(everything, name)[numbers] for name in ("features", "frame", "row", "col", "role", "mass")}
    return replace(everything, **fields)


# --- Where things are in a frame


@pytest.mark.parametrize("cell", [(0, 0), (0, 2), (2, 0), (1, 2), (2, 1)])
def test_a_token_is_where_its_pixels_are(tmp_path: Path, cell: tuple[int, int]) -> None:
    """In a tower whose attention adds nothing, only the token of the pixels that changed changes."""
    model = load(make_internvl(tmp_path))
    for layer in model.tower.encoder.layer:
        layer.lambda_1.zero_()
    frames = frames_for(model, 1)
    row, col = cell
    side = model.image_size[0] // GRID
    changed = frames.pixels.clone()
    changed[..., row * side : (row + 1) * side, col * side : (col + 1) * side] ^= 255
    before, after = (model.encode(replace(frames, pixels=p), Needs()).features[0] for p in (frames.pixels, changed))
    differs = (before - after).abs().amax(-1) > 1e-4
    assert differs.nonzero()[:, 0].tolist() == [row * GRID + col]


@pytest.mark.parametrize("kind", ["qwen2", "large"])
def test_saliency_and_keys_are_means_over_each_tokens_patches(models: dict[str, InternVL], kind: str) -> None:
    model = models[kind]
    grid, layers = model.grid[0], (5, -2, -1)
    frames = frames_for(model, 2)
    found = model.encode(frames, Needs(layers, layers, pooling_attention=True))
    tower, seen = stock_of(model, attn_implementation="eager").model.vision_tower, []
    for layer in tower.encoder.layer:
        layer.attention.k_norm.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.inference_mode():
        attentions = tower(stock_inputs(model, frames)["pixel_values"], output_attentions=True).attentions
    for layer in layers:
        block = resolve_layer(layer, len(attentions))
        received = attentions[block].sum(-2).mean(1)
        heads = seen[block].unflatten(-1, (attentions[block].shape[1], -1))
        for frame, row, col in torch.cartesian_prod(torch.arange(2), torch.arange(grid), torch.arange(grid)).tolist():
            square = [1 + (2 * row + i) * 2 * grid + 2 * col + j for i in (0, 1) for j in (0, 1)]
            token = row * grid + col
            expected = received[frame, square].mean()
            torch.testing.assert_close(found.saliency[layer][frame, token], expected, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(found.keys[layer][frame, token], heads[frame, square].mean(0))
        assert found.saliency[layer].std() > 0.01
    last = found.saliency[-1]
    torch.testing.assert_close(found.pooling_attention, last / last.sum(-1, keepdim=True))
    assert found.embedding_source == "mean of the frame's features"


def test_recording_changes_no_feature_and_leaves_nothing(model: InternVL) -> None:
    frames = frames_for(model, 2)
    plain = model.encode(frames, Needs())
    recorded = model.encode(frames, Needs((5, -2), (-1,), frame_embeddings=True))
    assert torch.equal(plain.features, recorded.features)
    assert torch.equal(recorded.frame_embeddings, plain.features.mean(1))
    assert (plain.frame_embeddings, plain.embedding_source, plain.saliency) == (None, None, {})
    assert model.placement["attention"] == "sdpa"


def test_geometry_of_the_published_size() -> None:
    network = SimpleNamespace(
        model=SimpleNamespace(vision_tower=torch.nn.Linear(1, 1)),
        config=SimpleNamespace(
            downsample_ratio=0.5, vision_config=SimpleNamespace(image_size=[448, 448], patch_size=[14, 14])
        ),
    )
    model = InternVL(network, None, ModelConfig(name="shapes"), None)  # type: ignore[arg-type]
    assert (model.grid, model.tokens_per_frame) == ((16, 16), 256)
    assert model.frame_size(None, 1) == (448, 448)  # type: ignore[arg-type]
    network.config.vision_config.image_size = [448, 224]
    with pytest.raises(ModelError, match="32 x 16 patches"):
        InternVL(network, None, ModelConfig(name="shapes"), None)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", [name for name in METHODS if name not in MERGES_INSIDE])
def test_every_method_meets_its_budget(model: InternVL, method: str) -> None:
    tokens = kept(model, Config(method=method, ratio=0.4), frames=5)
    assert len(tokens.features) == (45 if method == "none" else 18)
    assert tokens.grid == (GRID, GRID)
    assert "".join(model.generate(tokens, QUESTION, GREEDY))


# --- Several questions, and reductions inside the language model


@pytest.mark.parametrize("kind", ["qwen2", "llama"])
@pytest.mark.parametrize("ratio", [1.0, 0.3])
def test_questions_together_are_each_alone(models: dict[str, InternVL], kind: str, ratio: float) -> None:
    model = models[kind]
    tokens = kept(model, Config(ratio=ratio))
    alone = ["".join(model.generate(tokens, question, GREEDY)) for question in QUESTIONS]
    assert len(set(alone)) > 1
    reading = model.read(tokens)
    assert reading.answers(QUESTIONS, GREEDY) == alone
    assert ["".join(reading.generate(question, GREEDY)) for question in QUESTIONS] == alone


@dataclass(frozen=True)
class Drops:
    """Every third token before layer 1, by number."""

    every: int
    card: ClassVar = Card("drops every so many")

    def load(self, layers: int) -> float:
        return 1.0

    def with_load(self, load: float, layers: int) -> Drops:
        return self

    def points(self, layers: int) -> Collection[LayerPoint]:
        return {LayerPoint(1)}

    def reduce(self, state: State) -> Reduction:
        return Reduction(state.visual[self.every :: self.every] if self.every else state.visual[:0])


@pytest.mark.parametrize("kind", DECODERS)
@pytest.mark.parametrize("every", [0, 3])
def test_a_reduction_inside_is_the_layers_with_fewer_rows(models: dict[str, InternVL], kind: str, every: int) -> None:
    """Whole layers of the stock model, called one after the other, with the rows that are left at their positions."""
    model, stock = models[kind], stock_of(models[kind])
    prompt = model.prompt(kept(model, Config(method="none")), QUESTION)
    rows = torch.arange(prompt.ids.shape[1])
    visual = (prompt.token >= 0).nonzero()[:, 0]
    dropped = visual[every::every] if every else visual[:0]
    hidden, language = prompt.embeddings, stock.model.language_model
    with torch.inference_mode():
        for number, layer in enumerate(language.layers):
            if number == 1:
                stays = ~torch.isin(rows, dropped)
                hidden, rows = hidden[:, stays], rows[stays]
            hidden = layer(hidden, position_embeddings=language.rotary_emb(hidden, rows[None]), position_ids=rows[None])
        expected = stock.lm_head(language.norm(hidden))[0, -1]
        if not every:
            inputs = stock_inputs(model, frames_for(model, FRAMES))
            torch.testing.assert_close(expected, stock(**inputs).logits[0, -1], rtol=1e-5, atol=1e-5)
        read = prefill(model.language, prompt, Drops(every))
    found = continued(model.network, model.language, prompt, read, 1)[0][0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert read.layer_tokens == (27, 27 - len(dropped), 27 - len(dropped))


@pytest.mark.parametrize("name", INNER)
def test_every_reduction_inside_has_its_load(model: InternVL, name: str) -> None:
    asked = build_config({"ratio": 0.5, "method": "uniform", "inner": {"name": name}})
    inner = divide(asked, model.language_layers)[1]
    tokens = kept(model, divide(asked, model.language_layers)[0], frames=4)
    alone = [model.generate(tokens, question, GREEDY, inner) for question in QUESTIONS]
    texts = ["".join(each) for each in alone]
    assert len(set(texts)) > 1
    assert model.read(tokens, inner).answers(QUESTIONS, GREEDY) == texts
    assert language_model_load(alone[0].layer_tokens, 36) == pytest.approx(0.5, abs=1.5 / 36)


def fastv(model: InternVL) -> InnerReduction | None:
    return divide(build_config({"ratio": 0.5, "inner": {"name": "fastv"}}), model.language_layers)[1]


@pytest.mark.parametrize(
    ("text", "settings", "what"),
    [
        ("mistral", {}, "this one is mistral"),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}, "sliding_attention"),
    ],
)
def test_decoders_that_are_read_otherwise_are_refused(
    tmp_path: Path, text: str, settings: dict[str, Any], what: str
) -> None:
    """But they answer without a reduction inside."""
    model = load(make_internvl(tmp_path, text=text, **settings))
    tokens = kept(model, Config(ratio=0.3))
    with pytest.raises(ConfigError, match=rf"{what}.*leave out --inner"):
        model.generate(tokens, QUESTION, GREEDY, fastv(model))
    with pytest.raises(ConfigError, match=what):
        model.read(tokens, fastv(model)).answers([QUESTION], GREEDY)
    inputs = stock_inputs(model, frames_for(model, FRAMES))
    written = stock_of(model).generate(**inputs, max_new_tokens=GREEDY.max_new_tokens, do_sample=False)
    expected = model.tokenizer.decode(written[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    everything = kept(model, Config(method="none"))
    assert "".join(model.generate(everything, QUESTION, GREEDY)) == expected
    assert model.read(everything).answers([QUESTION], GREEDY) == [expected]


# --- What is refused


@pytest.mark.parametrize("method", sorted(MERGES_INSIDE))
def test_merging_inside_the_tower_is_refused(model: InternVL, method: str) -> None:
    with pytest.raises(ConfigError, match="methods that merge inside the vision tower need that of LLaVA"):
        kept(model, Config(method=method, ratio=0.4))


@pytest.mark.parametrize(
    "setting", [{"pool": "average"}, {"newline": "none"}, {"time_instruction": True}, {"siglip_head": "x"}]
)
def test_settings_of_llava_are_refused(model: InternVL, setting: dict[str, Any]) -> None:
    (name,) = setting
    with pytest.raises(ConfigError, match=rf"model\.{name} is for LLaVA models"):
        load(Path(str(model.config.name)), **setting)


@pytest.mark.parametrize("statistics", [True, False])
def test_pixel_statistics_are_imagenets_unless_the_files_differ(tmp_path: Path, statistics: bool) -> None:
    model = load(make_internvl(tmp_path, statistics=statistics))
    assert model.mean.flatten().tolist() == pytest.approx(IMAGENET_MEAN)
    assert model.std.flatten().tolist() == pytest.approx(IMAGENET_STD)
    settings = tmp_path / "preprocessor_config.json"
    settings.write_text('{"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}', encoding="utf-8")
    assert load(tmp_path).mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
