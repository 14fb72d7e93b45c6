"""A method from a package outside of this one: installed, listed, run; and one that is broken."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from aot.plugins import _plugged_in
from aot.testing import check_method
from aot_cli.options import named_methods
from tests.support.cli_run import Aot

PAGE = Path(__file__).parents[2] / "docs" / "own-method.md"
PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "strangers-method"
version = "1.0"

[project.entry-points."aot.methods"]
every-other = "strangers_method:EveryOther"
broken = "strangers_method:NotThere"
function = "strangers_other:compress"
half = "strangers_other:Half"
greedy = "strangers_other:Greedy"
failing = "strangers_other:Failing"
holitom = "strangers_method:EveryOther"

[project.entry-points."aot.inner"]
no-inner = "strangers_method:EveryOther"
texts = "strangers_other:Texts"

[tool.setuptools]
py-modules = ["strangers_method", "strangers_other"]
"""
OTHERS = """
from dataclasses import dataclass
import torch
from aot.compression.in_llm import LayerPoint, Reduction
from aot.compression.methods import Card
from aot.compression.methods.subset import keep_subset
from aot.types import Needs

def compress(tokens, budget): ...

@dataclass(frozen=True)
class Half:
    size: int
    card = Card("after pooling")
    def compress(self, tokens, budget): ...

@dataclass(frozen=True)
class Greedy:
    card = Card("after pooling")
    needs = Needs()
    def compress(self, tokens, budget):
        return keep_subset(tokens, torch.arange(budget + 3))

@dataclass(frozen=True)
class Failing(Greedy):
    def compress(self, tokens, budget):
        return tokens.features[budget, 0, 0, 0]

@dataclass(frozen=True)
class Texts:
    card = Card("second layer")
    def load(self, layers): return 0.9
    def with_load(self, load, layers): return self
    def points(self, layers): return [LayerPoint(1)]
    def reduce(self, state): return Reduction(state.question)
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example of docs/own-method.md as a package, installed into a folder of its own."""
    source, target = tmp_path_factory.mktemp("stranger"), tmp_path_factory.mktemp("site")
    example = re.search(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert example
    (source / "pyproject.toml").write_text(PROJECT)
    (source / "strangers_method.py").write_text(example[1])
    (source / "strangers_other.py").write_text(OTHERS)
    line = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "--target",
        target,
        source,
    ]
    subprocess.run(line, check=True)
    return target


