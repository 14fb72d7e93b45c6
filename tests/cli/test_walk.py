"""The walk of one frame in docs/architecture.md is the one that `aot ask` takes."""

from __future__ import annotations

import inspect
import re
import sys
import threading
from functools import reduce
from importlib import import_module
from itertools import groupby
from pathlib import Path
from types import CodeType, FrameType

from tests.support.cli_run import Aot

PAGE = Path(__file__).parents[2] / "docs" / "architecture.md"
MOST = 40
_ROW = re.compile(r"^\| `(aot[\w.]*)` \| `([\w.]+)` \|", re.MULTILINE)


def walk() -> list[tuple[str, str]]:
    _, _, rows = PAGE.read_text(encoding="utf-8").partition("### The functions on its way")
    found: list[tuple[str, str]] = _ROW.findall(rows)
    assert len(found) > 20
    return found


def code_of(module: str, name: str) -> CodeType:
    function = reduce(getattr, name.split("."), import_module(module))
    code: CodeType = inspect.unwrap(getattr(function, "__func__", function)).__code__  # type: ignore[arg-type, attr-defined]
    return code


def test_it_is_short_and_never_returns_to_a_module() -> None:
    assert len(walk()) < MOST
    visits = [module for module, _ in groupby(module for module, _ in walk())]
    others = [module for module in visits if not module.startswith("aot.pipeline.")]
    assert len(others) == len(set(others))


def test_every_function_of_it_is_called(run_aot: Aot, clip_file: Path) -> None:
    called: set[CodeType] = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        called.add(frame.f_code)

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        run = run_aot("ask", clip_file, "what happens?", "--model", "shapes", "--frames", "2")
    finally:
        threading.setprofile(None)
        sys.setprofile(None)
    assert run.code == 0, run.err
    assert not [f"{module}.{name}" for module, name in walk() if code_of(module, name) not in called]
