"""The Triton kernel and the torch version are twins. Without a CUDA device Triton's interpreter runs the kernel, and
its compiler builds the machine code.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import pytest
import torch

from aot.compression.aot import sinkhorn as torch_version
from aot.compression.aot.sinkhorn import sinkhorn
from aot.types import TransportPlan
from tests.support.compile_kernels import AMPERE, HOPPER, Job, cubin_bytes
from tests.support.syncs import counted_syncs
from tests.support.tolerances import assert_close

pytest.importorskip("triton")
pytestmark = pytest.mark.gpu
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(scope="module")
def kernel() -> Any:
    return importlib.import_module("aot.compression.aot.sinkhorn_kernel")


def problems(dtype: torch.dtype, counts: tuple[int, ...], columns: int) -> tuple[torch.Tensor, ...]:
    """Random costs with `counts` used rows each; every second problem leaves its last columns unused."""
    generator = torch.Generator().manual_seed(sum(counts) + columns)
    rows = max(*counts, 1)
    cost = 2.5 * torch.rand(len(counts), rows, columns, generator=generator, dtype=dtype)
    row_weights, column_weights = cost.new_zeros(len(counts), rows), cost.new_zeros(len(counts), columns)
    for problem, count in enumerate(counts):
        used = max(1, columns - 3 * (problem % 2))
        row_weights[problem, :count] = 1 / max(count, 1)
        column_weights[problem, :used] = 1 / used
    return cost.to(DEVICE), row_weights.to(DEVICE), column_weights.to(DEVICE)


def both(
    kernel: Any, monkeypatch: pytest.MonkeyPatch, tensors: tuple[torch.Tensor, ...], **settings: Any
) -> tuple[TransportPlan, TransportPlan]:
    expected = sinkhorn(*tensors, solver="torch", **settings)
    with monkeypatch.context() as patched:
        patched.setattr(torch_version, "_solve", kernel.solve)
        return expected, sinkhorn(*tensors, solver="torch", **settings)


@pytest.mark.parametrize("limit", [1, 2, 9, 10, 11, 60])
@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("stopping", ["published", "marginal"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_twins(
    kernel: Any, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, stopping: str, joint: bool, limit: int
) -> None:
    tensors = problems(dtype, (70, 33, 0, 1), 9)
    expected, found = both(
        kernel, monkeypatch, tensors, stopping=stopping, joint=joint, max_iterations=limit, tolerance=2e-3
    )
    assert found.iterations.tolist() == expected.iterations.tolist()
    assert found.converged.tolist() == expected.converged.tolist()
    assert found.iterations.dtype == expected.iterations.dtype
    name = str(dtype).removeprefix("torch.")
    assert_close(found.plan, expected.plan, name)
    assert_close(found.marginal_error, expected.marginal_error, name)


@pytest.mark.parametrize("shape", [((1,), 1), ((603, 603), 126), ((3, 2, 5), 1), ((2,), 700)], ids=str)
def test_any_shape(kernel: Any, monkeypatch: pytest.MonkeyPatch, shape: tuple[tuple[int, ...], int]) -> None:
    tensors = problems(torch.float32, *shape)
    expected, found = both(kernel, monkeypatch, tensors, joint=True)
    assert found.iterations.tolist() == expected.iterations.tolist()
    assert_close(found.plan, expected.plan, "float32")


@pytest.mark.filterwarnings("ignore:overflow")
def test_a_row_far_from_all_columns_keeps_its_mass(kernel: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cost, row_weights, column_weights = problems(torch.float32, (12,), 5)
    cost[0, 4] += 40.0  # exp(-400) is zero in float32
    expected, found = both(kernel, monkeypatch, (cost, row_weights, column_weights), stopping="marginal")
    assert found.plan[0, 4].sum() > 0.01
    assert_close(found.plan, expected.plan, "float32")


def test_any_layout(kernel: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cost, row_weights, column_weights = problems(torch.float32, (7, 7), 7)
    expected, found = both(kernel, monkeypatch, (cost.mT, row_weights, column_weights))
    assert_close(found.plan, expected.plan, "float32")


def test_what_is_not_a_number_does_not_converge(kernel: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cost, row_weights, column_weights = problems(torch.float32, (5, 5), 5)
    cost[0, 1, 1] = torch.nan
    expected, found = both(kernel, monkeypatch, (cost, row_weights, column_weights))
    assert found.converged.tolist() == expected.converged.tolist() == [False, True]


@pytest.mark.parametrize("joint", [False, True])
def test_the_host_never_waits_in_the_solver(kernel: Any, monkeypatch: pytest.MonkeyPatch, joint: bool) -> None:
    for name in ("scaling_kernel", "plan_kernel"):  # the interpreter reads back what a device would not
        monkeypatch.setattr(kernel, name, {(3,): _skip, (3, 1): _skip})
    with counted_syncs() as seen:
        kernel.solve(
            *problems(torch.float32, (8, 8, 8), 4),
            epsilon=0.1, max_iterations=100, tolerance=1e-2, marginal=False, joint=joint,
        )  # fmt: skip
    assert not seen


def _skip(*args: Any, **kwargs: Any) -> None:
    pass


@pytest.mark.skipif(sys.platform != "linux", reason="Triton compiles for CUDA on Linux")
def test_it_compiles_to_machine_code() -> None:
    """Both dtypes, both rules, both GPUs; needs no device."""
    names = (
        "cost",
        "row_weights",
        "column_weights",
        "counts",
        "kernel",
        "unshift",
        "r_history",
        "c_history",
        "criterion",
    )
    single, double = (
        dict.fromkeys(names, real) | {"stopped": "*i1", "iterations": "*i32"} for real in ("*fp32", "*fp64")
    )
    tile = {"tile_rows": 32, "tile_columns": 128}
    rule = {"epsilon": 0.1, "tolerance": 0.01, "smallest": 1e-38} | tile
    jobs: list[Job] = [
        ("scaling_kernel", single, rule | {"marginal": False, "joint": True}, AMPERE),
        ("scaling_kernel", single, rule | {"marginal": False, "joint": True}, HOPPER),
        ("scaling_kernel", double, rule | {"marginal": False, "joint": False}, HOPPER),
        ("scaling_kernel", double, rule | {"marginal": True, "joint": False}, HOPPER),
        ("plan_kernel", double, tile, HOPPER),
    ]
    assert min(cubin_bytes("aot.compression.aot.sinkhorn_kernel", jobs)) > 1000
