"""Settings on the command line: where values come from, how they are written, and what is said of wrong ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from aot.config.schema import build_config
from tests.support.cli_run import Aot


def refused(run_aot: Aot, clip_file: Path, *arguments: str) -> str:
    run = run_aot("inspect", clip_file, *arguments)
    assert run.code == 2, run.err
    assert not run.out
    (line,) = run.err.splitlines()
    return line.removeprefix("aot: ")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--ratio", "5"), "--ratio must be in (0, 1], got 5"),
        (("-r", "ten"), "--ratio must be a number such as 0.1 or 10%, got 'ten'"),
        (("--start", "1:75"), "--start must be a time such as 90, 90s, 1m30s or 1:02:03.5 or null, got '1:75'"),
        (("--frames", "abc"), "--frames must be a whole number, got 'abc'"),
        (("--frames", "8", "--fps", "2"), "--frames and --fps exclude each other; give one"),
        (("--set", "ratio=5"), "--set: ratio must be in (0, 1], got 5"),
        (("--set", "sampling.frams=5"), "--set: unknown setting sampling.frams (did you mean frames? "),
        (("--set", "nonsense"), "--set: nonsense is not PATH=VALUE"),
        (("--set", "ratio=2024-13-01"), "--set: the value in ratio=2024-13-01 is not valid YAML"),
        (("--preset", "shape"), "--preset 'shape' does not exist; did you mean shapes?"),
    ],
)
def test_what_was_typed_is_named(run_aot: Aot, clip_file: Path, arguments: tuple[str, ...], says: str) -> None:
    assert refused(run_aot, clip_file, *arguments).startswith(says)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("AOT_FRAMES", "abc", "AOT_FRAMES must be a whole number, got 'abc'"),
        ("AOT_RATIO", "5", "AOT_RATIO must be in (0, 1], got 5"),
        ("AOT_START", "soon", "AOT_START must be a time"),
        ("AOT_OFFLINE", "maybe", "AOT_OFFLINE must be true or false, got 'maybe'"),
        ("AOT_PRESET", "nope", "AOT_PRESET 'nope' does not exist"),
    ],
)
def test_variables_are_named(
    run_aot: Aot, clip_file: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str
) -> None:
    monkeypatch.setenv(name, value)
    assert refused(run_aot, clip_file).startswith(says)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ratio: 5", "aot.yaml: ratio must be in (0, 1], got 5"),
        ("sampling: {frams: 3}", "aot.yaml: unknown setting sampling.frams (did you mean frames? "),
        ("preset: nope", "aot.yaml: preset 'nope' does not exist"),
        ("sampling: {frames: 3, fps: 2}", "aot.yaml: sampling.frames and sampling.fps exclude each other"),
        ("generation: {seed: -1}", "aot.yaml: generation.seed must be in"),
    ],
)
def test_the_file_is_named(run_aot: Aot, clip_file: Path, text: str, says: str) -> None:
    Path("aot.yaml").write_text(text)
    assert refused(run_aot, clip_file).startswith(says)


def test_every_problem_at_once_each_with_its_source(
    run_aot: Aot, clip_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("aot.yaml").write_text("ratio: 5")
    monkeypatch.setenv("AOT_END", "-3")
    said = refused(run_aot, clip_file, "--frames", "0", "--set", "aot.inter.tau=2")
    for part in ("aot.yaml: ratio", "AOT_END must be after", "--frames must be", "--set: aot.inter.tau must be"):
        assert part in said


def test_a_setting_of_a_method_is_checked_late_and_still_has_its_source(
    run_aot: Aot, clip_file: Path, small: tuple[str, ...]
) -> None:
    Path("aot.yaml").write_text("methods: {random: {seed: -1}}")
    run = run_aot("compress", clip_file, "-o", "t.pt", *small, "--method", "random", "--set", "methods.random.sead=2")
    assert run.code == 2
    assert "aot.yaml: methods.random.seed must be in" in run.err
    assert "--set: unknown setting methods.random.sead (did you mean seed?" in run.err


@pytest.mark.parametrize(
    ("variant", "says"),
    [
        ("lone:aot.inter.tau=2", "variant lone: aot.inter.tau must be in [0, 1], got 2"),
        ("lone:aot.inter.tua=2", "variant lone: unknown setting aot.inter.tua (did you mean tau?"),
        ("lone:aot", "--variant lone: aot is not PATH=VALUE"),
    ],
)
def test_a_variant_is_named(run_aot: Aot, variant: str, says: str) -> None:
    run = run_aot("eval", "--shapes", "1", "-o", "results", "--model", "shapes", "--variant", variant)
    assert run.code == 2
    assert run.err.startswith(f"aot: {says}")


def test_what_a_list_gives_is_not_blamed_on_the_file(run_aot: Aot) -> None:
    Path("aot.yaml").write_text("ratio: 0.2\nmethod: random\n")
    for flag, value in (("--ratios", "5"), ("--ratios", "0.1,ten"), ("--methods", "magic")):
        run = run_aot("eval", "--shapes", "1", "-o", "results", "--model", "shapes", flag, value)
        assert run.code == 2
        assert "aot.yaml" not in run.err
        assert value in run.err


# --- How values are written


def test_times_and_percentages(run_aot: Aot, clip_file: Path) -> None:
    Path("aot.yaml").write_text("ratio: 50%\nsampling: {end_s: 0:02.5}\n")
    found = run_aot("inspect", clip_file, "--start", "0m1s", "--json").json
    assert (found["timestamps_s"][0], found["timestamps_s"][-1]) == (1.0, 2.5)
    assert found["prediction"]["tokens_after"] == round(0.5 * found["prediction"]["tokens_before"])


def test_percentages_in_lists(run_aot: Aot, clip_file: Path) -> None:
    words = ("compare", clip_file, "hi", "--model", "shapes", "--methods", "random", "--json")
    run = run_aot(*words, "--ratio", "50%,0.25")
    assert [row["ratio"] for row in run.json["methods"]] == [0.5, 0.25]


def test_flags_undo_what_variables_say(run_aot: Aot, clip_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AOT_FPS", "1")
    assert len(run_aot("inspect", clip_file, "--json").json["timestamps_s"]) == 3
    assert len(run_aot("inspect", clip_file, "--json", "--frames", "6").json["timestamps_s"]) == 6
    monkeypatch.setenv("AOT_FPS", "")
    assert len(run_aot("inspect", clip_file, "--json").json["timestamps_s"]) == 24


# --- Variables that mean nothing


def test_misspelt_variables(run_aot: Aot, clip_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AOT_RATIOS", "0.5")
    monkeypatch.setenv("AOT_XYZZY", "1")
    monkeypatch.setenv("AOT_INDUCTOR_DEBUG_COMPILE", "1")  # PyTorch's
    monkeypatch.setenv("AOT_SEED", "1")  # of other commands
    monkeypatch.setenv("AOT_DEBUG", "0")
    run = run_aot("inspect", clip_file, "--frames", "4")
    assert run.code == 0
    assert run.err.splitlines() == [
        "aot: note: the variable AOT_RATIOS is unknown to aot; did you mean AOT_RATIO?",
        "aot: note: the variable AOT_XYZZY is unknown to aot",
    ]


def test_the_command_line_takes_what_python_takes(run_aot: Aot, clip_file: Path) -> None:
    found = run_aot("compress", clip_file, "--model", "shapes", "--json").json
    assert found["config"] == build_config({"model": {"name": "shapes"}}).to_dict()
