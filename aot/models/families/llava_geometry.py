"""The layout of a video's tokens in LLaVA: pooling, learned newlines, and text about time."""

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
    """Layout that a LLaVA was trained with; the default is the layout of LLaVA-OneVision.

    Attributes:
        pool: the pooling of a frame's tokens.
        newline: where learned newlines go. "one_token": after the video. "grid": after each row of
            the pooled grid that keeps a token. "every_row": after each row, as published for
            LLaVA-Video. "frame": one after each frame. "frame_rows": after each frame, one per row
            of the grid. "none": no newlines.
        order: the order of the kept tokens. "raster": by frame, row and column. "method": as the
            compression method returned them. None: "raster" if newlines divide the video, else
            "method".
    """

    pool: Pooling = _BILINEAR
    newline: Newline = "one_token"
    order: TokenOrder | None = None

    @classmethod
    def of(cls, config: ModelConfig, description: Mapping[str, Any]) -> LlavaGeometry:
        """Return a checkpoint's geometry.

        `mm_newline_position` in config.json decides. If it is missing, the model's name decides:
        the name in config.json, or else `config.name` without folders. The name is
        needed because LLaVA-Video in transformers' layout has a config.json without
        `mm_newline_position`. The pooling mode in LLaVA-Video's original config.json is ignored,
        because it is only a default of the training script.
        """
        position = description.get("mm_newline_position")
        name = _last_name(str(description.get("_name_or_path") or config.name))
        # LLaVA-Video. Its recorded pooling mode is ignored.
        if position == "grid" or (position is None and "llava-video" in name.lower()):
            return cls(_AVERAGE, "grid")
        # LLaVA-OneVision and its relatives.
        averages = description.get("mm_spatial_pool_mode") == "average"
        return cls(_AVERAGE if averages else _BILINEAR, "none" if position == "no_token" else "one_token")

    def asked_for(self, config: ModelConfig) -> LlavaGeometry:
        """Return this geometry, changed by the settings of `config` that are not "auto"."""
        return LlavaGeometry(
            self.pool if config.pool == "auto" else Pooling(config.pool, 2),
            self.newline if config.newline == "auto" else config.newline,
            self.order if config.token_order == "auto" else config.token_order,
        )

    @property
    def token_order(self) -> TokenOrder:
        """Return the order in which the language model reads the kept tokens."""
        return self.order or ("method" if self.newline in ("none", "one_token") else "raster")

    def run(self, tokens: CompressedTokens, *, indexed: bool = True) -> Run:
        """Return kept tokens and newlines in the order in which the language model reads them.

        If `indexed`, the run holds the index that each row would have if no token had been dropped.
        If not, these indices may be missing; then nothing is read back from the device.
        """
        # 1. No newlines between frames, and at most one newline at the end.
        if self.newline in ("none", "one_token"):
            newlines = [NEWLINE] * (self.newline == "one_token")
            # Nothing is read back from the device here.
            if self.token_order != "raster" and not indexed:
                return Run("", [*range(len(tokens.features)), *newlines])
            cell, total = tokens.cell.tolist(), len(tokens.timestamps_s) * math.prod(tokens.grid)
            order = in_reading_order(tokens) if self.token_order == "raster" else range(len(cell))
            rows = [(token, cell[token]) for token in order]
            rows += [(newline, total) for newline in newlines]
            return Run("", [row for row, _ in rows], [offset for _, offset in rows], total + (len(rows) - len(cell)))
        # 2. Newlines divide the video. A row's index counts the newlines before it.
        passes = self._passes(tokens)
        cells, span = (tokens.cell % math.prod(tokens.grid)).tolist(), self._frame_span(tokens.grid)
        rows = [
            (row, frame * span + offset)
            for frame, members in passes
            for row, offset in self._frame_rows(members, cells, tokens.grid)
        ]
        return Run("", [row for row, _ in rows], [offset for _, offset in rows], span * len(tokens.timestamps_s))

    def _passes(self, tokens: CompressedTokens) -> Sequence[tuple[int, Sequence[int]]]:
        """Return pairs in reading order: a frame index, and the indices of the frame's kept tokens.

        With the token order "method", a frame may occur twice (a keyframe before and after
        merging), and a frame without kept tokens is left out.
        """
        if self.token_order == "raster":
            return list(enumerate(by_frame(tokens)))
        passes: list[tuple[int, list[int]]] = []
        line, last = list(zip(tokens.frame.tolist(), tokens.row.tolist(), strict=True)), (-1, -1)
        for token, (frame, row) in enumerate(line):
            # A new pass begins with another frame, or when the rows start again.
            if frame != last[0] or row < last[1]:
                passes.append((frame, []))
            passes[-1][1].append(token)
            last = frame, row
        return passes

    def _frame_span(self, grid: tuple[int, int]) -> int:
        """Return the number of tokens and newlines of a frame that keeps all tokens."""
        newlines = 1 if self.newline == "frame" else grid[0]
        return math.prod(grid) + newlines

    def _frame_rows(
        self, members: Sequence[int], cells: Sequence[int], grid: tuple[int, int]
    ) -> Iterator[tuple[int, int]]:
        """Yield (row, its index in a frame that keeps all tokens) for `members` and newlines."""
        lines, cols = grid
        if self.newline in ("frame", "frame_rows"):
            # All tokens, then all newlines of the frame.
            yield from ((token, cells[token]) for token in members)
            yield from ((NEWLINE, offset) for offset in range(lines * cols, self._frame_span(grid)))
            return
        # A newline after each line of cells; `line` newlines come before cell `line * cols`.
        by_line = {line: list(run) for line, run in groupby(members, lambda token: cells[token] // cols)}
        for line in range(lines) if self.newline == "every_row" else by_line:
            yield from ((token, line + cells[token]) for token in by_line.get(line, ()))
            yield NEWLINE, (line + 1) * (cols + 1) - 1


def _last_name(path: str) -> str:
    """Return a model's own name without folders or owner, also for a path in the hub's cache."""
    parts = Path(os.path.normpath(Path(path).absolute())).parts
    if len(parts) > 2 and parts[-2] == "snapshots":
        return parts[-3].rpartition("--")[2]
    return parts[-1]


def refuse_llava_settings(config: ModelConfig, name: str) -> None:
    """Raise ConfigError if `config` sets an option of LLaVA, which the family `name` lacks."""
    unset = ModelConfig()
    settings = ("pool", "newline", "token_order", "time_instruction", "siglip_head")
    given = [setting for setting in settings if getattr(config, setting) != getattr(unset, setting)]
    if given:
        raise ConfigError(*(f"model.{setting} is for LLaVA models; leave it out with {name}" for setting in given))


def time_instruction(tokens: CompressedTokens) -> str:
    """Return the text about frame times in LLaVA-Video's prompt, as in its training."""
    times = tokens.timestamps_s
    duration_s = times[-1] if tokens.duration_s is None else tokens.duration_s
    shown = ",".join(f"{time:.2f}s" for time in times)
    return (
        f"The video lasts for {duration_s:.2f} seconds, and {len(times)} frames are uniformly sampled from it. "
        f"These frames are located at {shown}.Please answer the following questions related to this video."
    )
