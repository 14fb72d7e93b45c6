"""The versions that the smoke test is run with are the lowest that users may have."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 reads no TOML")
def test_they_are_the_lower_bounds_of_pyproject() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    bounds = {}
    for requirement in map(Requirement, project["dependencies"]):
        (bounds[requirement.name],) = [Version(each.version) for each in requirement.specifier if each.operator == ">="]
    lines = (ROOT / "tests" / "lowest.txt").read_text(encoding="utf-8").splitlines()
    lowest = [line.split("==") for line in lines if not line.startswith("#")]
    assert {name: Version(version) for name, version in lowest} == bounds
