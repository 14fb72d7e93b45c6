"""Gradients from kept tokens to features: every method is differentiable where its selections do not change.

Nearly all methods keep or average features, so their selections are constants. Where weights depend on the features
(both phases of `aot`, and `kitoke`), the gradient passes through these too.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from aot.compression.aot import sinkhorn as of_plans
from aot.compression.aot.inter_frame import DistinctRule, transport_within_clips
from aot.compression.aot.intra_frame import transport_within_frames
from aot.compression.aot.on_device import method as on_device
from aot.compression.aot.sinkhorn import sinkhorn
from aot.compression.methods import Method, build_method, framefusion
from aot.compression.ops import kmeans, padding, peak_clusters, products
from aot.compression.ops.products import weighted_sums
from aot.config.schema import AOTConfig, Config, build_config
from aot.plugins import METHODS
from aot.testing import Case, synthetic_video
from aot.types import Clip, CompressedTokens, Pooling, Role, VisualTokens

CASE = Case(13, (8, 6), Pooling("bilinear"), 0.35, torch.float64)
TINY = Case(6, (4, 4), Pooling("bilinear"), 0.7, torch.float64)
MERGING = {
    "aot", "aot-dyn", "fastvid", "flashvid", "framefusion", "holitom", "kitoke", "ottvid", "prumerge", "prunevid",
    "simplecluster", "tempme", "tome", "tome-pooled", "unified-stc", "visionzip", "vqtoken",
}  # fmt: skip


def noise(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def selection(kept: CompressedTokens) -> list[Tensor]:
    return [kept.frame, kept.row, kept.col, kept.role]


def same(some: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    return all(map(torch.equal, some, others))


class Compressed:
    """Kept features as a function of the features; an error if the function selects other tokens."""

    def __init__(self, method: Method, case: Case, width: int | None = None) -> None:
        self.method, self.budget = method, case.budget(case.ratio)
        video = synthetic_video(method.needs, case)
        self.video = replace(video, features=video.features[..., :width].contiguous())
        self.selected = selection(self.tokens(self.video.features))

    def tokens(self, features: Tensor, **changes: Any) -> CompressedTokens:
        return self.method.compress(replace(self.video, features=features, **changes), self.budget)

    def __call__(self, features: Tensor) -> Tensor:
        kept = self.tokens(features)
        assert same(selection(kept), self.selected), "selected other tokens"
        return kept.features

    def slope(self, features: Tensor, weight: Tensor, along: Tensor, step: float = 1e-6) -> float:
        """Return the derivative of sum(weight * kept features) in the direction `along`, by differences."""
        ahead, back = (float((weight * self(features + side * step * along)).sum()) for side in (1, -1))
        return (ahead - back) / (2 * step)


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("stopping", ["published", "marginal"])
def test_the_plan(stopping: Any, joint: bool) -> None:
    cost, rows, columns = noise(3, 6, 4).abs(), noise(3, 6, seed=1).abs(), noise(3, 4, seed=2).abs()
    rows[0, 2], columns[1, 3] = 0.0, 0.0  # padding
    executed = []

    def plan(cost: Tensor) -> Tensor:
        weights = (each / each.sum(-1, keepdim=True) for each in (rows, columns))
        solved = sinkhorn(cost, *weights, stopping=stopping, joint=joint, tolerance=1e-3)
        executed.append(solved.iterations)
        return solved.plan

    assert gradcheck(plan, (cost.requires_grad_(),))
    assert executed[0].min() > 2
    assert all(torch.equal(each, executed[0]) for each in executed)


def test_a_plan_whose_unshifted_scaling_overflows_has_a_finite_gradient() -> None:
    cost = (noise(1, 5, 3).float().abs() + 1.5).requires_grad_()
    rows, columns = torch.full((1, 5), 1 / 5), torch.full((1, 3), 1 / 3)
    (grad,) = torch.autograd.grad(sinkhorn(cost, rows, columns, epsilon=0.01).plan.square().sum(), cost)
    assert grad.isfinite().all()
    assert grad.any()


@pytest.mark.parametrize("stopping", ["published", "marginal"])
@pytest.mark.parametrize("mass", ["plan", "token"])
def test_phase_one(mass: Any, stopping: Any) -> None:
    features, anchors = noise(2, 12, 3) + 1, torch.arange(12).expand(2, -1) % 4 == 1
    pooling = torch.softmax(noise(2, 5, 12, seed=3), -1)

    def pooled(features: Tensor) -> Tensor:
        moved = transport_within_frames(features, anchors, 3, (3, 4), mass=mass, stopping=stopping)
        assert moved is not None
        return weighted_sums(moved.weights(pooling), features)

    assert gradcheck(pooled, (features.requires_grad_(),))


@pytest.mark.parametrize("stopping", ["published", "marginal"])
@pytest.mark.parametrize(
    "rule",
    [
        DistinctRule("count", counts=torch.tensor([0, 1, 2, 0, 1])),
        DistinctRule("quantile", level=0.4),
        DistinctRule("threshold", level=0.5),
    ],
    ids=lambda rule: rule.kind,
)
def test_phase_two(rule: DistinctRule, stopping: Any) -> None:
    tokens, valid = noise(5, 4, 3), torch.ones(5, 4, dtype=torch.bool)
    valid[1, 3] = valid[4, 2] = False
    clips, found = (Clip(0, 3), Clip(3, 5)), []

    def merged(tokens: Tensor) -> tuple[Tensor, Tensor]:
        moved = transport_within_clips(tokens, valid, clips, rule, stopping=stopping)
        found.append(moved.distinct)
        return moved.merged, moved.absorbed[0]

    assert gradcheck(merged, (tokens.requires_grad_(),))
    assert found[0].any()
    assert all(torch.equal(each, found[0]) for each in found)


@pytest.mark.parametrize("stopping", ["published", "marginal"])
def test_the_whole_of_aot(stopping: str) -> None:
    transport = {"transport": {"stopping": stopping}}
    config = build_config({"method": "aot", "ratio": TINY.ratio, "aot": {"intra": transport, "inter": transport}})
    compressed = Compressed(build_method(config), TINY, width=3)
    features = compressed.video.features.requires_grad_()
    kept = compressed.tokens(features)
    assert (kept.mass > 1).any()
    assert (kept.role == int(Role.DISTINCT)).any()
    assert gradcheck(compressed, (features,))


def on_the_host(patch: pytest.MonkeyPatch) -> None:
    """Leave the sizes of tables to the CPU."""


def on_a_device(patch: pytest.MonkeyPatch) -> None:
    """Use the padded tables of devices on which work is queued."""
    for module in (padding, peak_clusters, framefusion):
        patch.setattr(module, "is_queued", lambda device: True)


@pytest.mark.parametrize("sizes", [on_the_host, on_a_device])
@pytest.mark.parametrize("name", METHODS)
def test_every_method(name: str, sizes: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient is the slope along a random direction, and what is kept is bit for bit the same."""
    sizes(monkeypatch)
    compressed = Compressed(build_method(Config(method=name, ratio=CASE.ratio)), CASE)
    features = compressed.video.features
    plain, kept = compressed.tokens(features), compressed.tokens(features.clone().requires_grad_())
    assert torch.equal(kept.features, plain.features)
    assert not plain.features.requires_grad
    assert bool((kept.mass > 1).any()) == (name in MERGING)
    weight, along = noise(*kept.features.shape, seed=4), noise(*features.shape, seed=5)
    needing = features.clone().requires_grad_()
    (grad,) = torch.autograd.grad((weight * compressed(needing)).sum(), needing)
    assert float((grad * along).sum()) == pytest.approx(compressed.slope(features, weight, along), rel=1e-6, abs=1e-6)


