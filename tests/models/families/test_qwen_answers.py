"""Qwen-VL's answers: several questions over one reading, and reductions inside the language model."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLTextConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLRotaryEmbedding

from aot.compression.in_llm import InnerReduction, LayerPoint, Reduction, State, divide
from aot.compression.in_llm.fastv import FastV
from aot.config.schema import Config, GenerationConfig, ModelConfig, build_config
from aot.models import load_model
from aot.models.families.qwen_vl import QwenVL
from aot.models.language.prefill import prefill
from aot.models.language.prompt import VideoPrompt
from aot.models.language.rotary import of_three_axes
from aot.plugins import INNER
from aot.reports.retention import language_model_load
from aot.types import CompressedTokens
from tests.support import decoded
from tests.support.compressed import compress_frames
from tests.support.keep_all import KeepAll
from tests.support.qwen_inputs import QUESTION, frames_of, is_25, stock_inputs

QUESTIONS = ["What moves?", "Is it red, or blue, or something else?", "Why", "what moves?", "How many are there?"]
GREEDY = GenerationConfig(max_new_tokens=12)
CLOSE = {"atol": 1e-4, "rtol": 1e-4}  # kernels of other shapes in 32 bits; what is wrong differs by far more
NEW = 4
TOTAL = 3 * 15


@pytest.fixture(scope="module", params=["qwen25", "qwen3", "qwen3_moe"])
def model(request: pytest.FixtureRequest) -> QwenVL:
    folder = request.getfixturevalue(f"{request.param}_folder")
    found = load_model(ModelConfig(name=str(folder), device="cpu", dtype="float32"))
    assert isinstance(found, QwenVL)
    return found


def kept(model: QwenVL, config: Config) -> CompressedTokens:
    return compress_frames(model, frames_of((24, 40), 5), config)


# --- Several questions


@pytest.mark.parametrize("ratio", [1.0, 0.2])
def test_together_is_alone(model: QwenVL, ratio: float) -> None:
    tokens = kept(model, Config(ratio=ratio))
    alone = ["".join(model.generate(tokens, question, GREEDY)) for question in QUESTIONS]
    assert len(set(alone)) > 1
    assert model.read(tokens).answers(QUESTIONS, GREEDY) == alone


@pytest.mark.parametrize("ratio", [1.0, 0.2])
def test_one_after_the_other_is_alone(model: QwenVL, ratio: float) -> None:
    tokens = kept(model, Config(ratio=ratio))
    reading = model.read(tokens)
    replies = [reading.generate(question, GREEDY) for question in QUESTIONS]
    assert ["".join(each) for each in replies] == ["".join(model.generate(tokens, each, GREEDY)) for each in QUESTIONS]
    assert replies[0].layer_tokens == (len(tokens.features),) * 4


def test_answers_to_all_tokens_are_the_stock_models(model: QwenVL) -> None:
    stock = type(model.network).from_pretrained(model.config.name, dtype="float32").eval()
    expected = []
    for question in QUESTIONS:
        inputs = stock_inputs(model, frames_of((24, 40), 5), question=question)
        ids = stock.generate(**inputs, max_new_tokens=GREEDY.max_new_tokens, do_sample=False)
        expected.append(model.tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
    assert model.read(kept(model, Config(method="none"))).answers(QUESTIONS, GREEDY) == expected


# --- Reductions inside the language model


def continued(model: QwenVL, prompt: VideoPrompt, inner: InnerReduction) -> tuple[Tensor, Tensor]:
    """Logits [NEW, vocabulary] behind a prompt that was read with a reduction, and the words written."""
    read = prefill(model.language, prompt, inner, NEW)
    return decoded.continued(model.network, model.language, prompt, read, NEW)


@pytest.mark.parametrize("ratio", [1.0, 0.3])
def test_keeping_all_is_the_plain_model(model: QwenVL, ratio: float) -> None:
    prompt = model.prompt(kept(model, Config(ratio=ratio)), QUESTION)
    found, words = continued(model, prompt, KeepAll())
    with torch.inference_mode():
        embedded = model.network.get_input_embeddings()(words[None, :-1])
        whole = prompt.followed_by(words[None, :-1], embedded)
        logits = model.network.lm_head(model.language(**whole.language_inputs()).last_hidden_state)
    torch.testing.assert_close(found, logits[0, -NEW:], **CLOSE)


def test_keeping_all_is_the_stock_model(model: QwenVL) -> None:
    stock = type(model.network).from_pretrained(model.config.name, dtype="float32").eval()
    found, words = continued(model, model.prompt(kept(model, Config(method="none")), QUESTION), KeepAll())
    inputs = stock_inputs(model, frames_of((24, 40), 5))
    expected = stock.generate(
        **inputs, max_new_tokens=NEW, do_sample=False, output_logits=True, return_dict_in_generate=True
    )
    torch.testing.assert_close(found, torch.cat(expected.logits), **CLOSE)
    assert torch.equal(words, expected.sequences[0, inputs["input_ids"].shape[1] :])


@torch.no_grad()
def fastv_logits(eager: Any, prompt: VideoPrompt, layer: int, keep: float) -> Tensor:
    """Behind the prompt, written a second time: whole decoder layers of the eager language model, and before `layer`
    the visual rows that the last row attended to least in the layer before are taken out of everything.
    """
    language = eager.model.language_model
    given = prompt.language_inputs()
    hidden, positions = given["inputs_embeds"].clone(), given["position_ids"].clone()
    visual = (prompt.token >= 0).clone()
    levels = torch.zeros(len(language.layers), *hidden.shape)
    for number, level in enumerate(given.get("deepstack_visual_embeds", ())):
        levels[number, 0, visual] = level
    seen: dict[str, Tensor] = {}
    for number, block in enumerate(language.layers):
        if number == layer:
            scores = seen["weights"][0, :, -1].mean(0)[visual]
            most = scores.topk(round(keep * len(scores))).indices
            stays = ~visual
            stays[visual.nonzero()[most, 0]] = True
            hidden, positions, levels, visual = (
                hidden[:, stays],
                positions[..., stays],
                levels[:, :, stays],
                visual[stays],
            )
        size = hidden.shape[1]
        mask = torch.full((size, size), float("-inf")).triu(1)[None, None]
        hook = block.self_attn.register_forward_hook(lambda _, args, out: seen.update(weights=out[1]))
        hidden = block(hidden, attention_mask=mask, position_embeddings=language.rotary_emb(hidden, positions))
        hook.remove()
        hidden = hidden + levels[number]
    return eager.lm_head(language.norm(hidden))[0, -1]


@pytest.mark.parametrize(("layer", "keep"), [(1, 0.5), (2, 0.2), (3, 0.7)])
@pytest.mark.parametrize("method", ["none", "aot"])
def test_fastv_by_hand(model: QwenVL, method: str, layer: int, keep: float) -> None:
    """Also before the last layer to which deepstack features are added."""
    eager = type(model.network).from_pretrained(model.config.name, attn_implementation="eager").eval()
    prompt = model.prompt(kept(model, Config(method=method, ratio=0.6)), QUESTION)
    found, _ = continued(model, prompt, FastV(layer, keep))
    expected = fastv_logits(eager, prompt, layer, keep)
    torch.testing.assert_close(found[0], expected, **CLOSE)
    with torch.inference_mode():
        plain = model.network.lm_head(model.language(**prompt.language_inputs()).last_hidden_state)[0, -1]
    assert (plain - expected).abs().max() > 0.002


@pytest.mark.parametrize("name", INNER)
def test_every_reduction_answers(model: QwenVL, name: str) -> None:
    asked = build_config({"ratio": 0.4, "method": "uniform", "inner": {"name": name}})
    tokens = kept(model, asked)
    inner = divide(asked, model.language_layers)[1]
    assert len(tokens.features) == divide(asked, model.language_layers)[0].token_budget(3, 15)
    alone = [model.generate(tokens, question, GREEDY, inner) for question in QUESTIONS[:2]]
    texts = ["".join(each) for each in alone]
    assert model.read(tokens, inner).answers(QUESTIONS[:2], GREEDY) == texts
    assert all(texts)
    assert language_model_load(alone[0].layer_tokens, TOTAL) == pytest.approx(0.4, abs=1.5 / TOTAL)
    assert alone[0].layer_tokens[-1] < len(tokens.features)


def test_positions_put_together_as_newer_versions_do() -> None:
    """From what transformers 5.16 gives: cosines and sines of each axis."""
    sections = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]}
    config = Qwen2_5_VLTextConfig(
        hidden_size=64, num_attention_heads=4, num_key_value_heads=2, rope_parameters=sections
    )
    module, hidden = Qwen2_5_VLRotaryEmbedding(config), torch.zeros(1, 9, 64)
    positions = torch.randint(0, 99, (3, 1, 9), generator=torch.Generator().manual_seed(0))
    apart = [module(hidden, axis[None].expand(3, 1, 9)) for axis in positions]
    cosines, sines = (torch.stack([values[part] for values in apart]) for part in range(2))
    if cosines.ndim == 5:  # an older version: all three axes are the same
        cosines, sines = cosines[:, 0], sines[:, 0]
        expected = of_three_axes(module(hidden, positions), config)
    else:
        expected = list(module(hidden, positions))
    found = of_three_axes((cosines, sines), config)
    assert all(torch.equal(each, other) for each, other in zip(found, expected, strict=True))
    assert found[0].shape == (1, 9, 16)


@dataclass(frozen=True)
class MergeNeighbors(KeepAll):
    """Before the first layer, every second token becomes part of the one before it."""

    def points(self, layers: int) -> Collection[LayerPoint]:
        return {LayerPoint(0)}

    def reduce(self, state: State) -> Reduction:
        heads, others = state.visual[:44:2], state.visual[1:44:2]
        hidden = state.hidden.clone()
        hidden[0, heads] = (hidden[0, heads] + hidden[0, others]) / 2
        return Reduction(others, hidden)


def test_merged_rows_keep_the_place_and_the_deepstack_features_of_their_heads(model: QwenVL) -> None:
    prompt = model.prompt(kept(model, Config(method="none")), QUESTION)
    found, _ = continued(model, prompt, MergeNeighbors())
    visual = (prompt.token >= 0).nonzero()[:, 0]
    stays = torch.ones(len(prompt.token), dtype=torch.bool)
    stays[visual[1:44:2]] = False
    given = prompt.language_inputs()
    embedded = given["inputs_embeds"].clone()
    embedded[0, visual[:44:2]] = (embedded[0, visual[:44:2]] + embedded[0, visual[1:44:2]]) / 2
    given |= {"inputs_embeds": embedded[:, stays], "position_ids": given["position_ids"][..., stays]}
    if not is_25(model):
        given["visual_pos_masks"] = given["visual_pos_masks"][:, stays]
        given["deepstack_visual_embeds"] = [level[stays[visual]] for level in given["deepstack_visual_embeds"]]
    with torch.inference_mode():
        expected = model.network.lm_head(model.language(**given).last_hidden_state)[0, -1]
    torch.testing.assert_close(found[0], expected, **CLOSE)
