from __future__ import annotations

from typing import Any

import pytest
import torch

from aot.compression.ops import products
from aot.compression.ops.products import centered_products, cosine_to_anchors, take_rows, weighted_sums
from tests.support.tolerances import assert_close

HALVES = [torch.bfloat16, torch.float16]
FRAMES, PATCHES, ANCHORS, WIDTH = 11, 30, 7, 40


def inputs(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features with a zero vector, anchors' indices, and weights as transport makes them: most of them small."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(FRAMES, PATCHES, WIDTH, generator=generator).to(dtype)
    features[0, 3] = 0
    index = torch.rand(FRAMES, PATCHES, generator=generator).argsort(1)[:, :ANCHORS]
    weights = torch.rand(FRAMES, ANCHORS, PATCHES, generator=generator, dtype=torch.float64) ** 8
    return features, index, weights


@pytest.fixture
def on_cuda(monkeypatch: pytest.MonkeyPatch) -> list[torch.dtype]:
    """Products as CUDA devices do them, here by conversion; the dtypes that came."""
    seen = []

    def bmm(left: torch.Tensor, right: torch.Tensor, out_dtype: torch.dtype) -> torch.Tensor:
        assert left.dtype == right.dtype != torch.float32
        seen.append(left.dtype)
        return left.to(out_dtype) @ right.to(out_dtype)

    monkeypatch.setattr(products, "_takes_halves", lambda *values: True)
    monkeypatch.setattr(torch, "bmm", bmm)
    return seen


def check(dtype: torch.dtype) -> None:
    features, index, weights = inputs(dtype)
    exact = features.double()
    sums = weighted_sums(weights, features)
    similarity = cosine_to_anchors(features, index)
    assert sums.dtype == similarity.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert_close(sums, weights @ exact, "float32")
    expected = torch.nn.functional.cosine_similarity(exact[:, :, None], take_rows(exact, index)[:, None], dim=-1)
    assert_close(similarity, expected, "float32")
    assert (similarity[0, 3] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, *HALVES], ids=str)
def test_products_are_those_of_float64(dtype: torch.dtype) -> None:
    check(dtype)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_halves_multiplied_as_they_are_lose_nothing(dtype: torch.dtype, on_cuda: list[Any]) -> None:
    check(dtype)
    assert on_cuda == [dtype, dtype]


def test_one_frame() -> None:
    features, index, _ = inputs(torch.bfloat16)
    assert_close(cosine_to_anchors(features[:1], index[:1]), cosine_to_anchors(features, index)[:1], "float32")


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES], ids=str)
def test_centered_products(dtype: torch.dtype, on_cuda: list[Any]) -> None:
    """The mean is long, so that subtracting it from products cancels most of them."""
    features = inputs(dtype)[0] + torch.tensor(2.0, dtype=dtype)
    mean = features.float().mean((0, 1))
    lengths, to_mean, pairs = centered_products(features, mean)
    exact, center = features.double(), mean.double()
    assert_close(lengths, exact.norm(dim=-1), "float32")
    torch.testing.assert_close(to_mean.double(), exact @ center, rtol=2e-5, atol=0)
    torch.testing.assert_close(pairs.double(), (exact - center) @ (exact - center).mT, rtol=0, atol=1e-3)
    assert set(on_cuda) == ({dtype} if dtype != torch.float32 else set())
