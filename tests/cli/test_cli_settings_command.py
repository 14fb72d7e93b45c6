"""`aot settings`: what there is to set, and where values come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aot.config.schema import build_config
from aot.config.setting import settings_in
from tests.support.cli_run import Aot


def rows(run_aot: Aot, *words: str) -> dict[str, dict[str, Any]]:
    return {row["path"]: row for row in run_aot("settings", *words, "--json").json["settings"]}


def test_all_settings_or_those_of_a_group(run_aot: Aot) -> None:
    every = rows(run_aot)
    assert every["aot.clips.frames"] == {
        "path": "aot.clips.frames", "type": "a whole number", "rule": "at least 1", "default": 4, "default_text": "4",
        "meaning": "Frames per fixed clip.", "flag": "--clip-frames",
    }  # fmt: skip
    assert {"ratio", "methods.fastvid.own_weight", "methods.tempme.image_share", "inner.settings.fastv.layer"} <= set(
        every
    )
    for group in ("aot.intra", "methods.fastvid", "sampling", "ratio", "inner"):
        assert rows(run_aot, group) == {
            path: row for path, row in every.items() if path == group or path.startswith(f"{group}.")
        }
    shown = run_aot("settings", "methods.fastvid").out
    assert all(part in shown for part in ("methods.fastvid.own_weight", "0.6", "in [0, 1]", "Least weight"))


def test_every_source_is_named(run_aot: Aot, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("aot.yaml").write_text("preset: dynamic\nratio: 15%\nsampling: {fps: 2}\nmethods: {fastvid: {own_weight: 1}}")
    monkeypatch.setenv("AOT_TEMPERATURE", "0.5")
    words = ("--show", "-m", "shapes", "--max-frames", "9", "--set", "generation.seed=3", "--method", "fastvid")
    found = {path: (row["value"], row["source"]) for path, row in rows(run_aot, *words, "--inner", "fastv").items()}
    assert found["ratio"] == (0.15, "aot.yaml")
    assert found["sampling.fps"] == (2.0, "aot.yaml")
    assert found["sampling.frames"] == (8, "model shapes")
    assert found["sampling.max_frames"] == (9, "--max-frames")
    assert found["generation.temperature"] == (0.5, "AOT_TEMPERATURE")
    assert found["generation.seed"] == (3, "--set")
    assert found["aot.clips.mode"] == ("dynamic", "preset dynamic")
    assert found["methods.fastvid.own_weight"] == (1.0, "aot.yaml")
    assert found["methods.fastvid.neighbors"] == (4, "default")
    assert found["inner.settings.fastv.layer"] == (2, "default")
    assert found["model.dtype"] == ("auto", "default")
    assert not {"methods", "inner.settings", "methods.evs.paper_exact"} & set(found)


def test_values_are_those_that_a_command_uses(run_aot: Aot) -> None:
    found = rows(run_aot, "--show", "--frames", "7", "--set", "aot.inter.tau=0.25")
    config: Any = build_config({"sampling": {"frames": 7}, "aot": {"inter": {"tau": 0.25}}})
    for declared in settings_in(type(config)):
        value = config
        for name in declared.path.split("."):
            value = getattr(value, name)
        assert value == {} or found[declared.path]["value"] == value
    shown = run_aot("settings", "aot.inter", "--show", "--set", "aot.inter.tau=0.25").out
    assert "aot.inter.tau" in shown and "0.25" in shown and "--set" in shown and "sampling" not in shown


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("aot.intar",), "there is no setting 'aot.intar' here; did you mean aot.intra or aot.inter?"),
        (("nonsense",), "there is no setting 'nonsense' here; `aot settings` lists them"),
        (("--frames", "3"), "flags have no effect without --show; add it to see the resulting values"),
        (("--show", "--ratio", "5"), "--ratio must be in (0, 1], got 5"),
        (("--show", "--set", "methods.random.seed=-1"), "--set: methods.random.seed must be in [0, 2^31 - 1], got -1"),
        (
            ("--show", "--set", "methods.random.sead=1"),
            "--set: unknown setting methods.random.sead (did you mean seed?",
        ),
    ],
)
def test_mistakes(run_aot: Aot, words: tuple[str, ...], told: str) -> None:
    run = run_aot("settings", *words)
    assert (run.code, run.out) == (2, "")
    assert run.err.startswith(f"aot: {told}")
