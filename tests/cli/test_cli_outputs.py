"""What commands write: never over what they read, nor over what is there unless told to; refused before any work."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.support.cli_run import Aot

NO_MODEL = ("--model", "/nowhere")  # would be exit code 4


@pytest.mark.parametrize("link", ["itself", "symbolic", "hard"])
@pytest.mark.parametrize(
    ("command", "output"),
    [
        (("compress", "-o"), "a.pt"),
        (("compress", "-o", "a.pt", "--report"), "a.json"),
        (("compress", "-o", "a.pt", "--html"), "a.html"),
        (("ask", "-q", "what?", "--html"), "a.htm"),
        (("inspect", "--html"), "a.html"),
        (("inspect", "--overlay"), "a.mp4"),
        (("compare", "what?", "--html"), "a.html"),
    ],
)
def test_the_input_is_never_replaced(
    run_aot: Aot, clip_file: Path, command: tuple[str, ...], output: str, link: str
) -> None:
    source = Path("clip.mov")
    shutil.copy(clip_file, source)
    if link == "itself":
        source = source.rename(output)
    elif link == "symbolic":
        Path(output).symlink_to(source)
    else:
        os.link(source, output)
    name, *more = command
    run = run_aot(name, source, *more, output, "--force", *NO_MODEL)
    if not (link == "itself" and output == "a.pt"):  # which is no video
        assert (run.code, run.err) == (1, f"aot: {output} is the input itself; choose another name\n")
    assert run.code
    assert source.read_bytes() == Path(output).read_bytes() == clip_file.read_bytes()


@pytest.mark.parametrize(
    ("flags", "code", "told"),
    [
        (("-o", "a.npz"), 2, "a.npz must end in .pt or .safetensors"),
        (("--report", "a.txt"), 2, "a.txt must end in .json or .csv"),
        (("--html", "a.pdf"), 2, "a.pdf must end in .html or .htm"),
        (("--report", "no/a.json"), 1, "the folder no does not exist"),
        (("--html", "folder.html"), 1, "folder.html is a folder"),
        (("--html", "there.html"), 1, "there.html exists; pass --force"),
        (("--report", "nowhere.csv"), 1, "nowhere.csv exists; pass --force"),
        (("--report", "a" * 300 + ".csv"), 1, "could not be written"),
    ],
)
def test_all_is_checked_before_the_work(
    run_aot: Aot, clip_file: Path, flags: tuple[str, ...], code: int, told: str
) -> None:
    Path("folder.html").mkdir()
    Path("there.html").write_text("mine")
    Path("nowhere.csv").symlink_to("gone")
    run = run_aot("compress", clip_file, *flags, *NO_MODEL)
    assert (run.code, told in run.err) == (code, True), run.err
    assert {path.name for path in Path().iterdir()} == {"folder.html", "there.html", "nowhere.csv"}


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are UTF-8 there")
def test_names_that_are_not_utf_8(run_aot: Aot, small: tuple[str, ...], clip_file: Path) -> None:
    source, tokens = Path("caf\udce9.mp4"), "caf\udce9.pt"
    shutil.copy(clip_file, source)
    for report in ("caf\udce9.json", "caf\udce9.csv"):
        page = ("--html", "caf\udce9.html")
        run = run_aot("compress", source, "-o", tokens, "--report", report, *page, "--force", *small)
        assert run.code == 0, run.err
    assert json.loads(Path("caf\udce9.json").read_text("utf-8"))["video"]["path"] == str(source)
    assert "caf\ufffd.mp4" in Path("caf\udce9.html").read_text("utf-8")
    assert run_aot("inspect", tokens).code == 0
    assert run_aot("ask", tokens, "what?", *small[:2]).code == 0
    for command in (("ask",), ("compare", "--methods", "none,aot")):
        run = run_aot(command[0], source, "what?", *command[1:], *page, "--force", *small)
        assert run.code == 0, run.err
    assert run_aot("inspect", source, "--overlay", "caf\udce9.mp4", "--force", *small).code == 1  # the input itself
    assert run_aot("inspect", source, "--overlay", "o\udce9.mp4", *page, "--force", *small).code == 0


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are UTF-8 there")
def test_names_that_safetensors_does_not_take(run_aot: Aot, small: tuple[str, ...], clip_file: Path) -> None:
    name, told = (
        "caf\udce9.safetensors",
        "aot: the name caf\ufffd.safetensors is not UTF-8, which .safetensors files need; ",
    )
    run = run_aot("compress", clip_file, "-o", name, *NO_MODEL)
    assert (run.code, run.err) == (2, told + "choose another name, or .pt\n")
    assert run_aot("compress", clip_file, "-o", "t.safetensors", *small).code == 0
    Path("t.safetensors").rename(name)
    run = run_aot("inspect", name)
    assert (run.code, run.err) == (1, told + "rename it\n")


@pytest.mark.skipif(sys.platform == "win32", reason="whole paths have at most 260 letters there")
def test_the_longest_names(run_aot: Aot, small: tuple[str, ...], clip_file: Path) -> None:
    source = Path("a" * 251 + ".mp4")
    shutil.copy(clip_file, source)
    run = run_aot("compress", source, *NO_MODEL)
    assert (run.code, "the name is too long; choose a shorter one" in run.err) == (1, True), run.err
    tokens, page = "a" * 252 + ".pt", ("--html", "a" * 250 + ".html")
    assert run_aot("compress", source, "-o", tokens, "--report", "a" * 250 + ".json", *page, *small).code == 0
    assert run_aot("inspect", source, "--overlay", "b" * 251 + ".mp4", *small).code == 0


@pytest.mark.parametrize("command", [("ask", "-q"), ("ask", "fine?", "-q"), ("compare",)])
def test_questions_that_are_not_utf_8(run_aot: Aot, clip_file: Path, command: tuple[str, ...]) -> None:
    run = run_aot(command[0], clip_file, *command[1:], "caf\udce9?", *NO_MODEL)
    assert (run.code, run.err) == (2, "aot: the question is not valid UTF-8 text; type it again\n")


def test_two_outputs_in_one_file(run_aot: Aot, clip_file: Path) -> None:
    for name in ("a.json", "b.json"):
        Path(name).touch()
    Path("a.html").symlink_to("a.json")
    run = run_aot("compress", clip_file, "--report", "a.json", "--html", "a.html", "--force", *NO_MODEL)
    assert (run.code, run.err) == (2, "aot: --report and --html are the same file; give them different names\n")


@pytest.mark.parametrize("name", ["clip.mp4", "tokens.pt", "kept.html"])
def test_the_demo_replaces_only_its_own_files(run_aot: Aot, name: str) -> None:
    Path(name).write_text("mine")
    run = run_aot("demo", "-o", ".")
    assert (run.code, run.err) == (1, f"aot: {name} exists; pass --force to replace it\n")
    assert [(path.name, path.read_text()) for path in Path().iterdir()] == [(name, "mine")]


def test_the_demo_again(run_aot: Aot) -> None:
    Path("kept.html").write_text("mine")
    assert run_aot("demo", "-o", ".", "--force").code == 0
    assert Path("kept.html").read_text("utf-8") != "mine"
    Path("aot-demo").mkdir()
    for name in ("clip.mp4", "tokens.pt", "kept.html"):
        Path(name).rename(f"aot-demo/{name}")
    assert run_aot("demo").code == 0  # its own folder


def test_an_evaluation_does_not_write_over_its_data(run_aot: Aot, clip_file: Path) -> None:
    Path("results").mkdir()
    data = Path("results/answers.jsonl")
    data.write_text(f'{{"video": "{clip_file}", "question": "what?", "answer": "a"}}\n')
    run = run_aot("eval", data, "-o", "results", "--model", "shapes")
    assert (run.code, run.err) == (1, f"aot: {data} is the input itself; choose another name\n")
    Path("results/results.csv").mkdir()
    run = run_aot("eval", "--shapes", "1", "-o", "results", "--model", "shapes")
    assert (run.code, run.err) == (1, "aot: results/results.csv is a folder; name a file in it\n")
