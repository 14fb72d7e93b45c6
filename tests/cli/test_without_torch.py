"""Methods are described without torch as they are with it, and work afterwards."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from aot.plugins import INNER, METHODS
from tests.support.cli_run import Aot

_CODE = """
import json, sys
from aot_cli.commands.methods import _everything, _of_name
found = [_everything(), *map(_of_name, json.loads(sys.argv[1]))]
assert "torch" not in sys.modules
import aot, torch
from aot.compression.ops.grid import pool
from aot.plugins import find
assert pool.__globals__["torch"] is torch
assert find("holitom").compress.__globals__["torch"] is torch
print(json.dumps([{kind: [one.to_dict() for one in all_] for kind, all_ in each.items()} for each in found]))
"""


def test_declarations_are_the_same_without_torch(run_aot: Aot) -> None:
    names = sorted({*METHODS, *INNER})
    command = [sys.executable, "-c", _CODE, json.dumps(names)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    without = json.loads(done.stdout)
    assert without == [_plain(run_aot("methods", "--json").json), *(_plain(_shown(run_aot, name)) for name in names)]


def _shown(run_aot: Aot, name: str) -> dict[str, Any]:
    return dict(run_aot("methods", name, "--json").json)


def _plain(found: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in found.items() if name not in ("schema", "notices")}
