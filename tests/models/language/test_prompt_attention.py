"""Prompts on CUDA are read by kernels that need no plan, and by no switch of the whole process."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from aot.config.schema import Config, GenerationConfig, ModelConfig
from aot.models import load_model
from aot.models.language import prompt_attention
from aot.models.language.prompt_attention import use_prompt_attention
from tests.models.language.test_decoding import FAMILIES, kept

QUESTIONS = ["What moves?", "Is it red, or blue, or something else?"]
OPTIONS = GenerationConfig(max_new_tokens=12, min_new_tokens=12)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Twins of the two kernels, which run anywhere; how often each is called."""
    found: Counter[str] = Counter()

    def flash(query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float | None) -> Tensor:
        found["flash"] += 1
        return functional.scaled_dot_product_attention(
            query, key, value, is_causal=causal, scale=scale, enable_gqa=query.shape[1] > key.shape[1]
        )

    def efficient(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, scale: float | None) -> Tensor:
        found["efficient"] += 1
        assert bias.shape == (*query.shape[:3], key.shape[2])
        assert bias.stride(-1) == 1
        assert all(step % 16 == 0 for step in bias.stride()[:-1])
        return functional.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=scale)

    monkeypatch.setattr(prompt_attention, "_flash", flash)
    monkeypatch.setattr(prompt_attention, "_efficient", efficient)
    monkeypatch.setattr(prompt_attention, "_is_supported", lambda *states: True)
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_are_those_of_the_stock_attention(family: str, tmp_path: Path, calls: Counter[str]) -> None:
    """One question, and several behind a prefix, whose paddings need a mask."""
    model = load_model(ModelConfig(name=str(FAMILIES[family](tmp_path)), device="cpu", dtype="float32"))
    tokens = kept(model, Config(method="uniform", ratio=0.5))

    def answers() -> list[str]:
        alone = "".join(model.generate(tokens, QUESTIONS[0], OPTIONS))
        reading = model.read(tokens)
        return [alone, *reading.answers(QUESTIONS, OPTIONS), "".join(reading.generate(QUESTIONS[1], OPTIONS))]

    expected = answers()
    assert not calls
    use_prompt_attention(model.language)  # type: ignore[attr-defined]
    assert answers() == expected
    assert calls["flash"] and calls["efficient"]


class Module:
    is_causal, num_key_value_groups = True, 3


@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize("mask", [None, "bool", "floats"])
def test_it_does_what_the_stock_function_does(rows: int, mask: str | None, calls: Counter[str]) -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(2, heads, length, 16, generator=generator) for heads, length in ((6, rows), (2, 7), (2, 7))
    )
    given: Tensor | None = None
    if mask:
        seen = torch.rand(2, 1, rows, 7, generator=generator) > 0.4
        seen[..., 0] = True
        given = seen if mask == "bool" else torch.zeros(seen.shape).masked_fill(~seen, -torch.inf)
    found, _ = prompt_attention._attend(Module(), query, key, value, given, scaling=0.3)
    expected, _ = sdpa_attention_forward(Module(), query, key, value, given, scaling=0.3)
    torch.testing.assert_close(found, expected)
    assert found.is_contiguous()
    assert calls == {"efficient" if mask else "flash": 1}


@pytest.mark.parametrize("more", [{"dropout": 0.5}, {"position_bias": torch.zeros(1)}, {"softcap": 1.0}])
def test_what_the_kernels_lack_is_left_to_the_stock_function(
    more: dict[str, Any], calls: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def stock(module: Any, query: Tensor, *states: Any, **named: Any) -> tuple[Tensor, None]:
        asked.append(named)
        return query, None

    monkeypatch.setattr("transformers.integrations.sdpa_attention.sdpa_attention_forward", stock)
    states = torch.randn(1, 2, 4, 16)
    prompt_attention._attend(Module(), states, states, states, None, **more)
    prompt_attention._attend(Module(), states[:, :, :2], states, states, None)  # rows before that no mask describes
    assert asked == [{"scaling": None, "is_causal": None, **more}, {"scaling": None, "is_causal": None}]
    assert not calls


def test_the_kernels_take_these_arguments() -> None:
    """Nothing is computed: torch knows their signatures and shapes without a GPU."""
    with FakeTensorMode():
        query, key = (torch.empty(2, heads, 65, 128, dtype=torch.bfloat16, device="cuda") for heads in (28, 4))
        found = prompt_attention._flash(query, key, key, True, 0.1)
        bias = torch.empty(2, 1, 65, 80, dtype=torch.bfloat16, device="cuda").narrow(-1, 0, 65).expand(-1, 28, -1, -1)
        masked = prompt_attention._efficient(query, query, query, bias, 0.1)
    assert found.shape == masked.shape == query.shape


def test_the_commands_switch_nothing_off(monkeypatch: pytest.MonkeyPatch) -> None:
    from aot_cli.output.console import prepare_libraries

    switched: list[bool] = []
    monkeypatch.setattr(torch.backends.cuda, "enable_cudnn_sdp", switched.append)
    prepare_libraries(offline=False)
    assert not switched
