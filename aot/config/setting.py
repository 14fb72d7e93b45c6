"""Declare settings with type, default, description and range; check values by the range."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import Any, get_type_hints

from aot.config.strict import type_in_words
from aot.errors import ConfigError, Problem

__all__ = ["CheckedSettings", "Conflicts", "Rule", "Setting", "setting", "settings_in"]

_DECLARED = "setting"  # the key of a field's metadata
Conflicts = Iterator[tuple[str, str]]  # (name of a setting, problem)


@dataclass(frozen=True, slots=True)
class Rule:
    """A condition on a value: `words` follows "must be" in messages, `holds` checks a value."""

    words: str
    holds: Callable[[Any], bool]


def setting(
    default: Any,
    meaning: str,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
    rule: Rule | None = None,
) -> Any:
    """Return a dataclass field that declares a setting.

    Args:
        default: The default value; `dict` for groups of settings by name.
        meaning: One sentence for `--help`, `aot settings` and the documentation.
        least: The lower limit, included.
        above: The lower limit, excluded; used if `least` is None.
        most: The upper limit, included.
        below: The upper limit, excluded; used if `most` is None.
        rule: A condition that replaces the limits.
    """
    declared = {_DECLARED: (meaning, rule or _range(least, above, most, below))}
    if default is dict:
        return field(default_factory=dict, metadata=declared)
    return field(default=default, metadata=declared)


def _range(least: float | None, above: float | None, most: float | None, below: float | None) -> Rule | None:
    low, high = above if least is None else least, below if most is None else most
    from_low = f"{'above' if least is None else 'at least'} {_as_text(low)}"
    to_high = f"{'below' if most is None else 'at most'} {_as_text(high)}"
    both = f"in {'(' if least is None else '['}{_as_text(low)}, {_as_text(high)}{')' if most is None else ']'}"
    words = "" if low is high is None else to_high if low is None else from_low if high is None else both

    def holds(value: Any) -> bool:  # NaN is in no range
        is_above = low is None or (value > low if least is None else value >= low)
        return bool(is_above and (high is None or (value < high if most is None else value <= high)))

    return Rule(words, holds) if words else None


def _as_text(value: Any) -> str:
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else repr(value)
    is_mask = isinstance(value, int) and value > 2**30 and value & (value + 1) == 0
    return f"2^{value.bit_length()} - 1" if is_mask else repr(value)


class CheckedSettings:
    """Base class of dataclasses of settings; it checks ranges, and conflicts between settings."""

    __slots__ = ()

    def __post_init__(self) -> None:
        """Check all values.

        Raises:
            ConfigError: If values are out of range or conflict. The error lists all problems.
        """
        problems = [
            Problem(each.name, f"must be {rule.words}, got {_as_text(value)}")
            for each in fields(self)  # type: ignore[arg-type]
            for rule, value in [(each.metadata.get(_DECLARED, ("", None))[1], getattr(self, each.name))]
            if rule and value is not None and not rule.holds(value)
        ]
        known = {problem.path for problem in problems}
        problems += [Problem(name, message) for name, message in self.conflicts() if name not in known]
        if problems:
            raise ConfigError(*problems)

    def conflicts(self) -> Conflicts:
        """Yield (name, problem) for settings that contradict each other; by default, none."""
        return iter(())


@dataclass(frozen=True, slots=True)
class Setting:
    """The declaration of a setting.

    Attributes:
        path: The name for `--set`, for instance "aot.clips.frames".
        hint: The type hint.
        default: The default value.
        meaning: One sentence; empty if the field was not declared with `setting`.
        rule: The condition on values, or None.
    """

    path: str
    hint: Any
    default: Any = None
    meaning: str = ""
    rule: Rule | None = None

    @property
    def type(self) -> str:
        """Return the type in words, for instance "a number or null"."""
        return type_in_words(self.hint)

    @property
    def range(self) -> str:
        """Return the condition in words, for instance "in [0, 1]", or "" if `rule` is None."""
        return self.rule.words if self.rule else ""


def settings_in(cls: Any, group: str = "") -> Iterator[Setting]:
    """Yield the settings of `cls` and its nested dataclasses; their paths begin with `group`."""
    hints = get_type_hints(cls, include_extras=True)
    for each in fields(cls):
        hint, path = hints[each.name], group + each.name
        if is_dataclass(hint):
            yield from settings_in(hint, f"{path}.")
        else:
            default = each.default if each.default_factory is MISSING else each.default_factory()
            yield Setting(path, hint, default, *each.metadata.get(_DECLARED, ()))
