"""Layers times tokens: what is left to the method, and what a reduction keeps, for the mean load to be the ratio."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from aot.compression.in_llm import divide
from aot.compression.in_llm.fastv import FastV
from aot.compression.in_llm.flashvid import FlashVidInner
from aot.compression.in_llm.framefusion import FrameFusion, needed_sparsity
from aot.compression.in_llm.holitom import HoliTomInner
from aot.compression.in_llm.one_drop import resolve_layer
from aot.compression.in_llm.prunevid import PruneVidInner
from aot.compression.in_llm.pyramiddrop import PyramidDrop
from aot.config.schema import Config, InnerConfig, build_config
from aot.errors import BudgetError, ConfigError
from aot.plugins import INNER, find, names
from aot.reports.retention import language_model_load

LAYERS = 28


def config(name: str | None, ratio: float = 0.1, method: str = "none", **inner: Any) -> Config:
    return build_config({"ratio": ratio, "method": method, "inner": {"name": name, **inner}})


@pytest.mark.parametrize(("ratio", "percent"), [(0.25, 19.2), (0.20, 13.8), (0.15, 8.5), (0.10, 3.1)])
def test_fastv_alone_keeps_what_aligned_averages_need(ratio: float, percent: float) -> None:
    inner = divide(config("fastv", ratio), LAYERS)[1]
    assert isinstance(inner, FastV)
    assert 100 * inner.keep == pytest.approx(percent, abs=0.05)
    assert inner.keep == pytest.approx((28 * ratio - 2) / 26)


@pytest.mark.parametrize(
    ("inner", "load"),
    [
        (FastV(), (2 + 26 * 0.5) / 28),
        (HoliTomInner(), 0.8214),
        (FlashVidInner(), 0.8),
        (PruneVidInner(), (11 + 17 * 0.4) / 28),
        (PyramidDrop(), 0.46875),
        (FrameFusion(), 0.3),
    ],
)
def test_published_loads(inner: Any, load: float) -> None:
    assert inner.load(LAYERS) == pytest.approx(load, abs=5e-5)


def test_flashvids_rule_of_a_quarter_more() -> None:
    assert divide(config("flashvid", 0.2, "uniform"), LAYERS)[0].ratio == pytest.approx(1.25 * 0.2)


@pytest.mark.parametrize("name", INNER)
@given(ratio=st.floats(0.01, 0.99), layers=st.integers(2, 40))
def test_total_is_the_ratio(name: str, ratio: float, layers: int) -> None:
    asked = config(name, ratio, "uniform")
    inner = divide(asked, layers)[1]
    assert inner is not None
    outer = divide(asked, layers)[0]
    assert outer.ratio * inner.load(layers) == pytest.approx(ratio)
    assert outer.method == "uniform" and not outer.reduces_inside
    assert divide(outer, layers)[0] == outer


@pytest.mark.parametrize("name", INNER)
@given(ratio=st.floats(0.01, 0.99), layers=st.integers(2, 40))
def test_alone_the_reduction_is_solved_for(name: str, ratio: float, layers: int) -> None:
    asked = config(name, ratio)
    try:
        inner = divide(asked, layers)[1]
    except BudgetError as error:
        points = find(name, "inner")().points(layers)
        least = min(2, *(point.layer for point in points)) if name == "pyramiddrop" else min(p.layer for p in points)
        assert ratio <= least / layers
        assert "use --ratio" in str(error)
        return
    assert inner is not None
    assert inner.load(layers) == pytest.approx(ratio)
    assert divide(asked, layers)[0].ratio == 1


@given(ratio=st.floats(0.08, 0.99))
def test_pyramiddrop_begins_early_where_the_published_layers_are_too_late(ratio: float) -> None:
    assume(ratio != 0.25)
    inner = divide(config("pyramiddrop", ratio), LAYERS)[1]
    assert isinstance(inner, PyramidDrop)
    assert min(point.layer for point in inner.points(LAYERS)) == (7 if ratio > 0.25 else 2)
    if ratio > 0.25:
        a = inner.keep
        assert (1 + a + a**2 + a**3) / 4 == pytest.approx(ratio)


def test_the_least_ratio_is_named() -> None:
    with pytest.raises(BudgetError, match=r"first 18 of 28 layers.*use --ratio 0\.643 or more"):
        divide(config("holitom", 0.1), LAYERS)[1]
    assert divide(config("holitom", 0.643), LAYERS)[1] is not None


@pytest.mark.parametrize("name", [name for name in INNER if name != "framefusion"])
def test_a_refusal_names_the_reduction_as_users_know_it(name: str) -> None:
    with pytest.raises(BudgetError, match=rf"^--inner {name} cannot come down to 0.01 of all tokens: .*aot\+{name}"):
        divide(config(name, 0.01), LAYERS)[1]


@pytest.mark.parametrize("method", ["none", "uniform"])
def test_extra_leaves_the_ratio_to_the_method(method: str) -> None:
    asked = config("holitom", 0.1, method, budget="extra")
    assert divide(asked, LAYERS)[0].ratio == (1.0 if method == "none" else 0.1)
    assert divide(asked, LAYERS)[1] == HoliTomInner()


def test_without_a_name_or_with_all_tokens_nothing_is_reduced() -> None:
    for asked in (config(None), config("fastv", 1.0)):
        assert divide(asked, LAYERS)[1] is None
        assert divide(asked, LAYERS)[0] == asked
    assert divide(config("fastv", 1.0, budget="extra"), LAYERS)[1] == FastV()


def test_settings_reach_their_reduction_alone() -> None:
    settings = {"fastv": {"layer": 3}, "framefusion": {"similarity": 0.5}}
    assert divide(config("fastv", 0.2, "uniform", settings=settings), LAYERS)[1] == FastV(layer=3)
    with pytest.raises(ConfigError, match=r"unknown setting inner\.settings\.fastv\.lair"):
        divide(config("fastv", settings={"fastv": {"lair": 3}}), LAYERS)[1]
    with pytest.raises(ConfigError, match=r"keep must be in \(0, 1\]"):
        divide(config("fastv", settings={"fastv": {"keep": 0}}), LAYERS)[1]
    with pytest.raises(ConfigError, match=r"inner\.name must be one of fastv"):
        config("slowv")
    with pytest.raises(ConfigError, match="has no inner reduction slowv"):
        config("fastv", settings={"slowv": {}})


def test_names() -> None:
    assert set(names("inner")) >= {"fastv", "pyramiddrop", "holitom", "prunevid", "flashvid", "framefusion"}
    assert config("fastv").label == "none+fastv"
    assert Config().label == "aot" and Config().inner == InnerConfig()


@pytest.mark.parametrize(("layer", "layers", "found"), [(2, 28, 2), (18, 24, 18), (20, 3, 2), (20, 14, 10), (2, 2, 1)])
def test_a_layer_the_model_does_not_have(layer: int, layers: int, found: int) -> None:
    assert resolve_layer(layer, layers) == found


def test_load_is_the_mean_over_layers() -> None:
    assert language_model_load([100] * 2 + [50] * 2, 200) == pytest.approx(0.375)
    assert language_model_load([100] * 3, 200) == pytest.approx(0.5)


@given(st.lists(st.floats(0, 0.3), max_size=8), st.floats(0.3, 1))
def test_framefusions_arithmetic(fractions: list[float], cost: float) -> None:
    """Dropping the needed share at once makes the mean of all layers the cost, or less where merging was enough."""
    shares = [1.0]
    for fraction in fractions:
        shares.append(shares[-1] * (1 - fraction))
    left = LAYERS - len(fractions)
    if sum(shares[1:]) > LAYERS * cost:
        with pytest.raises(BudgetError, match="too slowly"):
            needed_sparsity(cost, LAYERS, tuple(fractions))
        return
    sparsity = needed_sparsity(cost, LAYERS, tuple(fractions))
    load = (sum(shares[1:]) + left * shares[-1] * (1 - sparsity)) / LAYERS
    assert load == pytest.approx(cost) if sparsity > 0 else load <= cost + 1e-9
