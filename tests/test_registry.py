"""Names: what is told where there is no such method, and what a plug-in must be."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from aot.compression.methods import Card
from aot.config.sources import resolve_config
from aot.errors import ConfigError
from aot.plugins import INNER, METHODS, Kind, _problems, find, hint
from aot.text import did_you_mean
from aot.types import Needs


@pytest.mark.parametrize(
    ("name", "kind", "told"),
    [
        ("holitm", "methods", "did you mean holitom?"),
        ("VidCom", "methods", "did you mean vidcom2?"),
        ("fastv", "methods", "fastv acts inside the language model: --inner fastv, or none+fastv in a list of methods"),
        ("pyramid-drop", "methods", "did you mean pyramiddrop? It acts inside the language model: --inner pyramiddrop"),
        ("vidcom2", "inner", "vidcom2 acts before the language model: --method vidcom2"),
        ("fast-v", "inner", "did you mean fastv?"),
        ("?", "methods", "`aot methods` lists them"),
    ],
)
def test_hints(name: str, kind: Kind, told: str, tmp_path: Path) -> None:
    assert hint(name, kind).startswith(told)
    with pytest.raises(ConfigError) as error:
        find(name, kind)
    assert told in str(error.value)
    asked = {"method": name} if kind == "methods" else {"inner": {"name": name}}
    with pytest.raises(ConfigError, match="must be one of") as error:
        resolve_config(asked, folder=tmp_path)
    assert f"; {told}" in str(error.value.problems[0])


@pytest.mark.parametrize(
    ("name", "told"), [("shape", "did you mean shapes?"), ("QWEN", "did you mean Qwen2?"), ("x", ""), ("", "")]
)
def test_names_spelled_alike(name: str, told: str) -> None:
    assert did_you_mean(name, ("shapes", "Qwen2", "default")) == told


def test_other_problems_bring_no_hint(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        resolve_config({"ratio": 2.0, "method": "aot", "inner": {"name": "fastv"}}, folder=tmp_path)
    assert str(error.value) == "ratio must be in (0, 1], got 2"


@pytest.mark.parametrize("name", METHODS)
def test_methods_are_what_a_plug_in_must_be(name: str) -> None:
    assert not list(_problems(find(name), "methods"))


@pytest.mark.parametrize("name", INNER)
def test_inner_reductions_are_what_a_plug_in_must_be(name: str) -> None:
    assert not list(_problems(find(name, "inner"), "inner"))


@dataclass(frozen=True)
class Whole:
    card: ClassVar = Card("after pooling")
    needs: ClassVar = Needs()
    size: int = 1

    def compress(self, tokens: Any, budget: int) -> Any: ...


class NoDataclass:
    card, needs, compress = Whole.card, Whole.needs, Whole.compress


@dataclass(frozen=True)
class Unsettled(NoDataclass):
    share: float


class FromConfig(NoDataclass):
    @classmethod
    def from_config(cls, config: Any) -> Any: ...


class Cardless(FromConfig):
    card = "after pooling"  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("found", "wrong"),
    [
        (Whole, []),
        (FromConfig, []),
        (Whole(), ["is a Whole, not a class"]),
        (NoDataclass, ["has no settings: it is no dataclass"]),
        (Unsettled, ["has the setting share without a default"]),
        (Cardless, ["has no card (aot.compression.methods.Card)"]),
    ],
)
def test_what_a_plug_in_must_be(found: Any, wrong: list[str]) -> None:
    assert list(_problems(found, "methods")) == wrong
