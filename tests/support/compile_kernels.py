"""Compile Triton kernels to machine code for GPUs that this machine need not have.

This runs in a separate process, because Triton may be in interpreter mode in the process of the
tests.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

AMPERE, HOPPER = 80, 90

Job = tuple[str, Mapping[str, str], Mapping[str, Any], int]


def cubin_bytes(module: str, jobs: Sequence[Job]) -> list[int]:
    """Return the size of the machine code of each job.

    Args:
        module: the module of the kernels.
        jobs: kernel name, types of arguments, constants, compute capability.
    """
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    path = os.pathsep.join([str(Path(__file__).parents[2]), environment.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, __file__, json.dumps([module, list(jobs)])],
        env=environment | {"PYTHONPATH": path}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout))


def main() -> None:
    """Compile the jobs in the first argument and print their sizes as JSON."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    module, jobs = json.loads(sys.argv[1])
    sizes = []
    for name, types, constants, capability in jobs:
        kernel = getattr(importlib.import_module(module), name)
        known = {**types, **dict.fromkeys(constants, "constexpr")}
        signature = {argument: known.get(argument, "i32") for argument in kernel.arg_names}
        source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
        sizes.append(len(compile(source, target=GPUTarget("cuda", capability, 32)).asm["cubin"]))
    json.dump(sizes, sys.stdout)


if __name__ == "__main__":
    main()