@pytest.fixture
def installed(site: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The package is importable, and the registry looks again."""
    monkeypatch.syspath_prepend(site)
    _plugged_in.cache_clear()
    yield
    _plugged_in.cache_clear()


@pytest.mark.usefixtures("installed")
def test_it_is_listed_and_runs(run_aot: Aot, clip_file: Path, small_folder: Path) -> None:
    assert "every-other" in [row["name"] for row in run_aot("methods", "--json").json["methods"]]
    line = ("compress", clip_file, "-o", "t.pt", "--model", small_folder, "--frames", "4", "--ratio", "0.2")
    done = run_aot(*line, "--method", "every-other", "--set", "methods.every-other.even_share=0.3", "--json")
    assert done.code == 0, done.err
    assert done.json["kept_tokens"] == done.json["budget_tokens"]
    assert all(frame["kept"] for frame in done.json["frames"])
    assert done.json["config"]["methods"] == {"every-other": {"even_share": 0.3, "layer": -1}}
    for setting, told in (("shared=1", "unknown setting"), ("even_share=2", "must be in [0, 1], got 2")):
        wrong = run_aot(*line, "--method", "every-other", "--set", f"methods.every-other.{setting}", "--force")
        assert wrong.code == 2
        assert told in wrong.err


@pytest.mark.usefixtures("installed")
def test_its_settings_come_from_the_folder(run_aot: Aot, clip_file: Path, small_folder: Path) -> None:
    example = re.search(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert example
    Path("aot.yaml").write_text(example[1])
    done = run_aot("compress", clip_file, "-o", "t.pt", "--model", small_folder, "--frames", "4", "--json")
    assert done.code == 0, done.err
    assert done.json["config"]["method"] == "every-other"
    assert done.json["config"]["methods"]["every-other"]["even_share"] == 0.3


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("kind", "name", "wrong"),
    [
        ("methods", "broken", "cannot be loaded: AttributeError"),
        ("methods", "function", "is no method: strangers_other:compress is a function, not a class"),
        ("methods", "half", "is no method: strangers_other:Half has no needs"),
        ("inner", "no-inner", "is no inner reduction: strangers_method:EveryOther has no load()"),
    ],
)
def test_a_broken_one_is_told(
    run_aot: Aot, clip_file: Path, small_folder: Path, kind: str, name: str, wrong: str
) -> None:
    flag = {"methods": "--method", "inner": "--inner"}[kind]
    done = run_aot("ask", clip_file, "hi?", "--model", small_folder, "--ratio", "0.5", flag, name)
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert f"the plug-in {name} of the package strangers-method 1.0 {wrong}" in done.err
    rows = {row["name"]: row for row in run_aot("methods", "--json").json[kind]}
    assert rows[name]["remark"].startswith("broken: ")
    assert wrong in rows[name]["remark"]


@pytest.mark.usefixtures("installed")
def test_the_others_are_listed_as_ever_and_a_taken_name_is_told(run_aot: Aot) -> None:
    done = run_aot("methods", "--json")
    rows = {row["name"]: row for row in done.json["methods"]}
    assert rows["aot"]["exact"]
    assert rows["holitom"]["paper"].startswith("arXiv")
    assert "note: the plug-in holitom of the package strangers-method 1.0 is not used" in done.err
    assert done.err.count("\n") == 1
    every = named_methods("all")
    assert {"aot", "every-other", "none+fastv"} <= set(every)
    assert not {"broken", "function", "half", "none+no-inner"} & set(every)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("flags", "wrong"),
    [
        (("--method", "greedy"), "greedy of the package strangers-method 1.0 kept 23 tokens where exactly 20 were due"),
        (("--method", "failing"), "failing of the package strangers-method 1.0 failed (IndexError: "),
        (("--inner", "texts"), "texts of the package strangers-method 1.0 dropped a row of text"),
    ],
)
def test_one_that_breaks_the_contract_is_named(
    run_aot: Aot, clip_file: Path, small_folder: Path, flags: tuple[str, ...], wrong: str
) -> None:
    line = ("ask", clip_file, "hi?", "--model", small_folder, "--frames", "4", "--ratio", "0.2", *flags)
    done = run_aot(*line)
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert done.err.startswith(f"aot: the plug-in {wrong}")
    assert "internal error" not in done.err
    debugged = run_aot(*line, "--debug")
    assert debugged.code == 1
    assert "Traceback" in debugged.err
    if "failing" in flags:
        assert "strangers_other.py" in debugged.err


@pytest.mark.usefixtures("installed")
def test_eval_ranks_none_that_breaks_the_contract(run_aot: Aot, clip_file: Path, small_folder: Path) -> None:
    item = {"video": str(clip_file), "question": "what happens?", "answer": "a", "id": "1"}
    Path("q.jsonl").write_text(json.dumps(item) + "\n")
    line = ("eval", "q.jsonl", "-o", "results", "--model", small_folder, "--frames", "4", "--ratios", "0.2", "--json")
    done = run_aot(*line, "--methods", "random,greedy,failing,none+texts")
    assert done.code == 0, done.err
    assert [(row["name"], row["ratio"]) for row in done.json["conditions"]] == [("random", 0.2)]
    for name in ("greedy@0.2", "failing@0.2", "none+texts@0.2"):
        assert f"note: {name} is left out: the plug-in " in done.err
    alone = run_aot(*line, "--methods", "greedy", "--restart")
    assert alone.code == 1
    assert "the plug-in greedy of the package strangers-method 1.0 kept 23 tokens" in alone.err


@pytest.mark.usefixtures("installed")
def test_the_example_passes_the_test_for_outside_packages() -> None:
    check_method("every-other")
    check_method("every-other", {"even_share": 0.9})
    with pytest.raises(AssertionError, match=r"kept 4 tokens where exactly 1 were due"):
        check_method("greedy")


def test_without_the_package_it_is_unknown(run_aot: Aot, clip_file: Path, small_folder: Path) -> None:
    done = run_aot("compress", clip_file, "-o", "t.pt", "--model", small_folder, "--method", "every-other")
    assert done.code == 2
    assert "must be one of none, random" in done.err
