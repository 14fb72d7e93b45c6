"""Recorded saliency: what eager attention would say, at no cost to the features, and to no other thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import AttentionInterface, LlavaOnevisionForConditionalGeneration

from aot.config.schema import ModelConfig
from aot.models import load_model
from aot.models.vision.saliency import (
    attention_modules,
    kernel_name,
    received_attention,
    recorded_attention,
    resolve_layer,
)
from aot.types import Needs
from tests.support.model_inputs import frames_for
from tests.support.qwen_inputs import frames_of

if TYPE_CHECKING:
    from aot.models.families.llava import Llava

LAYERS = (5, -2)


@pytest.fixture(scope="module")
def tower(small_model: Llava) -> Any:
    return small_model.network.model.vision_tower


@pytest.fixture(scope="module")
def pixels(small_model: Llava) -> Tensor:
    return small_model.normalize(frames_for(small_model, 2).pixels)


@torch.inference_mode()
def run(tower: Any, pixels: Tensor) -> Tensor:
    return tower(pixels).last_hidden_state


@pytest.mark.parametrize("which", ["tiny", "small"])
def test_equals_eager_attention_column_sums(which: str, request: pytest.FixtureRequest) -> None:
    model: Llava = request.getfixturevalue(f"{which}_model")
    frames = frames_for(model, 1 if which == "tiny" else 3)
    visual = model.encode(frames, Needs(LAYERS))
    eager = LlavaOnevisionForConditionalGeneration.from_pretrained(
        model.config.name, dtype="float32", attn_implementation="eager"
    ).model.vision_tower.eval()
    with torch.inference_mode():
        attentions = eager(model.normalize(frames.pixels), output_attentions=True).attentions
    for layer in LAYERS:
        expected = attentions[layer].sum(-2).mean(1)
        torch.testing.assert_close(visual.saliency[layer], expected, rtol=1e-5, atol=1e-5)
        assert expected.std() > 0.05
    assert not torch.allclose(visual.saliency[5], attentions[4].sum(-2).mean(1), atol=1e-2)


def test_recording_changes_no_feature(small_model: Llava) -> None:
    frames = frames_for(small_model)
    plain = small_model.encode(frames, Needs()).features
    assert torch.equal(small_model.encode(frames, Needs(LAYERS)).features, plain)


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 9), st.integers(1, 8), st.integers(0, 99))
def test_received_attention_sums_to_the_patches(batch: int, heads: int, patches: int, width: int, seed: int) -> None:
    query, key = torch.randn(2, batch, heads, patches, width, generator=torch.Generator().manual_seed(seed))
    received = received_attention(query, key, width**-0.5)
    assert received.shape == (batch, patches) and (received >= 0).all()
    torch.testing.assert_close(received.sum(-1), torch.full((batch,), float(patches)))


# --- Layer numbers


@given(st.integers(-60, 60), st.integers(1, 60))
def test_resolve_layer_stays_in_range(layer: int, depth: int) -> None:
    block = resolve_layer(layer, depth)
    assert 0 <= block < depth
    if -depth <= layer < depth:
        assert block == range(depth)[layer]


@given(st.integers(-26, 25), st.integers(1, 26))
def test_resolve_layer_keeps_the_relative_depth(layer: int, depth: int) -> None:
    if not -depth <= layer < depth:
        assert abs(resolve_layer(layer, depth) / depth - layer % 26 / 26) <= 1 / depth


@pytest.mark.parametrize(
    ("layer", "depth", "block"), [(5, 26, 5), (-2, 26, 24), (5, 3, 1), (-2, 3, 1), (5, 1, 0), (-2, 1, 0), (24, 13, 12)]
)
def test_resolve_layer_examples(layer: int, depth: int, block: int) -> None:
    assert resolve_layer(layer, depth) == block


# --- Which passes are recorded


def test_layers_asked_for_twice_under_two_names(tower: Any, pixels: Tensor) -> None:
    depth = len(attention_modules(tower))
    with recorded_attention(tower, (5, 5 - depth)) as recorded:
        run(tower, pixels)
    assert [len(batches) for batches in recorded.saliency.values()] == [1, 1]
    assert torch.equal(recorded.saliency[5][0], recorded.saliency[5 - depth][0])


def test_only_passes_within_are_recorded(tower: Any, pixels: Tensor) -> None:
    plain = run(tower, pixels)
    with pytest.raises(KeyboardInterrupt), recorded_attention(tower, LAYERS) as recorded:
        assert torch.equal(run(tower, pixels), plain)
        raise KeyboardInterrupt
    assert torch.equal(run(tower, pixels), plain)
    assert [len(batches) for batches in recorded.saliency.values()] == [1, 1]


@pytest.mark.parametrize("name", ["sdpa", "eager"])
def test_the_tower_keeps_its_kernel(tower: Any, pixels: Tensor, name: str) -> None:
    before = kernel_name(tower)
    try:
        tower.set_attn_implementation(name)
        plain = run(tower, pixels)
        for _ in range(2):
            with recorded_attention(tower, LAYERS):
                assert torch.equal(run(tower, pixels), plain)
            assert kernel_name(tower) == name
        assert torch.equal(run(tower, pixels), plain)
    finally:
        tower.set_attn_implementation(before)


def test_threads_record_their_own_passes(tower: Any, pixels: Tensor) -> None:
    """Two threads inside each other's recordings, and a third that records nothing, meet at every step."""
    frames, found, meet = (pixels[:1], pixels[1:], pixels), {}, threading.Barrier(3, timeout=60)

    def record(number: int, layers: tuple[int, ...]) -> None:
        meet.wait()
        with recorded_attention(tower, layers) as recorded:
            meet.wait()
            features = run(tower, frames[number])
            meet.wait()
        found[number] = (features, recorded.saliency)

    threads = [threading.Thread(target=record, args=each) for each in enumerate((LAYERS, LAYERS[:1], ()))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, layers in enumerate((LAYERS, LAYERS[:1], ())):
        with recorded_attention(tower, layers) as alone:
            features = run(tower, frames[number])
        assert torch.equal(found[number][0], features)
        assert {layer: len(batches) for layer, batches in found[number][1].items()} == dict.fromkeys(layers, 1)
        assert all(torch.equal(found[number][1][layer][0], alone.saliency[layer][0]) for layer in layers)


def test_no_layers_touch_nothing(tower: Any) -> None:
    before = tower.config._attn_implementation
    with recorded_attention(tower, ()) as recorded:
        assert tower.config._attn_implementation == before
    assert not recorded.saliency and not recorded.keys


def test_a_second_use_starts_afresh(tower: Any, pixels: Tensor) -> None:
    values = []
    for _ in range(2):
        with recorded_attention(tower, (5,)) as recorded:
            run(tower, pixels)
            run(tower, pixels[:1])
        assert [batch.shape[0] for batch in recorded.saliency[5]] == [2, 1]
        values.append(recorded.saliency[5][0])
    assert torch.equal(*values)


def test_nested_use_records_in_both(tower: Any, pixels: Tensor) -> None:
    with recorded_attention(tower, (5,)) as outer:
        with recorded_attention(tower, (-2,)) as inner:
            run(tower, pixels)
        run(tower, pixels)
    assert (len(inner.saliency[-2]), len(outer.saliency[5])) == (1, 2)


# --- Other attention functions


class Flash:
    """transformers' own FlashAttention function with a library in place of flash_attn's, which counts its calls.

    That function asks the module's configuration which library to import, so a tower whose attention function has
    another name, because it is recorded, would look for a library of that name.
    """

    name = "aot_test_kernel"

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from transformers import modeling_flash_attention_utils
        from transformers.integrations.flash_attention import flash_attention_forward

        AttentionInterface.register(self.name, flash_attention_forward)
        for name, value in {
            "_lazy_imports": self._imported,
            "_lazy_define_process_function": lambda function: dict,
            "_loaded_implementation": None,
        }.items():
            monkeypatch.setattr(modeling_flash_attention_utils, name, value)
        self.calls = 0

    def _imported(self, implementation: str | None, *rest: Any, **named: Any) -> Any:
        assert implementation == self.name
        return self._attend, self._attend, None, None, None

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, softmax_scale: float, is_causal: bool, **rest: Any
    ) -> Tensor:
        """[B, N, H, d], as flash_attn has it."""
        assert not is_causal
        self.calls += 1
        by_head = (each.transpose(1, 2) for each in (query, key, value))
        return torch.nn.functional.scaled_dot_product_attention(*by_head, scale=softmax_scale).transpose(1, 2)


