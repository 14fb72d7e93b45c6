"""Label every visual token and every thing with class indices for training."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from aot.compression.ops.grid import pool, pooled_grid
from aot.shapes.training.frames import LabeledVideo
from aot.shapes.training.network import FATES, GRID
from aot.shapes.world import COLORS, MOTIONS, SHAPES, SIDE, SIZES, Thing
from aot.types import Pooling

__all__ = ["GROUPS", "IGNORE", "POOL", "SIDE_CELLS", "end_cells", "is_first", "same_thing", "token_labels", "words_of"]

POOL = Pooling("bilinear", 2)
SIDE_CELLS = pooled_grid((GRID, GRID), POOL)[0]
IGNORE = -100
GROUPS = (COLORS, SHAPES, SIZES, tuple(MOTIONS), FATES)
_SHOWN = 0.2  # a token shows the thing that covers most of its cell, if more than this share


def same_thing(thing: Tensor) -> Tensor:
    """Return bool [B, K, K]: whether each pair of tokens shows the same thing."""
    return (thing[:, :, None] == thing[:, None, :]) & (thing >= 0)[:, :, None]


def is_first(thing: Tensor, beat: Tensor | None = None) -> Tensor:
    """Return 1 for the first token of each thing, 0 for later tokens, `IGNORE` for background.

    With `beat`, return 1 for the first token of each thing in each beat. The number of ones in a
    beat is then the number of visible things.
    """
    earlier = same_thing(thing).tril(-1)
    if beat is not None:
        earlier &= beat[:, :, None] == beat[:, None, :]
    return torch.where(thing >= 0, (~earlier.any(-1)).long(), IGNORE)


def end_cells(thing: Thing) -> list[int]:
    """Return row and column of the cell where `thing` appears, then of its last visible cell."""
    ends = (thing.position(thing.first), thing.position(thing.stop - 0.1))
    return [int(at * SIDE_CELLS / SIDE) for x, y in ends for at in (y, x)]


def words_of(thing: Thing, video: LabeledVideo) -> tuple[int, ...]:
    """Return for each group of `GROUPS` the index of the word that describes `thing`."""
    lasts = video.scene.cut is not None and not thing.flashes
    fate = "turns" if thing.turns else "stays" if lasts else thing.fate
    return (
        COLORS.index(thing.color), SHAPES.index(thing.shape), SIZES.index(thing.size),
        list(MOTIONS).index(thing.motion), FATES.index(fate),
    )  # fmt: skip


def token_labels(videos: list[LabeledVideo]) -> dict[str, Tensor]:
    """Return the labels of all pooled tokens; each name of a label maps to a tensor [B, F * n].

    "thing" is the index of the thing that a token shows (-1: background), "beat" the beat of the
    frame; the other labels are class indices.
    """
    each = [_video_labels(video) for video in videos]
    return {name: torch.stack([labels[name] for labels in each]) for name in each[0]}


def _video_labels(video: LabeledVideo) -> dict[str, Tensor]:
    """Return the labels of the pooled tokens of one video, [F * n] each."""
    things, frames = video.cover.shape[:2]
    cells = int(np.prod(pooled_grid((GRID, GRID), POOL)))
    cover = torch.from_numpy(video.cover).float().reshape(things * frames, GRID * GRID, 1)
    pooled = pool(cover, (GRID, GRID), POOL).reshape(things, frames * cells)
    best = pooled.max(0)
    thing = torch.where(best.values > _SHOWN, best.indices, -1)
    beat = torch.tensor(video.times).floor().long().repeat_interleave(cells)
    labels = {"thing": thing, "beat": beat}
    frame = torch.arange(frames).repeat_interleave(cells)
    for name, table in _tables(video).items():
        labels[name] = torch.where(thing >= 0, table[thing.clamp_min(0), frame], IGNORE)
    return labels


def _tables(video: LabeledVideo) -> dict[str, Tensor]:
    """Return for each label the class of each thing in each frame, [things, F].

    The motion is `IGNORE` in frames earlier than one beat after the thing appears.
    """
    rows: dict[str, list[list[int]]] = {name: [] for name in ("color", "shape", "size", "motion", "late", "turned")}
    for thing in video.scene.things:
        # Motion is visible from one beat after the thing appears.
        knows = [time >= thing.first + 1.0 for time in video.times]
        rows["color"].append([COLORS.index(thing.color_at(time)) for time in video.times])
        rows["shape"].append([SHAPES.index(thing.shape)] * len(video.times))
        rows["size"].append([SIZES.index(thing.size)] * len(video.times))
        rows["motion"].append([list(MOTIONS).index(thing.motion) if known else IGNORE for known in knows])
        rows["late"].append([int(thing.first > 0)] * len(video.times))
        rows["turned"].append([int(time >= thing.turns_at) for time in video.times])
    return {name: torch.tensor(values) for name, values in rows.items()}
