"""What is compared: methods at ratios, and variants of a method's settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from aot.config.layers import Layer, explained
from aot.config.schema import AOT_METHODS, Config, build_config
from aot.config.strict import merge_settings
from aot.errors import ConfigError
from aot.plugins import names

__all__ = ["Condition", "build_conditions", "off_budget"]


@dataclass(frozen=True, slots=True)
class Condition:
    """A configuration under a name. All conditions of a run look at the same frames with the same model."""

    name: str
    config: Config

    @property
    def ratio(self) -> float:
        return self.config.ratio if self._is_reduced else 1.0

    @property
    def key(self) -> str:
        """Unique in a run, for instance "aot@0.1"; "none" has no ratio."""
        return f"{self.name}@{self.ratio:g}" if self._is_reduced else self.name

    @property
    def _is_reduced(self) -> bool:
        return self.config.compresses or self.config.reduces_inside


def build_conditions(
    config: Config,
    methods: Sequence[str],
    ratios: Sequence[float],
    variants: Mapping[str, Mapping[str, Any]] | None = None,
) -> tuple[Condition, ...]:
    """Every method, and every variant (`aot` with settings merged into `config`), at every ratio; "none" once.

    A variant is of the method it names, or whose settings it sets, or else of "aot". A method may be followed by a plus
    and a reduction inside the language model, as "none+fastv"; without, that of `config` follows every method but
    "none", which stands for all tokens.

    Raises:
        ConfigError: a method or setting that is not there, a name given twice, or a variant that changes more than how
            tokens become fewer.
    """
    named = dict(_parts(text, config.inner.name) for text in methods)
    for name, settings in (variants or {}).items():
        if name in named or name in names():
            raise ConfigError(f"the variant {name} has the name of a method; give it another")
        _check_variant(name, settings)
        named[name] = {"method": _method_of(name, settings), **settings}
    conditions: dict[str, Condition] = {}
    for name, settings in named.items():
        own = _build(config, settings, f"variant {name}" if name in (variants or {}) else "")
        for ratio in ratios if own.method != "none" or own.inner.name else [1.0]:
            condition = Condition(name, replace(own, ratio=ratio))
            conditions[condition.key] = condition
    if not conditions:
        raise ConfigError("there is nothing to compare; name at least one method and one ratio")
    return tuple(conditions.values())


_TYPED = {"method": "--methods", "inner.name": "--methods"}  # where the name of a condition comes from


def _build(config: Config, settings: Mapping[str, Any], source: str) -> Config:
    try:
        return build_config(merge_settings(config.to_dict(), settings))
    except ConfigError as error:
        raise explained(error, [Layer(settings, source, {} if source else _TYPED)]) from None


def _parts(text: str, inner: str | None) -> tuple[str, dict[str, Any]]:
    """The name of a condition and the settings it stands for."""
    method, _, named = text.partition("+")
    own = named or (inner if method != "none" else None)
    return f"{method}+{own}" if own else method, {"method": method, "inner": {"name": own}}


def off_budget(conditions: Sequence[Condition]) -> list[str]:
    """A sentence for each name whose ratio does not say how much is kept."""
    told: dict[str, str] = {}
    for condition in conditions:
        config = condition.config
        if config.compresses and not config.has_budget:
            told[condition.name] = "keeps what its settings say, whatever the ratio"
        elif config.compresses and config.reduces_inside and config.inner.budget == "extra":
            told[condition.name] = f"has {config.inner.name} save on top of the ratio (inner.budget: extra)"
    return [f"{name} {what}" for name, what in told.items()]


def _method_of(name: str, settings: Mapping[str, Any]) -> str:
    """
    Raises:
        ConfigError: the settings are of another method than the variant is, or of several.
    """
    owners = list(settings.get("methods") or {})
    method = settings.get("method") or (owners[0] if owners else "aot")
    others = [owner for owner in owners if owner != method]
    if "aot" in settings and method not in AOT_METHODS:
        others.append("aot")
    if others:
        raise ConfigError(f"the variant {name} is of {method}, which has no settings of {others[0]}; leave those out")
    return str(method)


def _check_variant(name: str, settings: Mapping[str, Any]) -> None:
    fixed = sorted(set(settings) & {"sampling", "model", "generation", "ratio"})
    if fixed:
        raise ConfigError(f"the variant {name} sets {fixed[0]}, which is the same for all conditions; leave it out")
