"""The arrows of the architecture: who may import whom, and what is public."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# The parts, in the order in which a run visits them, and what each may import besides itself.
NAMES = ("aot.types", "aot.errors", "aot.text", "aot.plugins")  # nouns, exceptions, words, names -> classes
ARROWS = {
    "names": set(),
    "aot.config": set(),
    "aot.runtime": set(),
    "aot.video": {"aot.config", "aot.runtime"},
    "aot.compression": {"aot.config"},
    "aot.models": {"aot.config", "aot.runtime", "aot.compression"},
    "aot.reports": {"aot.config", "aot.runtime", "aot.video"},
    "aot.pipeline": {"aot.config", "aot.runtime", "aot.video", "aot.compression", "aot.models", "aot.reports"},
    "aot.storage": {"aot.config", "aot.runtime", "aot.reports"},
    "aot.evaluation": {
        "aot.config", "aot.runtime", "aot.video", "aot.compression", "aot.models", "aot.reports", "aot.pipeline",
    },
    "aot.tuning": {
        "aot.config", "aot.runtime", "aot.video", "aot.models", "aot.reports", "aot.pipeline", "aot.evaluation",
    },
    "aot.serving": {
        "aot.config", "aot.runtime", "aot.video", "aot.compression", "aot.models", "aot.reports", "aot.pipeline",
        "aot.storage",
    },
    "aot.bench": {
        "aot.config", "aot.runtime", "aot.video", "aot.compression", "aot.models", "aot.reports", "aot.pipeline",
    },
    "aot.shapes": {"aot.runtime", "aot.video", "aot.compression"},  # its training samples and pools
    "aot": {  # the public names, and the checks that users run: aot.testing, aot.selftest
        "aot.config", "aot.runtime", "aot.video", "aot.compression", "aot.models", "aot.reports", "aot.pipeline",
        "aot.storage", "aot.shapes",
    },
    "aot_cli": {
        "aot", "aot.config", "aot.runtime", "aot.video", "aot.compression", "aot.models", "aot.reports",
        "aot.pipeline", "aot.storage", "aot.evaluation", "aot.tuning", "aot.serving", "aot.bench", "aot.shapes",
    },
}  # fmt: skip
MATHS = ("aot.compression.ops", "aot.compression.aot")  # tensors and small dataclasses in and out
OF_AN_ENGINE = ("aot.serving.lmms.model",)  # modules that only an engine imports: its classes derive from the engine's
ENGINES = {"fastapi", "lmms_eval", "prometheus_client", "pyarrow", "ray", "starlette", "uvicorn", "vllm"}  # extras
KNOWN_TO_MATHS = {
    "__future__", "aot", "collections", "contextlib", "dataclasses", "functools", "importlib", "itertools", "math",
    "torch", "triton", "typing", "typing_extensions", "warnings",
}  # fmt: skip


def part_of(module: str) -> str:
    if module.startswith(NAMES):
        return "names"
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
    seen = {part_of(name) for name in imported(path) if name.split(".")[0] in ("aot", "aot_cli")}
    allowed = ARROWS[part] | {part, "names"}
    assert seen <= allowed, f"{module} imports {sorted(seen - allowed)}"


def test_the_arrows_make_no_cycle() -> None:
    order: list[str] = []
    while len(order) < len(ARROWS):
        free = [part for part in ARROWS if part not in order and ARROWS[part] <= set(order)]
        assert free, f"a cycle among {sorted(set(ARROWS) - set(order))}"
        order += free


def test_the_page_shows_the_same_arrows() -> None:
    whole = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    page = whole[whole.index("## The parts") : whole.index("## One frame")]
    rows = re.findall(r"^\| `([^|]*)` \|[^|]*\| ([^|]*) \|$", page, re.MULTILINE)
    shown = {part: set(re.findall(r"`([^`]*)`", seen)) for part, seen in rows}
    names = shown.pop("aot.types`, `aot.errors`, `aot.text`, `aot.plugins")
    assert shown | {"names": names} == ARROWS


def test_every_part_is_on_the_map() -> None:
    assert {part_of(module) for module, _ in modules()} == set(ARROWS)


def test_public_names_exist() -> None:
    import aot

    for name in aot.__all__:
        assert getattr(aot, name) is not None
    for module, path in modules():
        if "__all__" in path.read_text() and module not in OF_AN_ENGINE:
            loaded = importlib.import_module(module)
            missing = [name for name in loaded.__all__ if not hasattr(loaded, name)]
            assert not missing, f"{module}: {missing}"


def test_engines_are_imported_only_where_they_run() -> None:
    for module, path in modules():
        assert not {*OF_AN_ENGINE} & {*imported(path)}, module
        if module in OF_AN_ENGINE:
            continue
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [str(node.module)]
                assert not ENGINES & {name.split(".")[0] for name in names}, f"{module}, line {node.lineno}"


def test_maths_know_no_file_and_no_model() -> None:
    for module, path in modules():
        if module.startswith(MATHS) and not module.endswith(".method"):
            names = set(imported(path))
            assert {name.split(".")[0] for name in names} <= KNOWN_TO_MATHS
            ours = {name for name in names if name.startswith("aot.")}
            assert all(name.startswith(("aot.types", *MATHS)) for name in ours), f"{module} imports {sorted(ours)}"


def test_data_of_methods_hold_no_functions() -> None:
    for module, path in modules():
        if not module.startswith(("aot.types", "aot.compression")):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and any("dataclass" in ast.unparse(each) for each in node.decorator_list):
                hints = [ast.unparse(each.annotation) for each in node.body if isinstance(each, ast.AnnAssign)]
                assert not [hint for hint in hints if "Callable" in hint], f"{module}.{node.name}"
