"""The choice of tokens for vLLM's pruning; with vLLM itself in tests/serving/with_vllm."""

from __future__ import annotations

import os

import pytest
import torch

from aot.errors import ConfigError
from aot.serving.engines.vllm_plugin import VARIABLE, mask_function, register


def count(per_frame: int, frames: int, rate: float) -> int:
    return max(per_frame, int(per_frame * frames * (1 - rate)))


@pytest.mark.parametrize("name", ["standout", "vidcom2", "vcast", "floc", "random"])
@pytest.mark.parametrize("rate", [0.3, 0.75, 0.95])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_exact_count(name: str, rate: float, dtype: torch.dtype) -> None:
    features = torch.randn(6 * 20, 16, generator=torch.Generator().manual_seed(1)).to(dtype)
    mask = mask_function(name, count)(features, torch.tensor([6, 8, 10]), spatial_merge_size=2, q=rate)
    assert mask.dtype == torch.bool and mask.shape == (120,) and int(mask.sum()) == count(20, 6, rate)


@pytest.mark.parametrize(
    "name, says",
    [
        ("visionzip", "needs more than the tokens"),
        ("tome-pooled", "changes the tokens"),
        ("nope", "nope"),
    ],
)
def test_methods_that_do_not_qualify(name: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        mask_function(name, count)


def test_without_the_variable_vllm_is_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    register()
    assert VARIABLE not in os.environ
