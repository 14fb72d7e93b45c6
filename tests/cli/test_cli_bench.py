from __future__ import annotations

from pathlib import Path

import pytest

from aot.bench import Figure
from aot_cli.commands.bench import _busy
from tests.support.cli_run import Aot


def test_the_bundled_model_is_timed_end_to_end(run_aot: Aot) -> None:
    run = run_aot("bench", "video", "--synthetic", "shapes", "--rounds", "1", "--ratio", "0.2", "--json")
    assert run.code == 0, run.err
    stock, plain, kept = run.json["arms"]
    assert (stock["name"], plain["name"], kept["name"]) == ("stock", "none", "aot")
    assert kept["kept_tokens"] == round(0.2 * run.json["visual_tokens"])
    assert run.json["environment"]["threads"] >= 1
    assert run.json["config"]["ratio"] == 0.2


def test_the_model_of_the_variable_gives_way_to_the_synthetic_one(
    run_aot: Aot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AOT_MODEL", "/nowhere")
    line = ("bench", "video", "--synthetic", "shapes", "--rounds", "1", "--max-new-tokens", "2", "--json")
    run = run_aot(*line)
    assert run.code == 0, run.err
    assert run.json["config"]["model"]["name"] != "/nowhere"
    named = run_aot(*line, "--model", "shapes")
    assert (named.code, "name two models" in named.err) == (2, True)


def test_a_clip_and_a_model_of_ones_own(
    run_aot: Aot, clip_file: Path, small_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table fits 80 columns; the page loads nothing, is not replaced, and has the command."""
    monkeypatch.setenv("COLUMNS", "80")
    page = tmp_path / "times.html"
    line = ("bench", "video", clip_file, "--model", small_folder, "--rounds", "1", "--frames", "4", "--html", page)
    run = run_aot(*line)
    assert run.code == 0, run.err
    for title in ("encode ms", "compress ms", "prefill ms", "first token ms", "vs transformers", "encode TFLOP/s"):
        assert title in run.out
    table = run.out[: run.out.index("decoding the file")]
    assert "torch" in run.out and max(map(len, table.splitlines())) <= 80
    text = page.read_text(encoding="utf-8")
    assert "From decoded frames to the first token" in text and "<rect" in text
    assert f"--model {small_folder}" in text and "--frames 4" in text
    assert "http" not in text.replace("http-equiv", "")
    again = run_aot(*line)
    assert again.code != 0 and "exists" in again.err
    assert page.read_text(encoding="utf-8") == text


def test_the_page_must_be_a_page(run_aot: Aot) -> None:
    run = run_aot("bench", "video", "--synthetic", "shapes", "--html", "times.txt")
    assert (run.code, "must end in .html" in run.err) == (2, True)


def test_the_compressor_alone(run_aot: Aot) -> None:
    sizes = ("--frames", "4", "--grid", "9", "--width", "16", "--anchors", "14", "--rounds", "1")
    run = run_aot("bench", "compressor", *sizes)
    assert run.code == 0, run.err
    assert "phase II ms" in run.out and "copy GB/s" in run.out
    found = run_aot("bench", "compressor", *sizes, "--json").json
    assert found["size"]["width"] == 16
    assert found["figures"]["total_ms"]["median"] > 0


def test_an_unknown_size_is_told_with_those_there_are(run_aot: Aot) -> None:
    run = run_aot("bench", "video", "--synthetic", "gpt-5")
    assert run.code == 2
    assert "shapes, onevision-0.5b, onevision-7b" in run.err


def test_a_ratio_that_is_none_is_refused(run_aot: Aot) -> None:
    run = run_aot("bench", "compressor", "--ratio", "3")
    assert run.code == 2
    assert "ratio" in run.err


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (("compressor", "--dtype", "float64"), "must be auto or float32 or bfloat16 or float16, got 'float64'"),
        (("compressor", "--grid", "4", "--anchors", "17"), "--anchors 17 is more than the 16 patches"),
        (("video", "--synthetic", "shapes", "--model", "shapes"), "name two models"),
        (("video", "--synthetic", "shapes", "--set", "model.name=shapes"), "name two models"),
        (("video", "--synthetic", "shapes", "--method", "none"), "keep all tokens"),
    ],
)
def test_lines_that_mean_nothing_are_refused(run_aot: Aot, line: tuple[str, ...], said: str) -> None:
    done = run_aot("bench", *line)
    assert done.code == 2
    assert said in done.err


def test_more_memory_than_there_is(run_aot: Aot) -> None:
    done = run_aot("bench", "compressor", "--frames", "2000000000", "--width", "3584")
    assert done.code == 5
    assert "out of memory" in done.err


def test_a_busy_machine_is_told() -> None:
    assert not _busy(Figure(median=2.0, least=1.0, most=2.0))
    (notice,) = _busy(Figure(median=2.0, least=1.0, most=2.1))
    assert "repeat without other load" in notice
