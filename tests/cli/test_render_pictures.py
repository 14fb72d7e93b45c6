"""Strips of small pictures and bars, as a terminal of a given width gets them."""

from __future__ import annotations

import io
import re
from typing import Any

import numpy as np
import pytest
from rich.color import ColorTriplet
from rich.console import Console
from rich.text import Text

from aot.reports.retention import FrameRetention
from aot.types import Clip
from aot_cli.output.describe import Grouping, groupings
from aot_cli.output.tables import frame_table
from aot_cli.output.terminal_pictures import ClipStrips, picture_size, shown_clips, shows_pictures

SIZE = (4, 6)


def terminal(width: int = 80, encoding: str = "utf-8", **options: Any) -> tuple[Console, io.BytesIO]:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, write_through=True)
    settings: dict[str, Any] = {"force_terminal": True, "color_system": "truecolor", "legacy_windows": False, **options}
    return Console(file=file, width=width, _environ={"TERM": "xterm-256color"}, **settings), raw


def clips_of(frames: int, length: int) -> list[Grouping]:
    return groupings(Clip.runs(frames, length), [1.5 * k for k in range(frames)])


def pictures(frames: int) -> dict[int, np.ndarray[Any, np.dtype[np.uint8]]]:
    """Frame k is of color k, and its column x has x in green; odd rows have 200 in blue."""
    made = {}
    for frame in range(frames):
        picture = np.zeros((*SIZE, 3), np.uint8)
        picture[..., 0], picture[..., 1], picture[1::2, :, 2] = frame, range(SIZE[1]), 200
        made[frame] = picture
    return made


def rendered(strips: Any, width: int) -> list[Text]:
    console, raw = terminal(width)
    console.print(strips)
    return [Text.from_ansi(line) for line in raw.getvalue().decode().split("\n")]


@pytest.mark.parametrize("length", [1, 3, 4, 20])
@pytest.mark.parametrize("width", [9, 20, 47, 80, 200])
def test_strips_wrap_to_the_width(width: int, length: int) -> None:
    lines = rendered(ClipStrips(clips_of(20, length), pictures(20), SIZE), width)
    assert max(line.cell_len for line in lines) <= width
    assert sum(line.plain.count("▀") for line in lines) == 20 * SIZE[1] * SIZE[0] // 2
    told = [float(time) for line in lines if "clip" not in line.plain for time in re.findall(r"\d+\.\d+", line.plain)]
    assert told == [1.5 * k for k in range(20)]
    keyframes = [float(time) for line in lines for time in re.findall(r"◆ (\d+\.\d+)", line.plain)]
    assert keyframes == ([] if length == 1 else [1.5 * k for k in range(0, 20, length)])


def test_wide_terminals_are_used() -> None:
    narrow, wide = (len(rendered(ClipStrips(clips_of(16, 4), pictures(16), SIZE), width)) for width in (40, 160))
    assert wide < narrow / 3


def test_each_character_shows_two_pixels() -> None:
    console = Console()
    lines = rendered(ClipStrips(clips_of(4, 2), pictures(4), SIZE), 80)
    seen = []
    for line in lines:
        for place, character in enumerate(line.plain):
            if character == "▀":
                style = line.get_style_at_offset(console, place)
                assert style.color is not None
                assert style.bgcolor is not None
                seen.append((style.color.triplet, style.bgcolor.triplet))
    expected = [(ColorTriplet(k, x, 0), ColorTriplet(k, x, 200)) for k in range(4) for x in range(SIZE[1])]
    assert seen == expected * (SIZE[0] // 2)


def test_a_missing_picture_is_blank() -> None:
    some = pictures(4)
    del some[2]
    lines = rendered(ClipStrips(clips_of(4, 4), some, SIZE), 80)
    assert sum(line.plain.count("▀") for line in lines) == 3 * SIZE[1] * SIZE[0] // 2
    assert "3.00" in "".join(line.plain for line in lines)


def test_of_very_many_frames_the_first_and_the_last() -> None:
    clips = clips_of(200, 4)
    head, tail = shown_clips(clips)
    assert [clip.clip for clip in (*head, *tail)] == [0, 1, 2, 3, 4, 5, 6, 7, 48, 49]
    text = "".join(line.plain for line in rendered(ClipStrips(clips, {}, SIZE), 80))
    assert "160 more frames in 40 clips" in text
    assert (text.count("◆"), "clip 8:" in text, "clip 48:" in text) == (10, False, True)
    assert shown_clips(clips_of(64, 4)) == (clips_of(64, 4), ())
    assert [len(part) for part in shown_clips(clips_of(200, 100))] == [1, 1]
    assert [len(part) for part in shown_clips(clips_of(100, 100))] == [1, 0]


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((1280, 720), (10, 18)),
        ((720, 1280), (16, 9)),
        ((640, 480), (14, 18)),
        ((50, 50), (16, 16)),
        ((4000, 10), (2, 18)),
    ],
)
def test_pictures_keep_their_shape(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert picture_size(*size) == expected


def test_where_pictures_are_shown() -> None:
    assert shows_pictures(terminal()[0])
    assert shows_pictures(terminal(color_system="256")[0])
    assert not shows_pictures(terminal(color_system="standard")[0])
    assert not shows_pictures(terminal(color_system=None)[0])
    assert not shows_pictures(terminal(no_color=True)[0])
    assert not shows_pictures(terminal(encoding="latin-1")[0])
    assert not shows_pictures(terminal(force_terminal=False)[0])
    dumb = Console(file=terminal()[0].file, force_terminal=True, _environ={"TERM": "dumb"})
    assert not shows_pictures(dumb)


def test_bars_are_of_their_parts() -> None:
    rows = [(8, 0, 0), (2, 4, 2), (0, 1, 0), (0, 0, 0)]
    frames = [
        FrameRetention(k, 0.0, k, True, None, own, distinct, merged, own + distinct + merged, 0.5)
        for k, (own, distinct, merged) in enumerate(rows)
    ]
    bars = []
    for line in rendered(frame_table(frames), 100):
        if "50.0%" in line.plain:
            at = [place for place, character in enumerate(line.plain) if character == "█"]
            bars.append([line.get_style_at_offset(Console(), place).color for place in at])
    own, distinct, merged = ("#56b4e9", "#009e73", "#cc79a7")
    names = [[color and color.name for color in bar] for bar in bars]
    assert names == [[own] * 5, [own, distinct, distinct, distinct, merged], [distinct], []]
