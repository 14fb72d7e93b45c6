"""Build the conditions to compare: methods at ratios, and variants of a method's settings."""

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
    """A named configuration; all conditions of a run share the frames and the model."""

    name: str
    config: Config

    @property
    def ratio(self) -> float:
        """Return the ratio, 1 if nothing is compressed."""
        return self.config.ratio if self._is_reduced else 1.0

    @property
    def key(self) -> str:
        """Return a key that is unique in a run, such as "aot@0.1"; "none" has no ratio."""
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
    """Return every method and every variant at every ratio; "none" once.

    Args:
        config: the settings that all conditions share.
        methods: names, optionally with a reduction inside the language model, such as "none+fastv".
            Without one, every method but "none" gets the reduction of `config`; "none" means all
            tokens.
        ratios: in (0, 1].
        variants: settings to merge into `config`, by name. A variant is of the method that it
            names, or else the one whose settings it sets, or else "aot".

    Raises:
        ConfigError: If a method or setting is unknown, a name is used twice, or a variant changes
            more than the compression.
    """
    # 1. The settings of each name.
    named = dict(_parts(text, config.inner.name) for text in methods)
    for name, settings in (variants or {}).items():
        if name in named or name in names():
            raise ConfigError(f"the variant {name} has the name of a method; give it another")
        _check_variant(name, settings)
        named[name] = {"method": _method_of(name, settings), **settings}
    # 2. Each at every ratio; a condition that reduces nothing has only one.
    conditions: dict[str, Condition] = {}
    for name, settings in named.items():
        own = _build(config, settings, f"variant {name}" if name in (variants or {}) else "")
        for ratio in ratios if own.method != "none" or own.inner.name else [1.0]:
            condition = Condition(name, replace(own, ratio=ratio))
            conditions[condition.key] = condition
    if not conditions:
        raise ConfigError("there is nothing to compare; name at least one method and one ratio")
    return tuple(conditions.values())


_TYPED = {"method": "--methods", "inner.name": "--methods"}  # the flags named in error messages


def _build(config: Config, settings: Mapping[str, Any], source: str) -> Config:
    try:
        return build_config(merge_settings(config.to_dict(), settings))
    except ConfigError as error:
        raise explained(error, [Layer(settings, source, {} if source else _TYPED)]) from None


def _parts(text: str, inner: str | None) -> tuple[str, dict[str, Any]]:
    """Return the name of a condition and its settings, from a method and a default reduction."""
    method, _, named = text.partition("+")
    own = named or (inner if method != "none" else None)
    return f"{method}+{own}" if own else method, {"method": method, "inner": {"name": own}}


def off_budget(conditions: Sequence[Condition]) -> list[str]:
    """Return a sentence for each name whose ratio does not determine how much is kept."""
    sentences: dict[str, str] = {}
    for condition in conditions:
        config = condition.config
        if config.compresses and not config.has_budget:
            sentences[condition.name] = "keeps what its settings define, independent of the ratio"
        elif config.compresses and config.reduces_inside and config.inner.budget == "extra":
            sentences[condition.name] = f"has {config.inner.name} save on top of the ratio (inner.budget: extra)"
    return [f"{name} {what}" for name, what in sentences.items()]


def _method_of(name: str, settings: Mapping[str, Any]) -> str:
    """Return the method of a variant.

    Raises:
        ConfigError: If the settings belong to another method, or to several.
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
