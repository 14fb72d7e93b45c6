"""Build the conditions to compare: methods and variants of their settings, at several ratios."""

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
    """A named configuration; all conditions of a run have the same frames and the same model."""

    name: str
    config: Config

    @property
    def ratio(self) -> float:
        """Return the ratio of the configuration, or 1 if all tokens are kept."""
        return self.config.ratio if self._is_reduced else 1.0

    @property
    def key(self) -> str:
        """Return a key, unique in a run: "NAME@RATIO", or only the name if all tokens are kept."""
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
    """Return one condition per ratio for each method and variant; "none" gets a single condition.

    Args:
        config: the settings that all conditions share.
        methods: names of methods. A suffix such as in "none+fastv" adds a reduction inside the
            language model. A name without a suffix gets the inner reduction of `config`; "none"
            without a suffix keeps all tokens.
        ratios: shares of the tokens to keep, in (0, 1].
        variants: maps names to settings that are merged into `config`. The method of a variant is
            its setting `method`, or the method whose settings it changes, or "aot".

    Raises:
        ConfigError: If a method or setting is unknown, a name is used twice, or a variant changes
            more than the compression.
    """
    # 1. Settings of each method and variant.
    named = dict(_parts(text, config.inner.name) for text in methods)
    for name, settings in (variants or {}).items():
        if name in named or name in names():
            raise ConfigError(f"the variant {name} has the name of a method; give it another")
        _check_variant(name, settings)
        named[name] = {"method": _method_of(name, settings), **settings}
    # 2. One condition per name and ratio; a name that keeps all tokens gets a single condition.
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
    """Return the name and the settings of a condition; `text` is METHOD+INNER or METHOD.

    Without +INNER, the inner reduction is `inner`, or none if METHOD is "none".
    """
    method, _, named = text.partition("+")
    own = named or (inner if method != "none" else None)
    return f"{method}+{own}" if own else method, {"method": method, "inner": {"name": own}}


def off_budget(conditions: Sequence[Condition]) -> list[str]:
    """Return a note for each method with which the ratio alone does not set the kept tokens."""
    sentences: dict[str, str] = {}
    for condition in conditions:
        config = condition.config
        if config.compresses and not config.has_budget:
            sentences[condition.name] = "keeps what its settings define, independent of the ratio"
        elif config.compresses and config.reduces_inside and config.inner.budget == "extra":
            sentences[condition.name] = f"has {config.inner.name} save on top of the ratio (inner.budget: extra)"
    return [f"{name} {what}" for name, what in sentences.items()]


def _method_of(name: str, settings: Mapping[str, Any]) -> str:
    """Return the method of the variant `name`.

    Raises:
        ConfigError: If `settings` has settings of another method, or of several methods.
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