@pytest.fixture
def flash(monkeypatch: pytest.MonkeyPatch, tower: Any) -> Iterator[Flash]:
    before = kernel_name(tower)
    yield (flash := Flash(monkeypatch))
    tower.set_attn_implementation(before)
    AttentionInterface._global_mapping.pop(flash.name)


def test_flash_attention_is_recorded_and_runs(tower: Any, pixels: Tensor, flash: Flash) -> None:
    with recorded_attention(tower, LAYERS, (-1,)) as expected:
        plain = run(tower, pixels)
    tower.set_attn_implementation(flash.name)
    with recorded_attention(tower, LAYERS, (-1,)) as recorded:
        found = run(tower, pixels)
    assert flash.calls == len(attention_modules(tower))
    assert kernel_name(tower) == flash.name
    torch.testing.assert_close(found, plain)
    for layer in LAYERS:
        torch.testing.assert_close(recorded.saliency[layer][0], expected.saliency[layer][0])
    torch.testing.assert_close(recorded.keys[-1][0], expected.keys[-1][0])


def test_flash_attention_is_recorded_in_nested_use(tower: Any, pixels: Tensor, flash: Flash) -> None:
    tower.set_attn_implementation(flash.name)
    with recorded_attention(tower, (5,)) as outer, recorded_attention(tower, (-2,)) as inner:
        run(tower, pixels)
    assert flash.calls == len(attention_modules(tower))
    assert (len(inner.saliency[-2]), len(outer.saliency[5])) == (1, 1)
    assert kernel_name(tower) == flash.name


