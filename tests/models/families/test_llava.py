"""The composed model against the stock one: same logits, same answers; and what `encode` and `generate` promise."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import LlavaOnevisionForConditionalGeneration, SiglipVisionModel

from aot.compression.methods import build_method
from aot.config.schema import Config, GenerationConfig, ModelConfig
from aot.errors import ConfigError, NumericsError
from aot.models import load_model
from aot.types import CompressedTokens, Needs, VideoFrames
from tests.support.model_inputs import PROMPTS, QUESTION, frames_for, stock_inputs, variant
from tests.support.tiny_checkpoint import make_checkpoint, make_siglip_head, video_token_count

if TYPE_CHECKING:
    from aot.models.families.llava import Llava

GREEDY = GenerationConfig(max_new_tokens=24)
FRAMES = 2


@pytest.fixture(scope="module", params=["tiny", "small"])
def model(request: pytest.FixtureRequest) -> Llava:
    return request.getfixturevalue(f"{request.param}_model")


@pytest.fixture(scope="module")
def stock(model: Llava) -> Any:
    return LlavaOnevisionForConditionalGeneration.from_pretrained(model.config.name, dtype="float32").eval()


@pytest.fixture(scope="module")
def stock_logits(model: Llava, stock: Any) -> dict[str, torch.Tensor]:
    """By template, for `frames_for(model, FRAMES)`."""
    inputs = {name: stock_inputs(model, frames_for(model, FRAMES), text) for name, text in PROMPTS.items()}
    with torch.inference_mode():
        return {name: stock(**each).logits for name, each in inputs.items()}


def all_tokens(model: Llava, frames: VideoFrames, config: Config | None = None) -> CompressedTokens:
    """Every token of the video, through `none` unless told otherwise."""
    config = config or Config(method="none")
    method = build_method(config)
    budget = config.token_budget(len(frames.pixels), model.tokens_per_frame)
    return method.compress(model.encode(frames, method.needs), budget)


@pytest.fixture(scope="module")
def tokens(small_model: Llava) -> CompressedTokens:
    return all_tokens(small_model, frames_for(small_model))


@torch.inference_mode()
def logits(model: Llava, tokens: CompressedTokens) -> torch.Tensor:
    return model.network(inputs_embeds=model.prompt(tokens, QUESTION).embeddings).logits


# --- Identity: all tokens kept is the stock model


@pytest.mark.parametrize("template", ["native", "hf"])
def test_logits_are_the_stock_models_bit_for_bit(
    model: Llava, stock_logits: dict[str, torch.Tensor], template: str
) -> None:
    found = logits(variant(model, template=template), all_tokens(model, frames_for(model, FRAMES)))
    assert torch.equal(found, stock_logits[template])
    assert found.std() > 0.1  # the comparison is of something


def test_logits_survive_micro_batches(model: Llava, stock_logits: dict[str, torch.Tensor]) -> None:
    """Kernels may round differently for other batch sizes, so not bit for bit."""
    found = logits(model, all_tokens(variant(model, encode_batch_frames=1), frames_for(model, FRAMES)))
    torch.testing.assert_close(found, stock_logits["native"], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("template", ["native", "hf"])
def test_greedy_answer_is_the_stock_models(model: Llava, stock: Any, template: str) -> None:
    frames = frames_for(model, 2)
    inputs = stock_inputs(model, frames, PROMPTS[template])
    written = stock.generate(**inputs, max_new_tokens=GREEDY.max_new_tokens, do_sample=False)
    new = written[0, inputs["input_ids"].shape[1] :]
    answer = variant(model, template=template).generate(all_tokens(model, frames), QUESTION, GREEDY)
    assert "".join(answer) == model.tokenizer.decode(new, skip_special_tokens=True)
    assert answer.output_tokens == len(new)
    assert answer.prompt_tokens == inputs["input_ids"].shape[1]


def test_greedy_answer_under_a_repetition_penalty_is_the_stock_models(small_folder: Path, tmp_path: Path) -> None:
    """Generation settings come with the checkpoint; Qwen2 0.5B's penalty also counts the prompt's tokens."""
    folder = Path(shutil.copytree(small_folder, tmp_path / "copy"))
    settings = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
    (folder / "generation_config.json").write_text(json.dumps({**settings, "repetition_penalty": 1.1}))
    model = load_model(ModelConfig(name=str(folder), device="cpu"))
    stock = LlavaOnevisionForConditionalGeneration.from_pretrained(folder, dtype="float32").eval()
    frames = frames_for(model, FRAMES)
    inputs = stock_inputs(model, frames, PROMPTS["native"])
    written = stock.generate(**inputs, max_new_tokens=GREEDY.max_new_tokens, do_sample=False)
    text = model.tokenizer.decode(written[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert "".join(model.generate(all_tokens(model, frames), QUESTION, GREEDY)) == text


def test_ratio_one_through_aot_is_the_stock_model(model: Llava, stock_logits: dict[str, torch.Tensor]) -> None:
    tokens = all_tokens(model, frames_for(model, FRAMES), Config(method="aot", ratio=1.0))
    assert torch.equal(logits(model, tokens), stock_logits["native"])


def test_logits_depend_on_the_frames(model: Llava) -> None:
    first, second = (logits(model, all_tokens(model, frames_for(model, 2, seed))) for seed in (0, 1))
    assert not torch.allclose(first, second, atol=1e-2)


def test_newline_none_drops_just_the_newline(small_model: Llava, tokens: CompressedTokens) -> None:
    with_newline = small_model.prompt(tokens, QUESTION).embeddings[0]
    without = variant(small_model, newline="none").prompt(tokens, QUESTION).embeddings[0]
    assert len(with_newline) == len(without) + 1
    index = int((with_newline == small_model.network.model.image_newline).all(-1).nonzero())
    assert torch.equal(torch.cat([with_newline[:index], with_newline[index + 1 :]]), without)
    assert torch.equal(with_newline[index - 1], tokens.features[-1])


# --- Encoding


def test_geometry(tiny_model: Llava, small_model: Llava) -> None:
    assert (tiny_model.grid, tiny_model.tokens_per_frame, tiny_model.image_size) == ((27, 27), 196, (108, 108))
    assert (small_model.grid, small_model.tokens_per_frame, small_model.image_size) == ((9, 9), 25, (36, 36))
    assert video_token_count(3, 9) == 3 * small_model.tokens_per_frame + 1


def test_encode_counts_its_frames(small_model: Llava) -> None:
    calls: list[tuple[int, int]] = []
    model = variant(small_model, encode_batch_frames=3)
    visual = model.encode(
        frames_for(model, 7), Needs((5, -2)), on_frame=lambda done, total: calls.append((done, total))
    )
    assert calls == [(3, 7), (6, 7), (7, 7)]
    assert visual.features.shape == (7, 81, 32)
    at_once = variant(small_model, encode_batch_frames=7).encode(frames_for(model, 7), Needs()).features
    torch.testing.assert_close(visual.features, at_once, rtol=1e-5, atol=1e-5)
    assert {layer: tuple(value.shape) for layer, value in visual.saliency.items()} == {5: (7, 81), -2: (7, 81)}
    assert visual.frame_embeddings is None and visual.embedding_source is None


def test_bfloat16_features_come_with_float32_saliency(small_folder: Path) -> None:
    model = load_model(ModelConfig(name=str(small_folder), device="cpu", dtype="bfloat16"))
    visual = model.encode(frames_for(model, 2), Needs((5,)))
    assert (visual.features.dtype, visual.saliency[5].dtype) == (torch.bfloat16, torch.float32)
    assert model.placement["dtype"] == "bfloat16"


def test_saliency_of_a_block_after_the_features(small_folder: Path) -> None:
    model = load_model(ModelConfig(name=str(small_folder), device="cpu"))
    frames = frames_for(model, 2)
    expected = model.encode(frames, Needs((-1,))).saliency[-1]
    model.network.config.vision_feature_layer = 1
    assert torch.equal(model.encode(frames, Needs((-1,))).saliency[-1], expected)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_no_numbers_are_refused(small_folder: Path, value: float) -> None:
    model = load_model(ModelConfig(name=str(small_folder), device="cpu"))
    model.network.model.multi_modal_projector.linear_2.weight[0, 0] = value
    with pytest.raises(NumericsError, match="--dtype"):
        model.encode(frames_for(model, 2), Needs())


def test_frame_embedding_without_a_head_is_the_mean_and_says_so(small_model: Llava) -> None:
    visual = small_model.encode(frames_for(small_model, 3), Needs(frame_embeddings=True))
    assert visual.embedding_source == "mean of the frame's features"
    assert torch.equal(visual.frame_embeddings, visual.features.mean(1))


def test_frame_embedding_uses_the_siglip_head_and_says_so(small_model: Llava, tmp_path: Path) -> None:
    make_siglip_head(tmp_path, grid=9)
    model = variant(small_model, siglip_head=str(tmp_path), encode_batch_frames=2)
    frames = frames_for(model, 3)
    visual = model.encode(frames, Needs(frame_embeddings=True))
    assert visual.embedding_source == "siglip head"
    hidden = model.network.model.vision_tower(model.normalize(frames.pixels), output_hidden_states=True).hidden_states
    siglip = SiglipVisionModel.from_pretrained(tmp_path)
    inner = getattr(siglip, "vision_model", siglip)
    torch.testing.assert_close(visual.frame_embeddings, inner.head(inner.post_layernorm(hidden[-1])))


def test_a_shallow_tower_answers(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, grid=9, vision_layers=3)
    model = load_model(ModelConfig(name=str(folder), device="cpu"))
    config = Config(ratio=0.2)
    tokens = all_tokens(model, frames_for(model), config)
    assert len(tokens.features) == 20
    assert model.saliency_blocks((5, -2)) == (1, 1)
    assert "".join(model.generate(tokens, QUESTION, GREEDY))


# --- Generating


def pieces_and_stock_text(model: Llava, tokens: CompressedTokens, count: int) -> tuple[list[str], str, int]:
    pieces = list(model.generate(tokens, QUESTION, GenerationConfig(max_new_tokens=count)))
    ids = model.network.generate(
        inputs_embeds=model.prompt(tokens, QUESTION).embeddings, max_new_tokens=count, do_sample=False
    )
    return pieces, model.tokenizer.decode(ids[0], skip_special_tokens=True), ids.shape[1]


@pytest.mark.parametrize("printable", [True, False])
@pytest.mark.parametrize("seed", [0, 1])
def test_pieces_join_to_the_whole_text(tmp_path: Path, printable: bool, seed: int) -> None:
    """Also where the answer is bytes that are no valid UTF-8."""
    folder = make_checkpoint(tmp_path, grid=5, seed=seed, printable=printable)
    model = load_model(ModelConfig(name=str(folder), device="cpu"))
    pieces, text, _ = pieces_and_stock_text(model, all_tokens(model, frames_for(model, 1)), 40)
    assert "".join(pieces) == text != ""
    assert pieces[0] == ""  # the first token is queued
    assert all(pieces[1:])


def test_output_tokens_count_the_end_token(small_model: Llava, tokens: CompressedTokens) -> None:
    answer = small_model.generate(tokens, QUESTION, GenerationConfig(max_new_tokens=40))
    assert answer.output_tokens == 0
    list(answer)
    assert answer.output_tokens == pieces_and_stock_text(small_model, tokens, 40)[2]


def streamers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "aot-answer"]


def test_an_answer_can_be_read_again(small_model: Llava, tokens: CompressedTokens) -> None:
    answer = small_model.generate(tokens, QUESTION, GREEDY)
    assert "".join(answer) == "".join(answer)
    assert answer.output_tokens <= GREEDY.max_new_tokens


def test_leaving_early_stops_the_thread(small_model: Llava, tokens: CompressedTokens) -> None:
    pushed = spaced_answer(small_model)
    try:
        answer = small_model.generate(tokens, QUESTION, GenerationConfig(max_new_tokens=4000))
        reading = iter(answer)
        assert next(reading) == ""
        assert next(reading)
        assert len(streamers()) == 1
        reading.close()
    finally:
        pushed.remove()
    assert not streamers()
    assert 0 < answer.output_tokens < 2000


def spaced_answer(model: Llava) -> Any:
    """Make the model write spaces only, so that every token is a piece at once."""
    space = model.tokenizer.encode(" ")[0]
    return model.network.lm_head.register_forward_hook(
        lambda module, inputs, output: torch.zeros_like(output).index_fill_(-1, torch.tensor(space), 1.0)
    )


def test_an_exception_while_generating_reaches_the_reader(small_model: Llava, tokens: CompressedTokens) -> None:
    answer = small_model.generate(tokens, QUESTION, GREEDY)

    def fail(*_: Any) -> None:
        if answer.output_tokens == 3:
            raise RuntimeError("the third token is too much")

    hook = small_model.network.lm_head.register_forward_hook(fail)
    try:
        with pytest.raises(RuntimeError, match="third token"):
            list(answer)
    finally:
        hook.remove()
    assert not streamers()


def test_sampling_repeats_with_its_seed(small_model: Llava, tokens: CompressedTokens) -> None:
    def said(seed: int) -> str:
        options = GenerationConfig(max_new_tokens=24, temperature=1.5, seed=seed)
        return "".join(small_model.generate(tokens, QUESTION, options))

    assert said(1) == said(1)
    assert len({said(seed) for seed in range(4)} | {"".join(small_model.generate(tokens, QUESTION, GREEDY))}) > 2


def test_a_prompt_beyond_the_context_is_refused(
    small_model: Llava, tokens: CompressedTokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    length = small_model.prompt(tokens, QUESTION).embeddings.shape[1]
    monkeypatch.setattr(small_model.network.config.text_config, "max_position_embeddings", length)
    assert small_model.prompt(tokens, QUESTION).embeddings.shape[1] == length
    with pytest.raises(ConfigError, match=rf"has {length + 1} tokens .* at most {length}.*--ratio"):
        small_model.generate(tokens, QUESTION + "!", GREEDY)
