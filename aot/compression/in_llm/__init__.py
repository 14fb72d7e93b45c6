"""How tokens become fewer inside the language model: one file per reduction; `aot.plugins` names them."""

from __future__ import annotations

from dataclasses import replace

from aot.compression.in_llm.base import InnerReduction, Place, Reduction, State
from aot.config.schema import Config, InnerConfig
from aot.config.strict import build_settings
from aot.errors import BudgetError
from aot.plugins import blamed, broken_promise, find

__all__ = ["InnerReduction", "Place", "Reduction", "State", "build_inner", "outer_config"]


def build_inner(config: Config, layers: int) -> InnerReduction | None:
    """The reduction inside a language model of `layers` layers that `config` asks for, None for none.

    Raises:
        ConfigError: a setting of it is unknown or out of range.
        BudgetError: with `inner.budget` total, the ratio is below what it can come down to.
        MethodError: the reduction is a plug-in and fails.
    """
    return _divide(config, layers)[1]


def outer_config(config: Config, layers: int) -> Config:
    """What is left to the method before the language model: `config` without its inner reduction, and with the ratio
    that makes the mean load of the layers the asked one.

    Raises:
        ConfigError, BudgetError, MethodError: as `build_inner`.
    """
    if not config.reduces_inside:
        return config
    return replace(config, ratio=_divide(config, layers)[0], inner=InnerConfig())


def _divide(config: Config, layers: int) -> tuple[float, InnerReduction | None]:
    """The method's ratio, and the reduction that follows it."""
    if not config.reduces_inside or config.inner.name is None:
        return config.ratio, None
    name = config.inner.name
    kind, alone = find(name, "inner"), config.method == "none"
    with blamed(kind, "inner"):
        inner: InnerReduction = build_settings(kind, config.inner.settings.get(name, {}), f"inner.settings.{name}.")
        load = inner.load(layers)
    if config.inner.budget == "extra":
        return 1.0 if alone else config.ratio, inner
    if not 0 < load <= 1:
        raise broken_promise(inner, "inner", f"says that its load is {load}, which is no share in (0, 1]")
    outer = config.ratio / load
    if not alone and outer <= 1:
        return outer, inner
    try:
        with blamed(inner, "inner"):
            return 1.0, inner.with_load(config.ratio, layers)
    except BudgetError as error:
        remedy = f"or put it behind a method (aot+{name} in a list of methods, else --method aot --inner {name})"
        raise BudgetError(*(f"--inner {name} {problem}, {remedy}" for problem in error.problems)) from None
