"""A method from a package outside of this one: installed, listed, run; and one that is broken."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_run import Aot

from aot.registry import _plugged_in

METHODS = Path(__file__).parents[2] / "docs" / "methods.md"
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

[tool.setuptools]
py-modules = ["strangers_method"]
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example of docs/methods.md as a package, installed into a folder of its own."""
    source, target = tmp_path_factory.mktemp("stranger"), tmp_path_factory.mktemp("site")
    example = re.search(r"```python\n(.*?)```", METHODS.read_text(encoding="utf-8"), re.DOTALL)
    assert example
    (source / "pyproject.toml").write_text(PROJECT)
    (source / "strangers_method.py").write_text(example[1])
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
    done = run_aot(*line, "--method", "every-other", "--set", "methods.every-other.stride=3", "--json")
    assert done.code == 0, done.err
    assert done.json["kept_tokens"] == done.json["budget_tokens"]
    assert done.json["config"]["methods"] == {"every-other": {"stride": 3}}
    wrong = run_aot(*line, "--method", "every-other", "--set", "methods.every-other.strides=3", "--force")
    assert wrong.code == 2
    assert "unknown setting methods.every-other.strides (valid: stride)" in wrong.err


@pytest.mark.usefixtures("installed")
def test_a_broken_one_is_told(run_aot: Aot, clip_file: Path, small_folder: Path) -> None:
    done = run_aot("compress", clip_file, "-o", "t.pt", "--model", small_folder, "--method", "broken")
    assert done.code == 2
    assert "the plug-in broken cannot be loaded: AttributeError" in done.err
    rows = {row["name"]: row for row in run_aot("methods", "--json").json["methods"]}
    assert "cannot be loaded" in rows["broken"]["remark"]
    assert rows["aot"]["exact"]


def test_without_the_package_it_is_unknown(run_aot: Aot, clip_file: Path, small_folder: Path) -> None:
    done = run_aot("compress", clip_file, "-o", "t.pt", "--model", small_folder, "--method", "every-other")
    assert done.code == 2
    assert "must be one of none, random" in done.err
