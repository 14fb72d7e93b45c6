"""The arrows of the architecture: who may import whom, and what is public."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# What each part may import besides itself; every part may import the foundations.
FOUNDATIONS = {
    "aot.types", "aot.errors", "aot.config", "aot.registry", "aot.strict", "aot.notations", "aot.paths",
    "aot.preset_files", "aot.temporary", "aot.text",
}  # fmt: skip
ARROWS = {
    "aot.types": set(),
    "aot.errors": set(),
    "aot.paths": set(),
    "aot.temporary": set(),
    "aot.text": {"aot.errors"},
    "aot.registry": {"aot.errors", "aot.text"},
    "aot.notations": set(),
    "aot.preset_files": {"aot.errors", "aot.text"},
    "aot.strict": {"aot.errors", "aot.notations", "aot.text"},
    "aot.config": {"aot.errors", "aot.notations", "aot.preset_files", "aot.registry", "aot.strict"},
    "aot.layers": set(),
    "aot.settings": {"aot.layers"},
    "aot.files": set(),
    "aot.memory": set(),
    "aot.core": set(),
    "aot.contract": {"aot.core", "aot.inner", "aot.methods"},  # their protocols, for types
    "aot.video": set(),
    "aot.methods": {"aot.core"},
    "aot.inner": {"aot.core"},
    "aot.models": {"aot.contract", "aot.core", "aot.inner", "aot.memory"},
    "aot.json_files": set(),
    "aot.plain": set(),
    "aot.pt_file": set(),
    "aot.report": set(),
    "aot.report_reader": {"aot.plain"},
    "aot.origins": set(),
    "aot.overlay": {"aot.files", "aot.origins", "aot.video"},
    "aot.pictures": set(),
    "aot.page": {"aot.origins", "aot.report"},
    "aot.stages": {"aot.memory"},
    "aot.peak_memory": {"aot.memory", "aot.stages"},
    "aot.selection": {"aot.contract", "aot.core", "aot.models", "aot.stages", "aot.video"},
    "aot.segments": {
        "aot.contract", "aot.core", "aot.inner", "aot.memory", "aot.methods", "aot.models", "aot.origins",
        "aot.selection", "aot.stages", "aot.video",
    },
    "aot.shapes": {"aot.files"},
    "aot.selftest": {
        "aot.core", "aot.files", "aot.models", "aot.pipeline", "aot.segments", "aot.shapes", "aot.stages", "aot.video",
    },
    "aot.testing": {"aot.contract", "aot.core", "aot.methods", "aot.models", "aot.origins"},
    "aot.bench": {
        "aot.core", "aot.inner", "aot.methods", "aot.models", "aot.peak_memory", "aot.segments", "aot.stages",
    },
    "aot.evaluation": {
        "aot.files", "aot.inner", "aot.json_files", "aot.layers", "aot.memory", "aot.methods", "aot.models",
        "aot.peak_memory", "aot.pictures", "aot.plain", "aot.report", "aot.segments", "aot.selection", "aot.stages",
        "aot.video",
    },
    "aot.tokens_file": {"aot.files", "aot.json_files", "aot.plain", "aot.pt_file", "aot.report", "aot.report_reader"},
    "aot.pipeline": {
        "aot.inner", "aot.memory", "aot.methods", "aot.models", "aot.origins", "aot.pictures", "aot.report",
        "aot.segments", "aot.stages", "aot.video",
    },
    "aot": {"aot.pipeline", "aot.video", "aot.models", "aot.methods", "aot.report", "aot.tokens_file"},
    "aot_cli": {
        "aot", "aot.bench", "aot.evaluation", "aot.files", "aot.inner", "aot.layers", "aot.memory", "aot.methods",
        "aot.models", "aot.overlay", "aot.page", "aot.pictures", "aot.pipeline", "aot.report", "aot.selection",
        "aot.selftest", "aot.settings", "aot.shapes", "aot.stages", "aot.tokens_file", "aot.video",
    },
}  # fmt: skip
CORE_SEES = {"aot.types"}
KNOWN_TO_CORE = {
    "__future__", "aot", "collections", "contextlib", "dataclasses", "functools", "importlib", "itertools", "math",
    "torch", "triton", "typing", "warnings",
}  # fmt: skip


def part_of(module: str) -> str:
    return max((part for part in ARROWS if module == part or module.startswith(part + ".")), key=len)


def modules() -> Iterator[tuple[str, Path]]:
    for package in ("aot", "aot_cli"):
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            yield name.removesuffix(".__init__"), path


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield str(node.module)
            if node.module in ("aot", "aot_cli"):
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize(("module", "path"), list(modules()))
def test_arrows_never_turn_back(module: str, path: Path) -> None:
    part = part_of(module)
    allowed = ARROWS[part] | {part} | (CORE_SEES if part == "aot.core" else FOUNDATIONS)
    if part in FOUNDATIONS:
        allowed = ARROWS[part] | {part}
    seen = {part_of(name) for name in imported(path) if name.split(".")[0] in ("aot", "aot_cli")}
    assert seen <= allowed, f"{module} imports {sorted(seen - allowed)}"


def test_every_part_is_on_the_map() -> None:
    assert {part_of(module) for module, _ in modules()} == set(ARROWS)


def test_public_names_exist() -> None:
    import aot

    for name in aot.__all__:
        assert getattr(aot, name) is not None
    for module, path in modules():
        if "__all__" in path.read_text():
            loaded = importlib.import_module(module)
            missing = [name for name in loaded.__all__ if not hasattr(loaded, name)]
            assert not missing, f"{module}: {missing}"


def test_core_knows_no_file_and_no_model() -> None:
    for module, path in modules():
        if module.startswith("aot.core"):
            roots = {name.split(".")[0] for name in imported(path)}
            assert roots <= KNOWN_TO_CORE
