"""How LLaVA lays a video's tokens out: its pooling, its learned newlines, and what it is told about time."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from aot.config import ModelConfig
from aot.errors import ConfigError
from aot.models.prompt import NEWLINE, in_reading_order
from aot.types import CompressedTokens, Pooling

__all__ = ["LlavaGeometry", "refuse_llava_settings", "time_instruction"]

_BILINEAR, _AVERAGE = Pooling("bilinear", 2), Pooling("average", 2)

Newline = Literal["one_token", "grid", "every_row", "none"]


@dataclass(frozen=True, slots=True)
class LlavaGeometry:
    """What a LLaVA was trained with; the default is LLaVA-OneVision's.

    newline: "one_token" behind the video; "grid" behind every row of the pooled grid, of which those rows keep theirs
    that keep a token; "every_row" behind all of them whatever is kept, as published for LLaVA-Video; "none".
    """

    pool: Pooling = _BILINEAR
    newline: Newline = "one_token"

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
        pool = self.pool if config.pool == "auto" else Pooling(config.pool, 2)
        return replace(self, pool=pool, newline=self.newline if config.newline == "auto" else config.newline)

    def rows(self, tokens: CompressedTokens) -> Sequence[int]:
        """Numbers of the kept tokens and `NEWLINE`s, as the language model reads them: a grid's by frame, row and
        column, otherwise in the method's own order.
        """
        count = range(len(tokens.features))
        if self.newline in ("none", "one_token"):
            return [*count, *[NEWLINE] * (self.newline == "one_token")]
        places = list(zip(tokens.frame.tolist(), tokens.row.tolist(), strict=True))
        kept = {place: list(run) for place, run in groupby(in_reading_order(tokens), places.__getitem__)}
        every = [(frame, row) for frame in range(len(tokens.timestamps_s)) for row in range(tokens.grid[0])]
        shown = every if self.newline == "every_row" else list(kept)
        return [row for place in shown for row in (*kept.get(place, ()), NEWLINE)]


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
    settings = ("pool", "newline", "time_instruction", "siglip_head")
    given = [setting for setting in settings if getattr(config, setting) != getattr(unset, setting)]
    if given:
        raise ConfigError(*(f"model.{setting} is for LLaVA models; leave it out with {name}" for setting in given))


def time_instruction(tokens: CompressedTokens) -> str:
    """What LLaVA-Video is told about the frames, in the words it was trained with."""
    times = tokens.timestamps_s
    duration_s = times[-1] if tokens.duration_s is None else tokens.duration_s
    shown = ",".join(f"{time:.2f}s" for time in times)
    return (
        f"The video lasts for {duration_s:.2f} seconds, and {len(times)} frames are uniformly sampled from it. "
        f"These frames are located at {shown}.Please answer the following questions related to this video."
    )
