"""Prompts on CUDA are read by the lean decoder: states, keys and values are those of the modules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from aot.bench.operations import counted_operations
from aot.config.schema import Config, ModelConfig
from aot.models import load_model
from aot.models.language.answer import read_lean, read_prompt
from aot.models.language.decoding import last_hidden_state
from aot.models.language.prompt_attention import use_prompt_attention
from aot.models.language.slots import slot_cache
from tests.models.language.test_decoding import FAMILIES, kept

CLOSE = {"rtol": 1e-4, "atol": 1e-4}
DEEPSTACK = ("visual_pos_masks", "deepstack_visual_embeds")
ROOM = 4


def model_of(family: str, folder: Path) -> Any:
    model = load_model(ModelConfig(name=str(FAMILIES[family](folder)), device="cpu", dtype="float32"))
    use_prompt_attention(model.language)  # type: ignore[attr-defined]
    return model


@torch.inference_mode()
@pytest.mark.parametrize("family", ["llava", "internvl", "internvl of llama", "qwen 2.5", "qwen 3", "qwen 3 moe"])
def test_it_gives_what_the_modules_give(family: str, tmp_path: Path) -> None:
    model = model_of(family, tmp_path)
    prompt = model.prompt(kept(model), "What moves?")
    given = prompt.language_inputs()
    # Qwen3-VL adds features to the visual rows of its first layers; without them, its layers fit.
    deepstack = {
        name: given.pop(name) for name in tuple(given) if name in ("visual_pos_masks", "deepstack_visual_embeds")
    }
    assert bool(deepstack) == family.startswith("qwen 3")
    if deepstack:
        assert read_lean(model._writer, slot_cache(model.language.config, ROOM), **given, **deepstack) is None
    expected, cache = (slot_cache(model.language.config, ROOM) for _ in range(2))
    states = last_hidden_state(model.language, given["inputs_embeds"], expected, position_ids=given.get("position_ids"))
    last = read_lean(model._writer, cache, **given)
    torch.testing.assert_close(last, states, **CLOSE)
    for found, layer in zip(cache.layers, expected.layers, strict=True):
        assert (found.held, found.capacity) == (layer.held, layer.capacity)
        torch.testing.assert_close(found.keys, layer.keys, **CLOSE)
        torch.testing.assert_close(found.values, layer.values, **CLOSE)


@torch.inference_mode()
def test_launches() -> None:
    model = load_model(ModelConfig(name="shapes", device="cpu", dtype="float32"))
    use_prompt_attention(model.language)  # type: ignore[attr-defined]
    prompt = model.prompt(kept(model, Config(method="uniform", ratio=0.5)), "what moves ?")
    with counted_operations() as works:
        works.begin("stock")
        read_prompt(model._writer, prompt, ROOM)  # type: ignore[attr-defined]
        works.begin("lean")
        found = read_lean(model._writer, slot_cache(model.language.config, ROOM), **prompt.language_inputs())  # type: ignore[attr-defined]
    assert found is not None
    stock, lean = (works.stages[name].launches for name in ("stock", "lean"))
    # On a CPU a norm is five operations, on CUDA it is one.
    assert lean <= 28 * model.language_layers + 20
    assert lean < 0.8 * stock


@torch.inference_mode()
def test_another_attention_and_compiled_modules_are_used(tmp_path: Path) -> None:
    model = model_of("llava", tmp_path)
    inputs = model.prompt(kept(model), "What moves?").language_inputs()

    def is_read() -> bool:
        return read_lean(model._writer, slot_cache(model.language.config, ROOM), **inputs) is not None

    assert is_read()
    model.language.norm._compiled_call_impl = lambda states: states
    assert not is_read()
    model.language.norm._compiled_call_impl = None
    model.language.config._attn_implementation = "eager"
    assert not is_read()
