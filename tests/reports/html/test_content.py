"""What a page's script is given, against the same by hand."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
import torch

from aot.reports.html import render_page
from aot.reports.html.content import drawn, shown_frames
from aot.types import SourceWeights
from tests.support.shown_runs import PER_FRAME, small_run, small_video, whole_run


def test_fates_tokens_and_sources_are_those_of_the_run() -> None:
    (run,) = drawn(small_video(), [small_run()])["runs"]
    first, second = ["0"] * PER_FRAME, ["0"] * PER_FRAME
    first[0], first[9], second[3], second[9] = "4", "5", "6", "1"
    assert run["fates"] == ["".join(first), "".join(second)] * 2
    assert run["clips"] == [[0, 2], [2, 4]]
    assert run["tokens"][1] == [1, 9, "keyframe", 1.0, [1.0, 0.0, 0.0], [9, 1.0]]
    sources = [PER_FRAME + 9, 0.5, 9, 0.4, 10, 0.1]
    assert run["tokens"][3] == [3, 9, "merged", 3.0, pytest.approx([0.4, 0.1, 0.5]), pytest.approx(sources, abs=1e-4)]
    assert run["into"] == {"cell": [PER_FRAME + 9, 3 * PER_FRAME + 9], "token": [3, 7]}


def test_of_many_sources_the_strongest_stay_and_the_parts_count_all() -> None:
    run = whole_run(3)
    cells, rest = torch.arange(60), torch.arange(1, 3 * PER_FRAME)
    weights = torch.linspace(1, 2, 60) / torch.linspace(1, 2, 60).sum()
    sources = SourceWeights(
        run.kept_tokens,
        torch.cat([torch.zeros_like(cells), rest]),
        torch.cat([cells, rest]),
        torch.cat([weights, torch.ones(len(rest))]),
    )
    run = replace(run, tokens=replace(run.tokens, sources=sources))
    token, cell, _, _, parts, strongest = drawn(small_video(3), [run])["runs"][0]["tokens"][0]
    assert (token, cell) == (0, 0)
    assert strongest[::2] == list(range(59, 11, -1))
    expected = [weights[0], weights[1:PER_FRAME].sum(), weights[PER_FRAME:].sum()]
    assert parts == pytest.approx([float(each) for each in expected], abs=1e-4)


def test_of_very_many_frames_runs_at_even_distances_are_shown() -> None:
    assert shown_frames(128) == list(range(128))
    frames = shown_frames(3600)
    assert len(frames) == len(set(frames)) == 128
    assert (frames[0], frames[7], frames[-1]) == (0, 7, 3599)
    assert frames == sorted(frames)


def test_only_what_is_shown_is_in_the_page() -> None:
    frames = 300
    data = drawn(small_video(frames), [whole_run(frames)])
    assert len(data["pictures"]) == len(data["runs"][0]["fates"]) == 128
    assert {token[1] // PER_FRAME for token in data["runs"][0]["tokens"]} == set(data["shown"])


def test_the_page_names_no_address_to_fetch() -> None:
    text = render_page(small_video(), [small_run()])
    assert set(re.findall(r"https?://[^\s\"')]+", text)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"<(link|iframe|object|embed|base)\b", text)
    assert not re.search(r"\b(src|href)=\"(?!data:|#)", text)


def test_a_page_of_two_models_frames_is_json_that_parses() -> None:
    text = render_page(small_video(), [small_run(), whole_run()])
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text)
    assert [run["name"] for run in json.loads(data)["runs"]] == ["aot at 10 %", "none"]


def test_control_characters_are_shown_as_such() -> None:
    """Neither those of terminals, for who copies from the page, nor those that turn the direction of a text."""
    name = "a\x1b]0;x\x07\u202e4pm.mp4"
    page = render_page(replace(small_video(), name=name), [replace(small_run(), name=name)])
    assert not set(page) & set("\x1b\x07\u202e")
    assert "\\u202e" not in page and "\\u001b" not in page
    assert "a\ufffd]0;x\ufffd\ufffd4pm.mp4" in page
