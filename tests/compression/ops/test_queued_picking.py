"""Picking and clustering in Triton give what torch gives. Without a CUDA device the interpreter runs them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional

from aot.compression.methods import simplecluster, unified_stc
from aot.compression.ops import facility_location, farthest, kmeans
from tests.support.compile_kernels import AMPERE, HOPPER, Job, cubin_bytes

pytest.importorskip("triton")
pytestmark = pytest.mark.gpu
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# Triton's interpreter multiplies no bfloat16.
HALF = torch.bfloat16 if torch.cuda.is_available() else torch.float16
MODULES = (facility_location, farthest, kmeans, simplecluster)


def torch_and_triton(monkeypatch: pytest.MonkeyPatch, run: Callable[[], Any]) -> tuple[Any, Any]:
    """What `run` returns with the torch version, and with the kernels."""
    results = []
    for runs in (False, True):
        with monkeypatch.context() as patched:
            for module in MODULES:
                patched.setattr(module, "runs_triton", lambda device, runs=runs: runs)
            results.append(run())
    return results[0], results[1]


def points(seed: int, count: int, width: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(count, width, generator=generator) + 0.4).to(DEVICE, dtype)


@pytest.mark.parametrize(("batch", "items", "steps"), [(3, 40, 40), (1, 300, 17), (2, 1, 1)])
def test_picks(monkeypatch: pytest.MonkeyPatch, batch: int, items: int, steps: int) -> None:
    """Whole numbers, so that most picks are ties."""
    generator = torch.Generator().manual_seed(items)
    gains = torch.randint(0, 5, (batch, items), generator=generator).float().to(DEVICE)
    table = torch.randint(0, 5, (batch, items, items), generator=generator).float().to(DEVICE)
    table.diagonal(dim1=1, dim2=2).fill_(-1)
    expected, found = torch_and_triton(monkeypatch, lambda: farthest.pick_farthest(gains, table, steps))
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(("batch", "items", "steps"), [(2, 300, 300), (1, 33, 20), (1, 1, 1)])
def test_representatives(monkeypatch: pytest.MonkeyPatch, batch: int, items: int, steps: int) -> None:
    """Few directions, so that most gains are equal, and all are 0 in the end."""
    generator = torch.Generator().manual_seed(items)
    values = torch.randint(-1, 2, (batch, items, 4), generator=generator).float().to(DEVICE)
    table = facility_location.similarity_table(values)
    expected, found = torch_and_triton(monkeypatch, lambda: facility_location.pick_representatives(table, steps))
    assert torch.equal(found, expected)
    assert all(len(picks.unique()) == steps for picks in found)


def test_nonsense_is_no_reason_to_read_what_nobody_wrote(monkeypatch: pytest.MonkeyPatch) -> None:
    gains = torch.full((1, 33), torch.nan, device=DEVICE)
    _, found = torch_and_triton(
        monkeypatch, lambda: farthest.pick_farthest(gains, gains[:, None].expand(1, 33, 33).contiguous(), 3)
    )
    assert ((found[1] >= 0) & (found[1] < 33)).all()


def test_the_cpu_stops_when_later_gains_cannot_count() -> None:
    generator = torch.Generator().manual_seed(0)
    gains, table = torch.rand(2, 60, generator=generator) + 1, torch.rand(2, 60, 60, generator=generator)
    table.diagonal(dim1=1, dim2=2).fill_(-1)
    all_gains, _ = farthest.pick_farthest(gains, table, 60)
    some_gains, _ = farthest.pick_farthest(gains, table, 60, enough=9)
    assert some_gains.shape[1] < 60
    assert torch.equal(some_gains.flatten().topk(9).values, all_gains.flatten().topk(9).values)


@pytest.mark.parametrize("dtype", [torch.float32, HALF])
@pytest.mark.parametrize(
    ("count", "clusters", "width", "iterations"), [(150, 20, 5, 9), (40, 31, 3, 2), (9, 9, 40, 50)]
)
def test_kmeans(
    monkeypatch: pytest.MonkeyPatch, count: int, clusters: int, width: int, iterations: int, dtype: torch.dtype
) -> None:
    """Few channels, so that clusters run empty; and 50 rounds, of which all but a few change nothing."""
    x = points(count, count, width, dtype)
    expected, found = torch_and_triton(
        monkeypatch, lambda: kmeans.cosine_kmeans(x, clusters, iterations=iterations, seed=1)
    )
    assert torch.equal(found.labels, expected.labels)
    torch.testing.assert_close(found.similarity, expected.similarity, rtol=1e-5, atol=1e-5)
    assert int(found.iterations) == expected.iterations
    assert found.sizes.min() > 0


@pytest.mark.parametrize("tile", [32, 64, 8192])
def test_seeds(monkeypatch: pytest.MonkeyPatch, tile: int) -> None:
    """Draws find their point within a tile and across tiles."""
    queued = pytest.importorskip("aot.compression.ops.kmeans_queued")
    monkeypatch.setattr(queued, "_DRAWN", tile)
    unit = functional.normalize(points(0, 201, 6), dim=-1)
    draws = torch.rand(60, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    draws[:3] = torch.tensor([0.0, 1 - 2**-53, 0.5], dtype=torch.float64)
    found = queued.draw_queued(unit @ unit.mT, torch.ones(201, device=DEVICE), draws.to(DEVICE), 1e-6)
    assert torch.equal(found, kmeans.seed_points(unit, draws))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_means(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    x = points(2, 90, 300, dtype)
    labels = torch.arange(90, device=DEVICE) ** 2 % 7  # 3, 5 and 6 have no point
    expected, found = torch_and_triton(monkeypatch, lambda: kmeans.cluster_means(x, labels, 7))
    torch.testing.assert_close(found, expected)
    assert found.dtype == expected.dtype


@pytest.mark.parametrize(("count", "different"), [(60, 60), (60, 4), (12, 1)])
def test_kmeans_from_far_seeds(monkeypatch: pytest.MonkeyPatch, count: int, different: int) -> None:
    """Points that repeat leave clusters empty, one after the other."""
    x = points(3, different, 4)[torch.arange(count, device=DEVICE) % different]
    expected, found = torch_and_triton(
        monkeypatch, lambda: simplecluster.farthest_kmeans(x, 11, iterations=6, first_seed=5)
    )
    assert torch.equal(found.labels, expected.labels)
    torch.testing.assert_close(found.similarity, expected.similarity)
    assert int(found.iterations) == int(expected.iterations)


@pytest.mark.parametrize(("threshold", "most"), [(0.3, 40), (0.9, 20), (-0.9, 40), (0.9, 0)])
def test_admission(threshold: float, most: int) -> None:
    x = points(4, 120, 3)
    ranked = torch.randperm(120, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    found = unified_stc._Pairs.of(x).admitted(ranked, threshold, most)
    expected = ranked[unified_stc.admit_dissimilar(x[ranked], threshold, most)]
    assert found.nonzero().flatten().tolist() == expected.sort().values.tolist()


HALVES, SINGLES, DOUBLES, INTS, LONGS = "*bf16", "*fp32", "*fp64", "*i32", "*i64"
ROUNDS = {
    "values": HALVES, "lengths": SINGLES, "halves": HALVES, "squares": SINGLES, "shifts": SINGLES, "going": INTS,
    "labels": LONGS, "similarity": SINGLES, "members": INTS, "sizes": INTS, "centers": SINGLES, "passed": INTS,
    "products": SINGLES, "draws": DOUBLES, "distance": SINGLES, "seeds": LONGS, "tolerance": "fp32",
}  # fmt: skip
IN_DOUBLE = ROUNDS | dict.fromkeys(("values", "lengths", "centers", "halves", "squares", "shifts"), DOUBLES)
IN_SINGLE = ROUNDS | dict.fromkeys(("values", "halves"), SINGLES)
ASSIGN = {"parts": 14}
MEANS = {"rows": 16, "tile": 256}
STEP = {
    "table": INTS, "numbers": LONGS, "next_numbers": LONGS, "highest": LONGS, "next_highest": LONGS, "best": INTS,
    "next_best": INTS, "picks": LONGS,
}  # fmt: skip
BUILT: dict[str, list[tuple[str, dict[str, str], dict[str, Any]]]] = {
    "facility_kernel": [
        ("step_kernel", STEP, {"index_bits": 20, "block": block, "columns": 32, "rows": 256}) for block in (64, 1024)
    ],
    "farthest_kernel": [
        ("pick_kernel", {"gains": SINGLES, "table": SINGLES, "best": SINGLES, "picks": LONGS}, {"block": block})
        for block in (256, 8192)
    ],
    "kmeans_kernels": [
        ("draw_kernel", ROUNDS, {"floor": 1e-6, "tile": 8192, "tiles": 4}),
        ("assign_kernel", ROUNDS, {**ASSIGN, "split": True, "tile_rows": 128, "tile_columns": 128, "tile_width": 64}),
        ("assign_kernel", IN_SINGLE, {**ASSIGN, "split": False, "tile_rows": 64, "tile_columns": 64, "tile_width": 32}),
        ("members_kernel", ROUNDS, {"tile": 1024}),
        ("means_kernel", ROUNDS, {"is_round": True, "split": True, **MEANS}),
        ("means_kernel", IN_DOUBLE, {"is_round": False, "split": False, **MEANS}),
        ("verdict_kernel", ROUNDS, {"tile": 4096}),
        ("fill_kernel", ROUNDS | {"sizes": LONGS}, {"block": 8192, "cluster_block": 1024}),
    ],
}  # fmt: skip


@pytest.mark.skipif(sys.platform != "linux", reason="Triton compiles for CUDA on Linux")
@pytest.mark.parametrize("module", BUILT)
def test_kernels_build(module: str) -> None:
    jobs: list[Job] = [(*kernel, capability) for kernel in BUILT[module] for capability in (AMPERE, HOPPER)]
    assert min(cubin_bytes(f"aot.compression.ops.{module}", jobs)) > 1000
