"""Commands with a LLaVA-Video: newlines and the time instruction are settings of the answer, not of a tokens file."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.cli_run import Aot

FRAMES, SIDE = 8, 4  # 9 x 9 patches make 4 x 4 means
SHORT = ("--max-new-tokens", "6")


@pytest.fixture(scope="module")
def video(small_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    folder = shutil.copytree(small_folder, tmp_path_factory.mktemp("models") / "LLaVA-Video-tiny")
    return ("--model", str(folder), "--frames", str(FRAMES))


def prompt_tokens(run_aot: Aot, *arguments: str | Path) -> int:
    run = run_aot("ask", *arguments, *SHORT, "--json")
    assert run.code == 0, run.err
    count: int = run.json["answers"][0]["prompt_tokens"]
    return count


def test_tokens_answer_as_the_video_does(run_aot: Aot, video: tuple[str, ...], clip_file: Path) -> None:
    asked = run_aot("ask", clip_file, "what happens?", *video, *SHORT, "--ratio", "0.5")
    assert (asked.code, asked.err) == (0, "")
    for name in ("t.pt", "t.safetensors"):
        assert run_aot("compress", clip_file, "-o", name, *video, "--ratio", "0.5").code == 0
        assert run_aot("ask", name, "what happens?", *video[:2], *SHORT).out == asked.out


def test_every_frame_has_a_newline_for_every_row(run_aot: Aot, video: tuple[str, ...], clip_file: Path) -> None:
    asked = (clip_file, "what happens?", *video)
    bare = prompt_tokens(run_aot, *asked, "--method", "none", "--set", "model.newline=none")
    assert prompt_tokens(run_aot, *asked, "--method", "none") == bare + FRAMES * SIDE
    kept = prompt_tokens(run_aot, *asked, "--ratio", "0.1", "--set", "model.newline=none")
    every = prompt_tokens(run_aot, *asked, "--ratio", "0.1", "--set", "model.newline=every_row")
    grid = prompt_tokens(run_aot, *asked, "--ratio", "0.1")
    assert bare - kept == FRAMES * SIDE**2 - round(0.1 * FRAMES * SIDE**2)
    assert every == kept + FRAMES * SIDE
    assert kept < grid < every


def test_newlines_are_chosen_when_a_tokens_file_is_asked(run_aot: Aot, video: tuple[str, ...], clip_file: Path) -> None:
    assert run_aot("compress", clip_file, "-o", "t.pt", *video, "--ratio", "0.1").code == 0
    asked = ("t.pt", "q?", *video[:2])
    grid, every = (prompt_tokens(run_aot, *asked, "--set", f"model.newline={n}") for n in ("grid", "every_row"))
    assert grid < every
    assert prompt_tokens(run_aot, *asked) == grid


def test_the_time_instruction_is_asked_for(run_aot: Aot, video: tuple[str, ...], clip_file: Path) -> None:
    asked = (clip_file, "what happens?", *video)
    told = prompt_tokens(run_aot, *asked, "--set", "model.time_instruction=true")
    assert told > prompt_tokens(run_aot, *asked) + 100  # a byte is a token here


def test_inspect_plans_with_its_geometry(run_aot: Aot, video: tuple[str, ...], clip_file: Path) -> None:
    found = run_aot("inspect", clip_file, *video, "--json")
    assert found.code == 0
    assert found.json["visual_tokens"] == FRAMES * SIDE**2


def test_the_published_preset_keeps_every_newline(run_aot: Aot, video: tuple[str, ...], clip_file: Path) -> None:
    """Three seconds at a frame a second, and none transported."""
    run = run_aot("ask", clip_file, "what happens?", *video[:2], "--preset", "paper/video-r10", *SHORT, "--json")
    assert run.code == 0, run.err
    found = run.json
    frames = found["visual_tokens"] // SIDE**2
    bare = prompt_tokens(
        run_aot, clip_file, "what happens?", *video[:2], "--preset", "paper/video-r10", "--set", "model.newline=none"
    )
    assert frames == 3
    assert found["answers"][0]["prompt_tokens"] == bare + frames * SIDE


def test_a_tokens_file_keeps_its_presets_layout(run_aot: Aot, video: tuple[str, ...], clip_file: Path) -> None:
    """Newlines, order and positions are of the prompt, so a tokens file says them to whoever asks it."""
    laid_out = ("--set", "model.newline=frame_rows", "--set", "model.token_order=method")
    line = (clip_file, *video, "--method", "fastvid", "--ratio", "0.2", *laid_out, "--set", "model.positions=original")
    asked = run_aot("ask", *line, "what happens?", *SHORT, "--json").json
    assert run_aot("compress", *line, "-o", "t.pt").code == 0
    kept = run_aot("ask", "t.pt", "what happens?", *video[:2], *SHORT, "--json").json
    placed = ("newline", "token_order", "positions")
    assert [kept["model"][name] for name in placed] == ["frame_rows", "method", "original"]
    assert [kept["config"]["model"][name] for name in placed] == ["frame_rows", "method", "original"]
    assert kept["answers"][0]["prompt_tokens"] == asked["answers"][0]["prompt_tokens"]
    assert kept["answer"] == asked["answer"]
    packed = run_aot(
        "ask", "t.pt", "what happens?", *video[:2], *SHORT, "--set", "model.positions=packed", "--json"
    ).json
    assert packed["model"]["positions"] == "packed"


def test_several_questions_of_a_file_with_original_positions(
    run_aot: Aot, video: tuple[str, ...], clip_file: Path
) -> None:
    line = (clip_file, *video, "--preset", "methods/fastvid", "--frames", "8", "--ratio", "0.2")
    assert run_aot("compress", *line, "-o", "t.pt").code == 0
    both = run_aot("ask", "t.pt", "what happens?", "-q", "where?", *video[:2], *SHORT, "--json").json["answers"]
    for question, found in zip(("what happens?", "where?"), both, strict=True):
        assert run_aot("ask", "t.pt", question, *video[:2], *SHORT, "--json").json["answer"] == found["answer"]
