"""The self-test passes here, and fails where something is broken: each check is shown a fault that it must find."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import pytest
import torch

from aot.plugins import METHODS
from aot.selftest import CheckResult, answers, decoders, kept_tokens, kernels, run_selftest
from aot.selftest.check import Check, CheckSkipped, run
from aot.types import VideoFrames

Checks = Callable[[], Iterator[Check]]


def results(checks: Checks, name: str = "") -> list[CheckResult]:
    return [run(check) for check in checks() if name in check.name]


def test_everything_passes_here() -> None:
    found = list(run_selftest())
    assert [result for result in found if result.outcome == "failed"] == []
    passed = {result.name for result in found if result.outcome == "passed"}
    assert {"decode with pyav", "answer on cpu in float32", "answer on cpu in bfloat16", "kept tokens on cpu"} <= passed


def test_the_record_has_every_method() -> None:
    assert set(kept_tokens.recorded_cells()) == set(METHODS) - {"none"}


@pytest.mark.parametrize(
    "fault",
    [
        lambda frames: replace(frames, pixels=frames.pixels.flip(1)),  # BGR for RGB
        lambda frames: replace(frames, pixels=frames.pixels.roll(1, 0)),  # each frame one too late
        lambda frames: replace(frames, pixels=frames.pixels[:-1], timestamps_s=frames.timestamps_s[:-1]),
        lambda frames: replace(frames, notices=("damaged",)),
    ],
    ids=["colors", "order", "missing", "notice"],
)
def test_wrong_pictures_are_found(fault: Callable[[VideoFrames], VideoFrames], monkeypatch: pytest.MonkeyPatch) -> None:
    from aot import video

    decode = video.decode
    monkeypatch.setattr(video, "decode", lambda *args, **kwargs: fault(decode(*args, **kwargs)))
    (result,) = results(decoders.checks, "pyav")
    assert result.outcome == "failed"


def test_a_missing_decoder_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "decord", None)
    (result,) = results(decoders.checks, "decord")
    assert result.outcome == "skipped"


def test_a_wrong_answer_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "answered", lambda *args: "the red circle flashes.")
    (result,) = results(answers.checks, "float32")
    assert result.outcome == "failed"
    assert "the red circle flashes" in result.detail


def test_other_tokens_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    shifted = {name: [cell + 1 for cell in cells] for name, cells in kept_tokens.recorded_cells().items()}
    monkeypatch.setattr(
        kept_tokens, "kept_cells", lambda device: kept_tokens.recorded_cells() | {"aot": shifted["aot"]}
    )
    (result,) = results(kept_tokens.checks)
    assert result.outcome == "failed"
    assert "aot" in result.detail
    assert "standout" not in result.detail


def test_kernels_without_cuda_are_skipped_with_the_reason() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device, whose kernels the self-test compares")
    (result,) = results(kernels.checks)
    assert result.outcome == "skipped"
    assert "no CUDA device" in result.detail


@pytest.mark.parametrize("fault", [1.001, torch.nan])
def test_kernels_that_differ_are_found(fault: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU the torch versions take the kernels' part, first right and then wrong."""
    monkeypatch.setattr(kernels, "runs_triton", lambda device: True)
    cpu, right = torch.device("cpu"), kernels.received_attention
    for check in (partial(kernels.transport, cpu), partial(kernels.saliency, cpu, torch.float32)):
        assert run(Check("twins", check)).outcome == "passed"
    wrong = iter((fault, 1.0))
    monkeypatch.setattr(kernels, "received_attention", lambda *args: right(*args) * next(wrong))
    assert run(Check("twins", partial(kernels.saliency, cpu, torch.float32))).outcome == "failed"


def test_a_broken_part_is_one_failed_check() -> None:
    def broken() -> str:
        raise OSError("libcuda.so:\ncannot open")

    assert run(Check("x", broken)).detail == "OSError: libcuda.so: cannot open"
    assert run(Check("x", broken)).outcome == "failed"

    def impossible() -> str:
        raise CheckSkipped("not here")

    assert run(Check("x", impossible)).outcome == "skipped"