@pytest.fixture
def always_warning() -> Iterator[None]:
    """Torch warns each time, and not once in a process."""
    torch.set_warn_always(True)
    yield
    torch.set_warn_always(False)


@pytest.mark.parametrize("name", METHODS)
def test_facts_and_sources_are_records_without_gradients(name: str, always_warning: None) -> None:
    compressed = Compressed(build_method(Config(method=name, ratio=CASE.ratio)), CASE)
    features = compressed.video.features
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a number of a tensor that requires a gradient
        kept = compressed.tokens(features.clone().requires_grad_(), traced=True)
        assert dict(kept.facts) == dict(compressed.tokens(features).facts)
    assert kept.features.requires_grad
    assert kept.sources is None or not kept.sources.weight.requires_grad


@pytest.mark.parametrize("name", METHODS)
def test_half_precision_has_finite_gradients(name: str) -> None:
    method = build_method(Config(method=name, ratio=CASE.ratio))
    tokens = synthetic_video(method.needs, replace(CASE, dtype=torch.bfloat16))
    features = tokens.features.requires_grad_()
    kept = method.compress(tokens, CASE.budget(CASE.ratio)).features
    (grad,) = torch.autograd.grad(kept.float().square().sum(), features)
    assert grad.dtype == torch.bfloat16
    assert grad.isfinite().all()
    assert grad.any()


def refused(*given: Any, **named: Any) -> Any:
    raise AssertionError("a kernel that has no backward was called")


def test_kernels_give_way_to_torch_where_a_gradient_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """With Triton on the device, as far as the functions can see."""
    for module in (of_plans, on_device, kmeans):
        monkeypatch.setattr(module, "runs_triton", lambda device: True)
    kernels = {"aot.compression.aot.sinkhorn_kernel": "solve", "aot.compression.ops.kmeans_queued": "means_queued"}
    for module_name, function in kernels.items():
        monkeypatch.setitem(sys.modules, module_name, SimpleNamespace(**{function: refused}))
    cost, weights = noise(1, 4, 4).abs(), torch.full((1, 4), 0.25, dtype=torch.float64)
    tokens = VisualTokens(noise(2, 36, 4).float(), (6, 6), Pooling("none"), (0.0, 1.0), {})
    labels = torch.arange(36) % 3

    def called(cost: Tensor, features: Tensor) -> list[bool]:
        return [
            _raises(lambda: sinkhorn(cost, weights, weights)),
            _raises(lambda: kmeans.cluster_means(features[0], labels, 3)),
            on_device.can_queue(AOTConfig(), replace(tokens, features=features), 4),
        ]

    needing = cost.clone().requires_grad_(), tokens.features.clone().requires_grad_()
    assert called(cost, tokens.features) == [True] * 3
    assert called(*needing) == [False] * 3
    with torch.no_grad():
        assert called(*needing) == [True] * 3


def _raises(call: Callable[[], Any]) -> bool:
    try:
        call()
    except AssertionError:
        return True
    return False


def test_products_into_float32_give_way_too() -> None:
    """`torch.bmm` with `out_dtype`, which CUDA has only, has no backward."""
    fixed, needing = (SimpleNamespace(device=torch.device("cuda"), requires_grad=needs) for needs in (False, True))
    assert products._takes_halves(fixed, fixed)  # type: ignore[arg-type]
    assert not products._takes_halves(fixed, needing)  # type: ignore[arg-type]
