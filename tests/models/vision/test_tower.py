"""The tower block by block gives the stock call's hidden states, bit for bit, and does no more than is asked."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel, SiglipVisionConfig, SiglipVisionModel

from aot.models.vision.tower import hidden_states

SIZES = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 2, "image_size": 28,
    "patch_size": 7,
}  # fmt: skip


def tower_of(family: str) -> Any:
    torch.manual_seed(0)
    config: Any = {"siglip": SiglipVisionConfig, "clip": CLIPVisionConfig}[family](**SIZES)
    model: Any = {"siglip": SiglipVisionModel, "clip": CLIPVisionModel}[family](config)
    return model.eval().requires_grad_(False)


@pytest.fixture(params=["siglip", "clip"])
def tower(request: pytest.FixtureRequest) -> Any:
    return tower_of(request.param)


def pixels() -> torch.Tensor:
    return torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("layers", [[-1], [-2], [0], [4], [1, -1, 0]], ids=str)
def test_the_stock_calls_states(tower: Any, layers: list[int]) -> None:
    stock = tower(pixels(), output_hidden_states=True).hidden_states
    found = hidden_states(tower, pixels(), layers)
    assert all(torch.equal(state, stock[layer]) for state, layer in zip(found, layers, strict=True))


def test_every_block_reads_and_writes_contiguous_states(tower: Any) -> None:
    seen: list[bool] = []
    for block in tower.encoder.layers:
        block.register_forward_hook(lambda _, inputs, output: seen.append(inputs[0].is_contiguous()))
    hidden_states(tower, pixels(), [-1])
    assert seen == [True] * 4


@pytest.mark.parametrize(("layer", "least", "blocks"), [(-1, 0, 4), (2, 0, 2), (2, 3, 3), (0, 0, 0)])
def test_no_block_more_than_asked_for(tower: Any, layer: int, least: int, blocks: int) -> None:
    ran: list[object] = []
    for block in tower.encoder.layers:
        block.register_forward_hook(lambda module, *_: ran.append(module))
    hidden_states(tower, pixels(), [layer], least)
    assert len(ran) == blocks


def test_a_layer_that_the_tower_does_not_have(tower: Any) -> None:
    with pytest.raises(IndexError):
        hidden_states(tower, pixels(), [5])


def test_other_towers_are_called_as_they_are() -> None:
    class Other:
        def __call__(self, pixels: torch.Tensor, output_hidden_states: bool) -> Any:
            return type("Output", (), {"hidden_states": (pixels, pixels + 1)})

    assert torch.equal(hidden_states(Other(), pixels(), [-1])[0], pixels() + 1)


def test_hooks_of_the_whole_tower_are_called(tower: Any) -> None:
    """Those that spread a network over devices, for one, and a `forward` in the place of its own."""
    expected = hidden_states(tower, pixels(), [-1])[0]
    called: list[str] = []
    stock = tower.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        called.append("forward")
        return stock(*args, **kwargs)

    before = tower.register_forward_pre_hook(lambda *_: called.append("before"))
    after = tower.register_forward_hook(lambda *_: called.append("after"))
    tower.forward = forward
    try:
        assert torch.equal(hidden_states(tower, pixels(), [-1])[0], expected)
    finally:
        del tower.forward
        before.remove()
        after.remove()
    assert called == ["before", "forward", "after"]
