"""`--html` on every command that has it, through the real entry point."""

from __future__ import annotations

import html
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from aot.storage.tokens_file import load_tokens
from tests.support.cli_run import Aot


def data_of(page: Path) -> Any:
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page.read_text("utf-8"))
    return json.loads(data)


def commands_of(page: Path) -> list[list[str]]:
    """The words of the commands that do it again, without `aot`."""
    found = re.findall(r'<pre id="command-\d+"[^>]*>(.*?)</pre>', page.read_text("utf-8"), re.DOTALL)
    return [shlex.split(html.unescape(each))[1:] for each in found]


def test_the_reproduce_command_gives_the_same_tokens(
    run_aot: Aot, clip_file: Path, small: tuple[str, ...], tmp_path: Path
) -> None:
    first = tmp_path / "tokens.safetensors"
    page = tmp_path / "kept.html"
    flags = ("--ratio", "0.3", "--set", "aot.intra.nearest_blend=0", "--clip-frames", "3", "--start", "0.1")
    done = run_aot("compress", clip_file, "-o", first, *small, *flags, "--html", page)
    assert done.code == 0, done.err
    (command,) = commands_of(page)
    again = run_aot(*command)
    assert again.code == 0, again.err
    one, two = load_tokens(first), load_tokens(Path(again.out.strip()).resolve())
    assert one.report.config == two.report.config
    for name in ("features", "frame", "row", "col", "role", "mass"):
        assert getattr(one.tokens, name).equal(getattr(two.tokens, name))


@pytest.mark.parametrize("settings", ["ratio: 0.7\naot: {clips: {frames: 5}}\n", "sampling: {fps: 3}\n"])
def test_the_command_holds_with_and_without_the_folders_settings(
    run_aot: Aot, clip_file: Path, small_folder: Path, tmp_path: Path, settings: str
) -> None:
    here = Path("aot.yaml")
    here.write_text(settings)
    page = tmp_path / "kept.html"
    assert run_aot("inspect", clip_file, "--model", small_folder, "--html", page).code == 0
    (command,) = commands_of(page)
    configs = [run_aot(*command, "--json").json["config"]]
    here.unlink()
    configs.append(run_aot(*command, "--json").json["config"])
    assert configs[0] == configs[1]


def test_ask_shows_questions_and_answers(run_aot: Aot, clip_file: Path, small: tuple[str, ...], tmp_path: Path) -> None:
    page = tmp_path / "kept.html"
    done = run_aot(
        "ask",
        clip_file,
        "what <b>happens</b>?",
        "-q",
        "where?",
        *small,
        "--max-new-tokens",
        "3",
        "--html",
        page,
        "--json",
    )
    assert done.code == 0, done.err
    text = page.read_text("utf-8")
    assert "what &lt;b&gt;happens&lt;/b&gt;?" in text and "<b>happens" not in text
    answers = re.findall(r"<blockquote>(.*?)</blockquote>", text, re.DOTALL)
    assert [html.unescape(answer) for answer in answers] == [reply["answer"] for reply in done.json["answers"]]
    assert "where?" in commands_of(page)[0]


def test_compare_shows_every_method_that_answered(
    run_aot: Aot, clip_file: Path, small: tuple[str, ...], tmp_path: Path
) -> None:
    page = tmp_path / "kept.html"
    line = ("compare", clip_file, "what?", *small, "--max-new-tokens", "2", "--ratio", "0.4", "--html", page)
    done = run_aot(*line, "--methods", "none,aot,tome,uniform+fastv", "--json")
    assert done.code == 0, done.err
    data = data_of(page)
    assert [run["kept"] for run in data["runs"]] == [row["kept_tokens"] for row in done.json["methods"]]
    assert len(data["pictures"]) == len(data["times"]) == 8
    text = page.read_text("utf-8")
    assert "fastv drops more inside the language model, which is not shown" in text
    for row in done.json["methods"]:
        near = row["fidelity"]
        assert f'<td data-label="KL nats">{near["divergence"]:.4f}</td>' in text
        assert f'<td data-label="same token">{near["agreement"]:.1%}</td>' in text
    assert text.count('<td data-label="same answer">') == 4 and "KL compares" in text
    (command,) = commands_of(page)
    again = run_aot(*command, "--json")
    assert [row["answer"] for row in again.json["methods"]] == [row["answer"] for row in done.json["methods"]]


