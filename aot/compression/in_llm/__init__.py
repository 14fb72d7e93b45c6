"""Reductions inside the language model, one file each; `aot.plugins` maps names to classes."""

from __future__ import annotations

from dataclasses import replace

from aot.compression.in_llm.base import InnerReduction, Place, Reduction, State
from aot.config.schema import Config, InnerConfig
from aot.config.strict import build_settings
from aot.errors import BudgetError
from aot.plugins import blamed, broken_promise, find

__all__ = ["InnerReduction", "Place", "Reduction", "State", "build_inner", "outer_config"]


def build_inner(config: Config, layers: int) -> InnerReduction | None:
    """Return the reduction that `config` names, or None, for a language model of `layers` layers.

    Raises:
        ConfigError: If one of its settings is unknown or out of range.
        BudgetError: If `inner.budget` is total and the ratio is below what the reduction can reach.
        MethodError: If the reduction is a plug-in and fails.
    """
    return _divide(config, layers)[1]


def outer_config(config: Config, layers: int) -> Config:
    """Return `config` for the method before the language model: without the inner reduction.

    With `inner.budget` total, its ratio is such that the mean load of the language model's layers
    is the ratio of `config`.

    Raises:
        ConfigError: See `build_inner`.
        BudgetError: See `build_inner`.
        MethodError: See `build_inner`.
    """
    if not config.reduces_inside:
        return config
    return replace(config, ratio=_divide(config, layers)[0], inner=InnerConfig())


def _divide(config: Config, layers: int) -> tuple[float, InnerReduction | None]:
    """Return the ratio of the method, and the reduction that follows it."""
    if not config.reduces_inside or config.inner.name is None:
        return config.ratio, None
    name = config.inner.name
    # Settings are built first, so that a bad one is reported whatever the budget is.
    kind, alone = find(name, "inner"), config.method == "none"
    with blamed(kind, "inner"):
        inner: InnerReduction = build_settings(kind, config.inner.settings.get(name, {}), f"inner.settings.{name}.")
        load = inner.load(layers)
    # The method keeps the ratio; the reduction saves on top.
    if config.inner.budget == "extra":
        return 1.0 if alone else config.ratio, inner
    # A plug-in's promise is checked before it is used.
    if not 0 < load <= 1:
        raise broken_promise(inner, "inner", f"reports a load of {load}, which is not in (0, 1]")
    # The method keeps more, so that the mean over layers is the ratio.
    outer = config.ratio / load
    if not alone and outer <= 1:
        return outer, inner
    # Without a method, or if all tokens would not be enough, the reduction makes the ratio alone.
    try:
        with blamed(inner, "inner"):
            return 1.0, inner.with_load(config.ratio, layers)
    except BudgetError as error:
        remedy = f"or combine it with a method (aot+{name} in a list of methods, else --method aot --inner {name})"
        raise BudgetError(*(f"--inner {name} {problem}, {remedy}" for problem in error.problems)) from None
