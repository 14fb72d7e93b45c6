"""A setting is declared once: its check, its list and its words follow from there."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from aot.config.schema import Config
from aot.config.setting import CheckedSettings, Conflicts, Rule, setting, settings_in
from aot.config.strict import build_settings
from aot.errors import ConfigError
from aot_cli.commands.settings import every_setting

EVEN = Rule("even", lambda value: value % 2 == 0)


@dataclass(frozen=True, slots=True)
class Inside(CheckedSettings):
    weight: float | None = setting(None, "A weight.", least=0, below=1)
    kind: Literal["a", "b"] = setting("a", "A kind.")


@dataclass(frozen=True, slots=True)
class Group(CheckedSettings):
    low: int = setting(2, "The low end.", least=1)
    high: int = setting(4, "The high end.", above=0, most=2**40 - 1)
    even: int = setting(2, "An even number.", rule=EVEN)
    names: dict[str, Any] = setting(dict, "Names.")
    inside: Inside = Inside()
    undeclared: int = 3

    def conflicts(self) -> Conflicts:
        if self.low > self.high:
            yield "low", f"must be at most high = {self.high}"


@pytest.mark.parametrize(
    ("bounds", "words", "inside", "outside"),
    [
        ({"least": 1}, "at least 1", [1, 2, math.inf], [0, -1, math.nan]),
        ({"above": 0}, "above 0", [1e-9], [0, math.nan]),
        ({"least": 0, "most": 1}, "in [0, 1]", [0, 1], [-0.1, 1.1, math.nan]),
        ({"above": 0, "most": 0.5}, "in (0, 0.5]", [0.5], [0, 0.6]),
        ({"least": 0, "below": 1}, "in [0, 1)", [0], [1]),
        ({"above": 0, "below": 1}, "in (0, 1)", [0.5], [0, 1]),
        ({"least": 1, "below": math.inf}, "in [1, inf)", [1, 1e300], [math.inf]),
        ({"above": 0, "most": 10**6}, "in (0, 1000000]", [10**6], [10**6 + 1]),
        ({"least": 0, "most": 2**63 - 1}, "in [0, 2^63 - 1]", [2**63 - 1], [2**63]),
        ({"least": 1e-3}, "at least 0.001", [1e-3], [9e-4]),
        ({"most": 3}, "at most 3", [3, -9], [4, math.nan]),
        ({"below": 3}, "below 3", [2], [3]),
    ],
)
def test_ranges(bounds: dict[str, float], words: str, inside: list[float], outside: list[float]) -> None:
    @dataclass(frozen=True)
    class One(CheckedSettings):
        value: float = setting(inside[0], "A value.", **bounds)

    for value in inside:
        assert One(value).value == value
    for value in outside:
        with pytest.raises(ConfigError, match=r"^value must be .*, got ") as caught:
            One(value)
        assert str(caught.value).startswith(f"value must be {words}, got ")
    (declared,) = settings_in(One)
    assert (declared.range, declared.meaning, declared.default) == (words, "A value.", inside[0])


def test_every_problem_at_once_and_each_setting_once() -> None:
    with pytest.raises(ConfigError) as caught:
        Group(low=0, high=-1, even=3)
    assert list(map(str, caught.value.problems)) == [
        "low must be at least 1, got 0",
        "high must be in (0, 2^40 - 1], got -1",
        "even must be even, got 3",
    ]
    with pytest.raises(ConfigError, match=r"^low must be at most high = 4$"):
        Group(low=5)


def test_a_value_just_outside_is_not_rounded_to_the_end_of_its_range() -> None:
    with pytest.raises(ConfigError, match=r"ratio must be in \(0, 1\], got 1\.0000001$"):
        Config(ratio=1.0000001)


def test_null_has_no_range() -> None:
    assert Inside(weight=None).weight is None


def test_groups_are_built_and_listed_by_path() -> None:
    assert build_settings(Group, {"inside": {"weight": 0.5}}, "x.") == Group(inside=Inside(weight=0.5))
    with pytest.raises(ConfigError, match=r"^x\.inside\.weight must be in \[0, 1\), got 1$"):
        build_settings(Group, {"inside": {"weight": 1}}, "x.")
    listed = {declared.path: declared for declared in settings_in(Group, "x.")}
    assert list(listed) == ["x.low", "x.high", "x.even", "x.names", "x.inside.weight", "x.inside.kind", "x.undeclared"]
    assert (listed["x.inside.weight"].type, listed["x.inside.kind"].type) == ("a number or null", "a or b")
    assert listed["x.names"].default == {}
    assert (listed["x.undeclared"].default, listed["x.undeclared"].meaning) == (3, "")


def test_every_setting_has_one_sentence_and_a_default_in_its_range() -> None:
    listed = every_setting()
    assert len({declared.path for declared in listed}) == len(listed) > 140
    for declared in listed:
        assert declared.meaning[0].isupper() or declared.meaning[0] in "`0", declared.path
        assert declared.meaning.endswith("."), declared.path
        assert ". " not in declared.meaning, declared.path
        assert declared.default is None or declared.rule is None or declared.rule.holds(declared.default), declared.path