def test_two_frames_encoded_as_one_have_one_picture(
    run_aot: Aot, clip_file: Path, qwen25_folder: Path, tmp_path: Path
) -> None:
    page = tmp_path / "kept.html"
    done = run_aot("inspect", clip_file, "--model", qwen25_folder, "--frames", "6", "--ratio", "0.5", "--html", page)
    assert done.code == 0, done.err
    assert len(data_of(page)["pictures"]) == len(data_of(page)["times"]) == 3


def test_strange_names(run_aot: Aot, clip_file: Path, small: tuple[str, ...], tmp_path: Path) -> None:
    strange = tmp_path / "a <b>&\"'; rm -rf $HOME .mp4"
    shutil.copy(clip_file, strange)
    page = tmp_path / "kept.html"
    assert run_aot("inspect", strange, *small, "--html", page).code == 0
    assert "<b>&" not in page.read_text("utf-8")
    assert commands_of(page)[0][1] == str(strange)


def test_refusals_come_before_the_model(run_aot: Aot, clip_file: Path, small: tuple[str, ...], tmp_path: Path) -> None:
    page = tmp_path / "kept.html"
    page.write_text("mine")
    for words, code, told in (
        (("ask", clip_file, "what?", "--model", "/nowhere", "--html", page), 1, "--force"),
        (("ask", clip_file, "what?", "--model", "/nowhere", "--html", tmp_path / "kept.pdf"), 2, ".html"),
        (("inspect", clip_file, "--html", tmp_path / "other.html"), 2, "--model"),
        (("ask", "tokens.pt", "what?", "--html", tmp_path / "other.html"), 2, "tokens file"),
    ):
        done = run_aot(*words)
        assert (done.code, told in done.err) == (code, True), done.err
    assert page.read_text() == "mine"
    assert run_aot("inspect", clip_file, *small, "--html", page, "--force").code == 0
    assert page.read_text("utf-8").startswith("<!doctype html>")
    assert [each.name for each in tmp_path.glob("*.html")] == ["kept.html"]


def test_a_run_without_a_page_works_nothing_out(
    run_aot: Aot, clip_file: Path, small: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any) -> None:
        raise AssertionError("worked out though nobody asked")

    monkeypatch.setattr("aot.compression.aot.token_weights.AnchorComposition.sources", refuse)
    monkeypatch.setattr("aot.reports.frame_pictures.jpeg", refuse)
    assert run_aot("inspect", clip_file, *small).code == 0


def test_commands_for_files_that_look_like_flags_and_for_standard_input(
    run_aot: Aot, clip_file: Path, small: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(clip_file, "-dash.mp4")
    done = run_aot("inspect", *small, "--html", "dash.HTML", "--", "-dash.mp4")
    assert done.code == 0 and "the page is in dash.HTML" in done.err
    (command,) = commands_of(Path("dash.HTML"))
    assert run_aot(*command).code == 0
    with clip_file.open(encoding="latin-1") as stream:
        monkeypatch.setattr("sys.stdin", stream)
        assert run_aot("inspect", "-", *small, "--html", "piped.html").code == 0
    assert commands_of(Path("piped.html"))[0][-2:] == ["<", "VIDEO"]


def test_a_reduction_inside_is_part_of_the_name(run_aot: Aot, clip_file: Path, small: tuple[str, ...]) -> None:
    line = ("ask", clip_file, "what?", *small, "--max-new-tokens", "1", "--method", "uniform", "--inner", "fastv")
    assert run_aot(*line, "--ratio", "0.4", "--html", "inner.html").code == 0
    assert data_of(Path("inner.html"))["runs"][0]["name"] == "uniform+fastv at 40 %"
