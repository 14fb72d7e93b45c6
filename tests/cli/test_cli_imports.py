"""The modules of the commands import at their top whatever is light; libraries that take long come in functions."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SLOW = {"av", "decord", "huggingface_hub", "matplotlib", "numpy", "torch", "transformers"}
# Of them some are imported before a command is known, and import later what they can.
FIRST = {"address_space", "entry", "signals", "console"}
FILES = {path.stem: path for path in (ROOT / "aot_cli").rglob("*.py") if path.stem != "__init__"}


def names(node: ast.stmt) -> Iterator[str]:
    """Yield the modules that an import may import."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield str(node.module)
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


def at_top(statements: Iterable[ast.stmt]) -> Iterator[str]:
    """Yield what is imported with a module."""
    for node in statements:
        yield from names(node)
        if isinstance(node, ast.Try):
            yield from at_top(node.body)


@cache
def slow(module: str) -> frozenset[str]:
    """Return the slow libraries that are imported with a module."""
    found, left, seen = set(), [module], set[str]()
    while left:
        parts = left.pop().split(".")
        found |= SLOW & {parts[0]}
        for name in (".".join(parts[:count]) for count in range(1, len(parts) + 1)):
            path = ROOT / name.replace(".", "/")
            path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
            if name not in seen and path.exists():
                left += at_top(ast.parse(path.read_text(encoding="utf-8")).body)
            seen.add(name)
    return frozenset(found)


def test_what_is_slow_is_found() -> None:
    assert {"torch", "numpy"} & slow("aot.pipeline.run") and slow("aot.video") >= {"av"} and slow("torch.cuda")
    assert not slow("aot.config.schema") and not slow("aot.storage.tokens_file")


@pytest.mark.parametrize("name", FILES)
def test_no_module_of_the_command_line_imports_a_slow_library(name: str) -> None:
    module = ".".join(FILES[name].relative_to(ROOT).with_suffix("").parts)
    assert not slow(module)


@pytest.mark.parametrize("name", sorted(FILES.keys() - FIRST))
def test_functions_import_only_what_is_slow(name: str) -> None:
    tree = ast.parse(FILES[name].read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    imports = [node for function in functions for node in ast.walk(function) if isinstance(node, ast.stmt)]
    light = [modules[0] for modules in map(list, map(names, imports)) if modules and not any(map(slow, modules))]
    assert not light, f"import {', '.join(light)} at the top of {FILES[name]}"
