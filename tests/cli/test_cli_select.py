"""`--select-frames` through the console script."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.cli_run import Aot
from tests.support.tiny_checkpoint import make_siglip_head

SHORT = ("--max-new-tokens", "4")
SELECT = ("--select-frames", "3")


def test_ask_tells_which_frames_were_chosen(run_aot: Aot, small: tuple[str, ...], clip_file: Path) -> None:
    run = run_aot("ask", clip_file, "where is the red dog?", *small, *SHORT, *SELECT, "--ratio", "0.4", "--json")
    assert run.code == 0
    assert len(run.json["timestamps_s"]) == 3
    assert run.json["visual_tokens"] == 75 and run.json["kept_tokens"] == 30
    assert run.json["config"]["sampling"]["select_frames"] == 3
    assert run.err == "aot: note: 3 of 8 sampled frames were chosen, by the question's own words\n"


def test_the_text_tower_chooses_where_there_is_one(
    run_aot: Aot, small: tuple[str, ...], clip_file: Path, tmp_path: Path
) -> None:
    siglip = make_siglip_head(tmp_path / "siglip", grid=9)
    run = run_aot("ask", clip_file, "red dog?", "-q", "a cat?", *small, *SHORT, *SELECT, "--siglip-head", siglip)
    assert run.code == 0
    assert f"3 of 8 sampled frames were chosen, by the text tower of {siglip}" in run.err


def test_compare_gives_every_method_the_chosen_frames(run_aot: Aot, small: tuple[str, ...], clip_file: Path) -> None:
    methods = ("--methods", "none,random,tome", "--ratio", "0.4")
    run = run_aot("compare", clip_file, "where is the red dog?", *small, *SHORT, *SELECT, *methods, "--json")
    assert run.code == 0
    assert run.json["visual_tokens"] == 75
    assert [row["kept_tokens"] for row in run.json["methods"]] == [75, 30, 30]
    assert sum("3 of 8 sampled frames" in notice for notice in run.json["notices"]) == 1


@pytest.mark.parametrize(
    "command",
    [
        ("compress", "{clip}", "-o", "t.pt"),
        ("inspect", "{clip}"),
        ("inspect", "{clip}", "--model", "shapes"),
        ("eval", "--shapes", "1", "-o", "results"),
        ("bench", "video"),
    ],
)
def test_commands_without_one_question_refuse(run_aot: Aot, clip_file: Path, command: tuple[str, ...]) -> None:
    run = run_aot(*(part.format(clip=clip_file) for part in command), *SELECT)
    assert run.code == 2
    assert run.err.count("\n") == 1
    assert "aot ask or aot compare" in run.err
    assert not list(Path().iterdir())


def test_what_cannot_be_chosen_is_refused(run_aot: Aot, small: tuple[str, ...], clip_file: Path) -> None:
    assert "--select-frames must be at least 1" in run_aot("ask", clip_file, "a?", *small, "--select-frames", "0").err
    similar = "sampling.duplicate_similarity=2"
    assert "must be in [0, 1]" in run_aot("ask", clip_file, "a?", *small, *SELECT, "--set", similar).err


def test_tokens_are_already_chosen(run_aot: Aot, small: tuple[str, ...], clip_file: Path) -> None:
    run_aot("compress", clip_file, "-o", "t.pt", *small)
    run = run_aot("ask", "t.pt", "hi?", *small[:2], *SHORT, *SELECT)
    assert run.code == 0 and "sampling" in run.err
