"""`aot compress`: the file, the report, and nothing when it is interrupted."""

from __future__ import annotations

import csv
import json
import signal
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from aot.compression.in_llm.holitom import HoliTomInner
from aot.compression.methods.fastvid import FastVid
from tests.support.cli_run import Aot


def test_pt_file_is_plain_tensors_and_values(run_aot: Aot, small: tuple[str, ...], clip_file: Path) -> None:
    run = run_aot("compress", clip_file, "-o", "tokens.pt", "--ratio", "0.1", *small)
    assert run.code == 0
    assert run.out == "tokens.pt\n"
    found = torch.load("tokens.pt", weights_only=True)
    report = found["report"]
    kept = round(0.1 * report["visual_tokens"])
    assert report["kept_tokens"] == report["budget_tokens"] == kept
    for name in ("features", "frame", "row", "col", "role", "mass"):
        assert len(found[name]) == kept
    assert len(found["timestamps_s"]) == 8
    assert report["model"]["fingerprint"]
    assert report["config"]["aot"]["intra"]["nearest_blend"] == 0.1
    assert report["versions"]["transformers"]
    assert f"kept {kept} of" in run.err


def test_safetensors_holds_the_same(run_aot: Aot, small: tuple[str, ...], clip_file: Path) -> None:
    for name in ("t.pt", "t.safetensors"):
        run_aot("compress", clip_file, "-o", name, *small)
    pt, safe = torch.load("t.pt", weights_only=True), load_file("t.safetensors")
    for name, tensor in safe.items():
        assert torch.equal(tensor, pt[name])


def test_reports(run_aot: Aot, small: tuple[str, ...], clip_file: Path) -> None:
    run = run_aot("compress", clip_file, "-o", "a.pt", "--report", "a.json", *small)
    report = json.loads(Path("a.json").read_text())
    run_aot("compress", clip_file, "-o", "b.pt", "--report", "b.csv", *small)
    with Path("b.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["kept"]) for row in rows] == [frame["kept"] for frame in report["frames"]]
    assert sum(frame["kept"] for frame in report["frames"]) == report["kept_tokens"]
    assert "retention" in run.err


def test_reports_state_all_settings_of_what_was_used(run_aot: Aot, small: tuple[str, ...], clip_file: Path) -> None:
    """The command that repeats the run names only those that were given."""
    chosen = ("--method", "fastvid", "--inner", "holitom", "--set", "inner.settings.holitom.keep=0.6")
    run_aot("compress", clip_file, "--report", "r.json", "--html", "page.html", *chosen, *small)
    config = json.loads(Path("r.json").read_text())["config"]
    assert set(config["methods"]["fastvid"]) == {each.name for each in fields(FastVid)}
    assert config["inner"]["settings"] == {"holitom": {**asdict(HoliTomInner()), "keep": 0.6}}
    (command,) = {line for line in Path("page.html").read_text().splitlines() if "aot compress" in line}
    assert "inner.settings.holitom.keep=0.6" in command
    assert "methods.fastvid" not in command
    assert "holitom.layer" not in command


def test_json_is_the_report(run_aot: Aot, small: tuple[str, ...], clip_file: Path) -> None:
    found = run_aot("compress", clip_file, "-o", "a.pt", "--json", *small).json
    assert found["tokens_file"] == "a.pt"
    assert found["kept_tokens"] == found["budget_tokens"]


@pytest.mark.parametrize("method", ["random", "uniform", "attention", "frames"])
def test_baselines_keep_exactly_the_budget(run_aot: Aot, small: tuple[str, ...], clip_file: Path, method: str) -> None:
    for name in ("a.pt", "b.pt"):
        arguments = ("-o", name, "--method", method, "--ratio", "0.13", "--json", *small)
        report = run_aot("compress", clip_file, *arguments).json
        assert report["kept_tokens"] == report["budget_tokens"] == 26
        assert sum(frame["own"] for frame in report["frames"]) == 26
    a, b = (torch.load(name, weights_only=True) for name in ("a.pt", "b.pt"))
    assert torch.equal(a["features"], b["features"])
    cell = a["frame"] * 25 + a["row"] * 5 + a["col"]
    assert (cell.diff() > 0).all()
    assert (a["mass"] == 1).all() and (a["role"] == 0).all()


def test_force_replaces(run_aot: Aot, small: tuple[str, ...], clip_file: Path) -> None:
    Path("t.pt").write_text("old")
    assert run_aot("compress", clip_file, "-o", "t.pt", "--force", *small).code == 0
    assert torch.load("t.pt", weights_only=True)["format"] == "aot-tokens"


@pytest.mark.parametrize("frames", [1, 2, 7])
def test_any_frame_count_meets_the_budget(run_aot: Aot, small: tuple[str, ...], clip_file: Path, frames: int) -> None:
    found = run_aot("compress", clip_file, "-o", "t.pt", "--json", "--force", *small, "--frames", str(frames)).json
    assert found["kept_tokens"] == round(0.1 * found["visual_tokens"])


def test_dynamic_clips_say_what_compared_the_frames(run_aot: Aot, small: tuple[str, ...], clip_file: Path) -> None:
    found = run_aot("compress", clip_file, "-o", "t.pt", "--json", "--clips", "dynamic", *small).json
    assert found["facts"]["frame_embeddings"] == "mean of the frame's features"
    assert found["kept_tokens"] == found["budget_tokens"]


@pytest.mark.parametrize("where", ["encode", "save"])
@pytest.mark.parametrize(
    ("number", "code", "said"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_interrupt_leaves_nothing(
    run_aot: Aot,
    small: tuple[str, ...],
    clip_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    number: signal.Signals,
    code: int,
    said: str,
) -> None:
    import aot.models.families.llava as family

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it

    def interrupted(*args: Any, **kwargs: Any) -> None:
        if where == "save":
            Path(args[1]).write_bytes(b"half")
        signal.raise_signal(number)

    if where == "save":
        monkeypatch.setattr(torch, "save", interrupted)
    else:
        monkeypatch.setattr(family.Llava, "encode", interrupted)
    run = run_aot("compress", clip_file, "-o", "t.pt", *small)
    signal.signal(signal.SIGINT, before)
    assert run.code == code
    assert run.err == f"aot: {said}\n"
    assert not list(Path().iterdir())


def test_a_name_by_itself(run_aot: Aot, small: tuple[str, ...], clip_file: Path) -> None:
    assert run_aot("compress", clip_file, *small).out == "clip.tokens.pt\n"
    assert {path.name for path in Path().iterdir()} == {"clip.tokens.pt"}
    before = Path("clip.tokens.pt").read_bytes()
    run = run_aot("compress", clip_file, *small)
    assert run.code == 1
    assert "clip.tokens.pt exists; name another file with -o, or pass --force" in run.err
    assert Path("clip.tokens.pt").read_bytes() == before
    assert run_aot("compress", clip_file, *small, "--force").code == 0
    assert run_aot("inspect", "clip.tokens.pt").code == 0
