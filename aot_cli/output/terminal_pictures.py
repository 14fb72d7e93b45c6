"""Draw clips as strips of small pictures in a terminal; a character shows two pixels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.color import Color
from rich.console import Console, ConsoleOptions, RenderResult
from rich.style import Style
from rich.text import Text

from aot_cli.output.describe import Grouping
from aot_cli.output.safe_console import SafeConsole
from aot_cli.output.tables import seconds

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Picture = NDArray[np.uint8]

__all__ = ["ClipStrips", "Clips", "picture_size", "shown_clips", "shows_pictures"]

_MOST_ROWS, _MOST_COLUMNS = 16, 18  # pixels; four pictures of a wide video fit a terminal of 80 columns
_LONG, _HEAD, _TAIL = 64, 32, 8  # frames
_KEY = "◆ "
_KEY_STYLE = Style(bold=True, color="#000000", bgcolor="#F0E442")
_CLIP_GAP, _GAP = 3, 1

Clips = Sequence[Grouping]


def shows_pictures(console: Console | None = None) -> bool:
    """Return whether stdout is a terminal with enough colors and characters for pictures."""
    console = console or SafeConsole()
    return (
        console.is_terminal
        and not console.is_dumb_terminal
        and not console.no_color
        and console.color_system in ("256", "truecolor")
        and console.encoding.lower().replace("-", "") == "utf8"
    )


def picture_size(width: int, height: int) -> tuple[int, int]:
    """Return (rows, columns) of a small picture in pixels; rows are even (two per character)."""
    scale = min(_MOST_COLUMNS / width, _MOST_ROWS / height)
    return 2 * max(1, round(height * scale / 2)), max(1, round(width * scale))


def shown_clips(clips: Clips) -> tuple[Clips, Clips]:
    """Return the first and the last clips to show; if there are few frames, all clips and ()."""
    if sum(len(clip.members) for clip in clips) <= _LONG:
        return clips, ()
    first = _up_to(clips, _HEAD)
    last = _up_to(clips[first:][::-1], _TAIL)
    return clips[:first], clips[len(clips) - last :]


def _up_to(clips: Clips, frames: int) -> int:
    """Return how many of the first clips (at least one) have at most `frames` frames together."""
    count = 0
    for number, clip in enumerate(clips):
        count += len(clip.members)
        if count > frames:
            return max(1, number)
    return len(clips)


class ClipStrips:
    """Strips of pictures, one per clip, with times below and a mark at the keyframe.

    Args:
        clips: The clips.
        pictures: Pictures [H, W, 3] by frame number; missing pictures stay blank.
        size: H and W, the same for all pictures.
    """

    def __init__(self, clips: Clips, pictures: Mapping[int, Picture], size: tuple[int, int]) -> None:
        self._clips, self._pictures, (self._rows, self._columns) = clips, pictures, size
        self._grouped = any(len(clip.members) > 1 for clip in clips)
        head, tail = shown_clips(clips)
        labels = [
            self._label(frame, time, clip)
            for clip in (*head, *tail)
            for frame, time in zip(clip.members, clip.timestamps_s, strict=True)
        ]
        self._wide = max([self._columns, *(label.cell_len for label in labels)])

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        head, tail = shown_clips(self._clips)
        yield from self._lines(head, options.max_width)
        if tail:
            left_out = self._clips[len(head) : len(self._clips) - len(tail)]
            frames = sum(len(clip.members) for clip in left_out)
            clips = f" in {len(left_out)} clips" if self._grouped else ""
            yield Text(f"... {frames} more frames{clips}\n", style="dim")
            yield from self._lines(tail, options.max_width)

    def _lines(self, clips: Clips, width: int) -> Iterator[Text]:
        gap = _CLIP_GAP if self._grouped else _GAP
        row: list[list[Text]] = []
        for block in (block for clip in clips for block in self._blocks(clip, width)):
            if row and sum(each[0].cell_len + gap for each in (*row, block)) - gap > width:
                yield from _joined(row, gap)
                row = []
            row.append(block)
        yield from _joined(row, gap)

    def _blocks(self, clip: Grouping, width: int) -> Iterator[list[Text]]:
        """Yield the strip of `clip` in parts; a part is a list of lines, at most `width` wide."""
        most = max(1, (width + _GAP) // (self._wide + _GAP))
        members, times = clip.members, clip.timestamps_s
        for first in range(0, len(members), most):
            columns = [
                self._column(frame, self._label(frame, time, clip))
                for frame, time in zip(members[first : first + most], times[first : first + most], strict=True)
            ]
            lines = [Text(" " * _GAP).join(parts) for parts in zip(*columns, strict=True)]
            if self._grouped:
                last = f"-{members[-1]}" if len(members) > 1 else ""
                lines.insert(0, Text("" if first else f"clip {clip.clip}: {members[0]}{last}", style="dim"))
            yield _equally_long(lines)

    def _label(self, frame: int, time_s: float, clip: Grouping) -> Text:
        if self._grouped and frame == clip.keyframe:
            return Text(_KEY + seconds(time_s) + " ", style=_KEY_STYLE)
        return Text(seconds(time_s))

    def _column(self, frame: int, label: Text) -> list[Text]:
        """Return lines of the same length: those of the picture of `frame`, then `label`."""
        picture = self._pictures.get(frame)
        lines = [Text() for _ in range(self._rows // 2)] if picture is None else _half_blocks(picture)
        lines.append(label)
        return _equally_long(lines, self._wide)


def _equally_long(lines: list[Text], least: int = 0) -> list[Text]:
    """Pad `lines` with spaces to the same length, at least `least`, and return them."""
    width = max(least, *(line.cell_len for line in lines))
    for line in lines:
        line.pad_right(width - line.cell_len)
    return lines


def _joined(blocks: Sequence[Sequence[Text]], gap: int) -> Iterator[Text]:
    """Yield the lines of `blocks` side by side, `gap` columns apart, then an empty line."""
    for parts in zip(*blocks, strict=True):
        line = Text(" " * gap).join(parts)
        line.no_wrap, line.overflow = True, "crop"
        yield line
    if blocks:
        yield Text()


def _half_blocks(picture: Picture) -> list[Text]:
    """Return a line per two pixel rows: upper row as text color, lower row as background color."""
    lines = []
    for upper, lower in zip(picture[::2].tolist(), picture[1::2].tolist(), strict=True):
        line = Text()
        for above, below in zip(upper, lower, strict=True):
            line.append("▀", Style(color=Color.from_rgb(*above), bgcolor=Color.from_rgb(*below)))
        lines.append(line)
    return lines
