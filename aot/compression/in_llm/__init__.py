"""Reduce tokens inside the language model, one file per paper; `aot.plugins` has the names."""

from __future__ import annotations

from dataclasses import replace

from aot.compression.in_llm.base import InnerReduction, LayerPoint, Reduction, State
from aot.config.schema import Config, InnerConfig
from aot.config.strict import build_settings
from aot.errors import BudgetError
from aot.plugins import blamed, broken_promise, find

__all__ = ["InnerReduction", "LayerPoint", "Reduction", "State", "divide"]


def divide(config: Config, layers: int) -> tuple[Config, InnerReduction | None]:
    """Divide the savings of a run between the method and the reduction inside the language model.

    If `inner.budget` is total, the ratio of the method (or, if this is impossible, the reduction)
    is changed so that the layers process, on average, the share `config.ratio` of visual tokens.

    Args:
        config: the settings of the run.
        layers: the number of layers of the language model.

    Returns:
        The settings of the run with the method's ratio, without a reduction; the reduction or None.

    Raises:
        ConfigError: If a setting of the reduction is unknown or out of range.
        BudgetError: If `inner.budget` is total and the reduction cannot reach `config.ratio`.
        MethodError: If the reduction is a plug-in and fails.
    """
    if not config.reduces_inside:
        return config, None
    ratio, inner = _divide(config, layers)
    return replace(config, ratio=ratio, inner=InnerConfig()), inner


def _divide(config: Config, layers: int) -> tuple[float, InnerReduction]:
    """Return the ratio of the method, and the reduction inside the language model."""
    name = str(config.inner.name)
    # Settings are built first: a wrong setting is reported for every budget.
    kind, alone = find(name, "inner"), config.method == "none"
    with blamed(kind, "inner"):
        inner: InnerReduction = build_settings(kind, config.inner.settings.get(name, {}), f"inner.settings.{name}.")
        load = inner.load(layers)
    # With "extra", the method uses the whole ratio and the reduction removes further tokens.
    if config.inner.budget == "extra":
        return 1.0 if alone else config.ratio, inner
    # Check the load, which may come from a plug-in.
    if not 0 < load <= 1:
        raise broken_promise(inner, "inner", f"reports a load of {load}, which is not in (0, 1]")
    # The method keeps more tokens, so that the mean load over the layers is the ratio.
    outer = config.ratio / load
    if not alone and outer <= 1:
        return outer, inner
    # Without a method, or if the method would have to keep more than all tokens, the reduction
    # alone must reach the ratio.
    try:
        with blamed(inner, "inner"):
            return 1.0, inner.with_load(config.ratio, layers)
    except BudgetError as error:
        remedy = f"or combine it with a method (aot+{name} in a list of methods, else --method aot --inner {name})"
        raise BudgetError(*(f"--inner {name} {problem}, {remedy}" for problem in error.problems)) from None
