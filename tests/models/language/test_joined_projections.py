"""Projections that read the same states lie in one buffer, and nothing else about a network changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from aot.config.schema import ModelConfig
from aot.models import load_model
from aot.models.language.joined_projections import join_projections, one_tensor
from aot.models.loading import checkpoints as loading_module
from tests.support.tiny_checkpoint import make_checkpoint

CPU = torch.device("cpu")


class Layer(nn.Module):
    def __init__(self, width: int = 16, key_width: int = 8, *, bias: bool = True) -> None:
        super().__init__()
        self.q_proj = nn.Linear(width, width, bias=bias)
        self.k_proj, self.v_proj = (nn.Linear(width, key_width, bias=bias) for _ in range(2))
        self.o_proj = nn.Linear(width, width, bias=False)

    def parts(self) -> list[Any]:
        return [self.q_proj, self.k_proj, self.v_proj]

    def joined(self) -> torch.Tensor | None:
        return one_tensor([part.weight for part in self.parts()])


@pytest.mark.parametrize("bias", [True, False])
def test_weights_are_views_of_one_tensor(bias: bool) -> None:
    layer = Layer(bias=bias)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    parameters = dict(layer.named_parameters())
    assert layer.joined() is None
    join_projections(layer, CPU)
    whole = layer.joined()
    assert whole is not None
    assert torch.equal(whole, torch.cat([before[f"{name}_proj.weight"] for name in "qkv"]))
    assert whole.data_ptr() == layer.q_proj.weight.data_ptr()
    biases = one_tensor([part.bias for part in layer.parts()])
    assert (biases is not None) == bias
    after = layer.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(each is parameters[name] for name, each in layer.named_parameters())
    assert whole.untyped_storage().nbytes() == sum(part.weight.nbytes for part in layer.parts())  # no more memory


def test_moved_weights_are_one_tensor_no_more() -> None:
    layer = Layer()
    join_projections(layer, CPU)
    assert layer.to(torch.float64).joined() is None
    join_projections(layer, CPU)
    assert layer.joined() is not None


def test_what_may_not_be_moved_stays() -> None:
    class Quantized(nn.Linear):
        pass

    layers = {name: Layer() for name in ("quantized", "hooked", "mapped", "mixed", "twice", "meta")}
    layers["quantized"].k_proj = Quantized(16, 8)
    layers["hooked"].v_proj._hf_hook = object()  # type: ignore[assignment]
    layers["mapped"].q_proj.weight.data = torch.zeros(20, 16)[2:18]  # a part of something larger
    layers["mixed"].v_proj = nn.Linear(16, 8, bias=False)
    layers["twice"].v_proj = layers["twice"].k_proj
    layers["meta"].to("meta")
    for name, layer in layers.items():
        x = torch.randn(2, 16)
        expected = None if name == "meta" else [part(x) for part in layer.parts()]
        join_projections(layer, CPU)
        assert layer.joined() is None, name
        if expected is not None:
            assert all(torch.equal(part(x), was) for part, was in zip(layer.parts(), expected, strict=True)), name


def test_loaded_models_are_joined_and_compute_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_checkpoint(tmp_path / "model", grid=9)
    config = ModelConfig(name=str(folder), device="cpu", dtype="float32")
    joined: Any = load_model(config)
    monkeypatch.setattr(loading_module, "join_projections", lambda network, device: None)
    apart: Any = load_model(config)
    for one, other in zip(joined.language.layers, apart.language.layers, strict=True):
        for module, names in (("self_attn", "qkv"), ("mlp", ("gate", "up"))):
            found, before = (
                one_tensor([getattr(getattr(layer, module), f"{name}_proj").weight for name in names])
                for layer in (one, other)
            )
            assert found is not None
            assert before is None
    states = torch.randn(1, 7, joined.language.config.hidden_size)
    with torch.inference_mode():
        assert torch.equal(
            joined.language(inputs_embeds=states).last_hidden_state,
            apart.language(inputs_embeds=states).last_hidden_state,
        )
    assert sorted(joined.network.state_dict()) == sorted(apart.network.state_dict())
