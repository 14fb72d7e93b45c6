"""How LLaVA lays a video's tokens out: its pooling, its learned newlines, and what its prompt says about time."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from aot.config.schema import ModelConfig
from aot.errors import ConfigError
from aot.models.language.prompt import NEWLINE, Run, by_frame, in_reading_order
from aot.types import CompressedTokens, Pooling

__all__ = ["LlavaGeometry", "refuse_llava_settings", "time_instruction"]

_BILINEAR, _AVERAGE = Pooling("bilinear", 2), Pooling("average", 2)

Newline = Literal["one_token", "grid", "every_row", "frame", "frame_rows", "none"]
TokenOrder = Literal["raster", "method"]


@dataclass(frozen=True, slots=True)
class LlavaGeometry:
    """What a LLaVA was trained with; the default is LLaVA-OneVision's.

    newline: "one_token" after the video; "grid" after every row of the pooled grid of which a token is kept;
    "every_row" after all rows whatever is kept, as published for LLaVA-Video; "frame", one after every frame;
    "frame_rows", as many as a frame has rows, together after it; "none". order: "raster", by frame, row and column;
    "method", as the method emits them; None is raster order where newlines divide the video and the method's elsewhere.
    """

    pool: Pooling = _BILINEAR
    newline: Newline = "one_token"
    order: TokenOrder | None = None

    @classmethod
    def of(cls, config: ModelConfig, description: Mapping[str, Any]) -> LlavaGeometry:
        """Return a checkpoint's geometry. Its config.json decides, by the newlines it was trained with or else the name
        it has there: LLaVA-Video's ports to transformers' layout say no more. Where it has none, the name in use does,
        but no folder above it. What LLaVA-Video's own says of pooling, bilinear, is a default of the training script.
        """
        position = description.get("mm_newline_position")
        name = _last_name(str(description.get("_name_or_path") or config.name))
        if position == "grid" or (position is None and "llava-video" in name.lower()):
            return cls(_AVERAGE, "grid")
        averages = description.get("mm_spatial_pool_mode") == "average"
        return cls(_AVERAGE if averages else _BILINEAR, "none" if position == "no_token" else "one_token")

    def asked_for(self, config: ModelConfig) -> LlavaGeometry:
        """With what the user has set instead."""
        return LlavaGeometry(
            self.pool if config.pool == "auto" else Pooling(config.pool, 2),
            self.newline if config.newline == "auto" else config.newline,
            self.order if config.token_order == "auto" else config.token_order,
        )

    @property
    def token_order(self) -> TokenOrder:
        """The order in which the language model reads what is kept."""
        return self.order or ("method" if self.newline in ("none", "one_token") else "raster")

    def run(self, tokens: CompressedTokens, *, placed: bool = True) -> Run:
        """The kept tokens and `NEWLINE`s as the language model reads them, each with its index in the whole video if
        `placed`; without them the order may be known before the device has chosen the tokens.
        """
        if self.newline in ("none", "one_token"):
            newlines = [NEWLINE] * (self.newline == "one_token")
            if self.token_order != "raster" and not placed:
                return Run("", [*range(len(tokens.features)), *newlines])
            place, total = tokens.place.tolist(), len(tokens.timestamps_s) * math.prod(tokens.grid)
            order = in_reading_order(tokens) if self.token_order == "raster" else range(len(place))
            rows = [(token, place[token]) for token in order]
            rows += [(newline, total) for newline in newlines]
            return Run("", [row for row, _ in rows], [offset for _, offset in rows], total + (len(rows) - len(place)))
        passes = self._passes(tokens)
        cells, span = (tokens.place % math.prod(tokens.grid)).tolist(), self._frame_span(tokens.grid)
        rows = [
            (row, frame * span + offset)
            for frame, members in passes
            for row, offset in self._frame_rows(members, cells, tokens.grid)
        ]
        return Run("", [row for row, _ in rows], [offset for _, offset in rows], span * len(tokens.timestamps_s))

    def _passes(self, tokens: CompressedTokens) -> Sequence[tuple[int, Sequence[int]]]:
        """Frames in the order in which they are read, with the tokens that are read then. In the method's order a frame
        may come twice (a keyframe as it was and as it became), and one of which nothing is kept does not come.
        """
        if self.token_order == "raster":
            return list(enumerate(by_frame(tokens)))
        passes: list[tuple[int, list[int]]] = []
        line, last = list(zip(tokens.frame.tolist(), tokens.row.tolist(), strict=True)), (-1, -1)
        for token, (frame, row) in enumerate(line):
            if frame != last[0] or row < last[1]:
                passes.append((frame, []))
            passes[-1][1].append(token)
            last = frame, row
        return passes

    def _frame_span(self, grid: tuple[int, int]) -> int:
        """How many rows of the prompt a whole frame takes."""
        newlines = 1 if self.newline == "frame" else grid[0]
        return math.prod(grid) + newlines

    def _frame_rows(
        self, members: Sequence[int], cells: Sequence[int], grid: tuple[int, int]
    ) -> Iterator[tuple[int, int]]:
        """The tokens `members` of a frame, each in its cell, and newlines, with their indices in the whole frame."""
        lines, cols = grid
        if self.newline in ("frame", "frame_rows"):
            yield from ((token, cells[token]) for token in members)
            yield from ((NEWLINE, offset) for offset in range(lines * cols, self._frame_span(grid)))
            return
        of_line = {line: list(run) for line, run in groupby(members, lambda token: cells[token] // cols)}
        for line in range(lines) if self.newline == "every_row" else of_line:
            yield from ((token, line + cells[token]) for token in of_line.get(line, ()))
            yield NEWLINE, (line + 1) * (cols + 1) - 1


def _last_name(path: str) -> str:
    """Return a model's own name without the folders or the owner before it, also where it lies in the hub's cache."""
    parts = Path(os.path.normpath(Path(path).absolute())).parts
    if len(parts) > 2 and parts[-2] == "snapshots":
        return parts[-3].rpartition("--")[2]
    return parts[-1]


def refuse_llava_settings(config: ModelConfig, name: str) -> None:
    """For a family `name` that has none of LLaVA's settings.

    Raises:
        ConfigError: one is set.
    """
    unset = ModelConfig()
    settings = ("pool", "newline", "token_order", "time_instruction", "siglip_head")
    given = [setting for setting in settings if getattr(config, setting) != getattr(unset, setting)]
    if given:
        raise ConfigError(*(f"model.{setting} is for LLaVA models; leave it out with {name}" for setting in given))


def time_instruction(tokens: CompressedTokens) -> str:
    """Return what the prompt of LLaVA-Video says about the frames, in the words it was trained with."""
    times = tokens.timestamps_s
    duration_s = times[-1] if tokens.duration_s is None else tokens.duration_s
    shown = ",".join(f"{time:.2f}s" for time in times)
    return (
        f"The video lasts for {duration_s:.2f} seconds, and {len(times)} frames are uniformly sampled from it. "
        f"These frames are located at {shown}.Please answer the following questions related to this video."
    )
