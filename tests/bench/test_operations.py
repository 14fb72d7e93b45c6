"""What is counted of a stage: launches, waits and floating-point operations."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn import functional

from aot.bench.ceilings import bytes_per_token
from aot.bench.launches import assign_launches
from aot.bench.operations import StageWork, counted_operations

ROWS, WEIGHTS, HEADS = torch.randn(4, 8), torch.randn(16, 8), torch.randn(1, 2, 6, 16)
PRODUCT = 2 * 4 * 8 * 16
MODES = [torch.inference_mode, torch.no_grad, torch.enable_grad]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("work", "flops"),
    [
        (lambda: functional.linear(ROWS, WEIGHTS), PRODUCT),
        (lambda: functional.linear(ROWS, WEIGHTS, torch.zeros(16)), PRODUCT),
        (lambda: ROWS @ WEIGHTS.T, PRODUCT),
        (lambda: functional.scaled_dot_product_attention(HEADS, HEADS, HEADS), 2 * 2 * 6 * 6 * 32),
        (lambda: functional.scaled_dot_product_attention(HEADS, HEADS, HEADS, is_causal=True), 2 * 6 * 6 * 32),
        (lambda: functional.conv2d(torch.ones(1, 3, 8, 8), torch.ones(5, 3, 2, 2), stride=2), 2 * 5 * 16 * 12),
        (lambda: ROWS + 1, 0),
    ],
)
def test_flops(mode: Any, work: Callable[[], object], flops: int) -> None:
    with mode(), counted_operations() as works:
        work()
    assert works.now.flops == flops
    assert not works.now.waits


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "work",
    [
        lambda: ROWS.tolist(),
        lambda: ROWS[0, 0].item(),
        lambda: bool((ROWS > 0).all()),
        lambda: ROWS[ROWS > 0],
        lambda: torch.where(ROWS > 0),
        lambda: ROWS.unique(),
        lambda: ROWS.repeat_interleave(torch.tensor([1, 0, 2, 1]), 0),
        lambda: torch.zeros(3).__setitem__(-1, 2),
        lambda: torch.zeros(3, 2).__setitem__((1, 0), True),
        lambda: torch.zeros(3, 2).__setitem__(torch.tensor([1]), 2),
    ],
)
def test_what_needs_a_value_on_the_host_is_a_wait(mode: Any, work: Callable[[], object]) -> None:
    with mode(), counted_operations() as works:
        work()
    assert works.now.waits.total() == 1


@pytest.mark.parametrize(
    ("index", "value"), [(slice(0, 2), 2), (0, 2), ((slice(None), 1), 2), ((0, 1), torch.tensor(2.0))]
)
def test_numbers_that_fill_a_slice_are_no_wait(index: Any, value: Any) -> None:
    with counted_operations() as works:
        torch.zeros(3, 2)[index] = value
    assert not works.now.waits


def test_stages_share_nothing_and_may_begin_again() -> None:
    with counted_operations() as works:
        works.begin("one")
        ROWS.view(8, 4)  # no launch
        torch.empty(3)
        ROWS.add(1)
        works.begin("two")
        ROWS.tolist()
        works.begin("one")
        ROWS.mul(2)
    assert {name: (work.launches, work.waits.total()) for name, work in works.stages.items()} == {
        "": (0, 0), "one": (2, 0), "two": (0, 1),
    }  # fmt: skip


def event(name: str, start: float, end: float, device: str = "CPU") -> Any:
    return SimpleNamespace(
        name=name, time_range=SimpleNamespace(start=start, end=end), device_type=SimpleNamespace(name=device)
    )


def test_launches_belong_to_the_stage_in_which_the_host_calls_them() -> None:
    events = [
        event("aot stage encode", 0, 10),
        event("aot stage prefill", 10.5, 20),
        event("aot stage encode", 9, 30, "CUDA"),  # the device runs later what the host launched
        event("cudaLaunchKernel", 1, 2),
        event("cudaLaunchKernelExC_v11060", 5, 6),
        event("cudaMemcpyAsync", 12, 13),
        event("cudaGraphLaunch", 14, 15),
        event("cudaDeviceSynchronize", 16, 17),
        event("aten::mm", 3, 4),
        event("cudaLaunchKernel", 25, 26),
    ]
    stages = {"encode": StageWork(), "prefill": StageWork()}
    assign_launches(events, stages)
    assert {name: work.launches for name, work in stages.items()} == {"encode": 2, "prefill": 2}


def test_a_profile_has_the_ranges_that_stages_are_read_from() -> None:
    """On the CPU, with an operation in place of a launch."""
    with torch.profiler.profile() as profile, torch.profiler.record_function("aot stage encode"):
        ROWS.mul(2)
    names = {each.name: each for each in profile.events()}
    within, work = names["aot stage encode"].time_range, names["aten::mul"].time_range
    assert within.start <= work.start <= within.end
    assert names["aot stage encode"].device_type.name == "CPU"


def test_a_token_reads_all_weights_but_the_table_of_embeddings(small_model: Any) -> None:
    network = small_model.network
    whole = sum(weights.nbytes for weights in small_model.language.parameters())
    head, table = (module.weight for module in (network.lm_head, network.get_input_embeddings()))
    assert bytes_per_token(small_model) == whole - table.nbytes + head.nbytes
