"""--attn, --quantize, --device-map and --compile through the real entry point."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

import aot.models.loading.load_options as module
from tests.support.cli_run import Aot

SHORT = ("--max-new-tokens", "6")

needs_bitsandbytes = pytest.mark.skipif(
    find_spec("bitsandbytes") is None or find_spec("accelerate") is None,
    reason="bitsandbytes and accelerate are not installed",
)


@pytest.mark.parametrize("command", ["ask", "compress", "inspect", "compare"])
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--attn", "flash", "--device", "cpu"), "--attn flash needs a CUDA device, and this one is cpu; leave"),
        (("--attn", "fast"), "--attn must be sdpa or flash"),
        (("--quantize", "4bit"), 'needs bitsandbytes and accelerate, which are not installed; pip install "aot[quan'),
        (("--quantize", "2bit"), "--quantize must be none or 4bit or 8bit"),
        (("--device-map", "auto"), "needs accelerate, which is not installed; pip install accelerate"),
        (("--device-map", "auto", "--device", "cpu"), "--device-map auto chooses the devices itself; leave out"),
    ],
)
def test_what_cannot_be(
    run_aot: Aot,
    small: tuple[str, ...],
    clip_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    options: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    rest = {"ask": ("what?",), "compare": ("what?",), "compress": ("-o", "t.pt")}.get(command, ())
    run = run_aot(command, clip_file, *rest, *small, *options)
    assert run.code == 2
    assert said in run.err
    assert run.out == ""
    assert not Path("t.pt").exists()


def test_flags_are_variables_and_settings_too(
    run_aot: Aot, small: tuple[str, ...], clip_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ATTN", "QUANTIZE", "DEVICE_MAP"):
        assert f"--{name.lower().replace('_', '-')}" in run_aot("ask", "--help").out
    monkeypatch.setenv("AOT_ATTN", "flash")
    assert "--attn flash needs" in run_aot("ask", clip_file, "what?", *small, "--device", "cpu").err
    found = run_aot("ask", clip_file, "what?", *small, *SHORT, "--attn", "sdpa", "--json").json["config"]["model"]
    assert (found["attention"], found["quantize"], found["device_map"]) == ("sdpa", "none", "none")


@needs_bitsandbytes
@pytest.mark.parametrize("options", [("--quantize", "4bit"), ("--quantize", "8bit"), ("--device-map", "auto")])
def test_answers(
    run_aot: Aot, small: tuple[str, ...], clip_file: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    """And tokens of the one are tokens of the other: the vision tower is the same."""
    half = ("--ratio", "0.5")
    asked = run_aot("ask", clip_file, "what happens?", *small, *half, *SHORT, *options, "--json")
    assert asked.code == 0, asked.err
    assert asked.err == ""
    assert run_aot("compress", clip_file, "-o", "t.pt", *small, *half).code == 0
    from_file = run_aot("ask", "t.pt", "what happens?", *small[:2], *SHORT, *options, "--json").json
    assert from_file["answer"] == asked.json["answer"] != ""


def test_doctor_tells_what_is_there(run_aot: Aot) -> None:
    found = run_aot("doctor", "--json").json["for_large_models"]
    assert set(found) == {"flash_attn", "bitsandbytes", "accelerate"}
    for name, told in found.items():
        assert ("not installed" in told) == (find_spec(name) is None)
    shown = run_aot("doctor").out
    assert "for large models" in shown and "bitsandbytes" in shown


def test_without_a_compiler_the_answer_is_the_same(
    run_aot: Aot, small_folder: Path, clip_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **named: Any) -> Any:
        raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found\nmore")

    monkeypatch.setattr(torch, "compile", fail)
    words = ("ask", clip_file, "what?", "--model", small_folder, "--max-new-tokens", "6")
    plain, asked = run_aot(*words), run_aot(*words, "--compile")
    assert (asked.code, asked.out) == (0, plain.out)
    assert "note: the model runs without torch.compile, which does not work here: InvalidCxxCompiler" in asked.err