def packed_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any = None, **named: Any
) -> tuple[Tensor, None]:
    """As FlashAttention where sequences are packed into one: each attends to itself alone."""
    lengths = named["cu_seq_lens_q"].diff().tolist()
    parts = zip(*(torch.split(each, lengths, dim=2) for each in (query, key, value)), strict=True)
    found = [torch.nn.functional.scaled_dot_product_attention(*part, scale=named["scaling"]) for part in parts]
    return torch.cat(found, 2).transpose(1, 2), None


@pytest.mark.parametrize("family", ["qwen25", "qwen3"])
def test_packed_sequences_are_recorded_one_by_one(family: str, request: pytest.FixtureRequest) -> None:
    """Qwen-VL splits the frames itself, unless the name of its kernel is a flash attention's."""
    folder = str(request.getfixturevalue(f"{family}_folder"))
    model: Any = load_model(ModelConfig(name=folder, device="cpu", dtype="float32"))
    needs, frames = Needs((0, -1), key_layers=(-1,)), frames_of((24, 40), 4)
    expected = model.encode(frames, needs)
    AttentionInterface.register("aot_test_flash", packed_attention)
    try:
        model.tower.config._attn_implementation = "aot_test_flash"
        found = model.encode(frames, needs)
    finally:
        AttentionInterface._global_mapping.pop("aot_test_flash")
    torch.testing.assert_close(found.features, expected.features, rtol=1e-4, atol=1e-4)
    for layer in needs.saliency_layers:
        torch.testing.assert_close(found.saliency[layer], expected.saliency[layer], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.keys[-1], expected.keys[-1], rtol=1e-4, atol=1e-4)
