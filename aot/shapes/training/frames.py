"""Draw labeled frames: frames with many things for the tower, videos for the language model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aot.shapes.clips import FRAMES_PER_SECOND
from aot.shapes.render import render, visible_share
from aot.shapes.world import BEATS, COLORS, RADII, SHAPES, SIZES, Scene, Thing, sample_background, sample_scene
from aot.video.sampling import spread

__all__ = ["LabeledVideo", "crowded_frames", "labeled_video", "sample_times"]

Array = NDArray[Any]
_SEEN = 0.25  # a cell is labeled with a thing that covers more than this share of the cell


@dataclass(frozen=True, slots=True)
class LabeledVideo:
    """A scene's frames with labels.

    Attributes:
        scene: the scene that is drawn.
        times: times of the frames in beats.
        pixels: uint8 [F, 3, S, S].
        cover: [things, F, g, g], the share of each patch that each thing covers.
    """

    scene: Scene
    times: tuple[float, ...]
    pixels: Array
    cover: Array


def sample_times(frames: int) -> tuple[float, ...]:
    """Return the times (in beats) of the `frames` frames that even sampling selects from a clip."""
    return tuple(index / FRAMES_PER_SECOND for index in spread(BEATS * FRAMES_PER_SECOND, frames))


def labeled_video(seed: int, frames: int, grid: int) -> LabeledVideo:
    """Return the video of scene `seed`, labeled on a grid of `grid` x `grid` patches."""
    scene = sample_scene(seed)
    times = sample_times(frames)
    rng = np.random.default_rng([seed, 13])
    cover = np.stack([[visible_share(thing, time, grid) for time in times] for thing in scene.things])
    return LabeledVideo(scene, times, _as_filmed(render(scene, times), rng), cover)


def crowded_frames(seed: int, count: int, grid: int) -> tuple[Array, Array]:
    """Return frames with many things, uint8 [count, 3, S, S], and patch labels [count, g, g, 3].

    The labels are the indices of color, shape and size, from 1; 0 is background. A frame has up to
    nine things, so it gives several times more examples than a video's frame at the same cost.
    """
    rng = np.random.default_rng([seed, 17])
    pixels, labels = [], []
    for _ in range(count):
        scene = _crowd(rng, int(rng.integers(2**31)))
        pixels.append(_as_filmed(render(scene, [0.0]), rng)[0])
        labels.append(_label(scene.things, grid))
    return np.stack(pixels), np.stack(labels)


def _crowd(rng: np.random.Generator, seed: int) -> Scene:
    """Return a scene with at most one thing in each cell of a 3 x 3 grid."""
    things = []
    for slot in range(9):
        if rng.random() < 0.2:
            continue
        size = str(rng.choice(SIZES))
        radius = float(rng.uniform(*RADII[size]))
        room = 15 - radius
        x, y = (30 * cell + 15 + rng.uniform(-room, room) for cell in (slot % 3, slot // 3))
        things.append(Thing(
            str(rng.choice(COLORS)), str(rng.choice(SHAPES)), size, radius, "still", float(x), float(y), 0.0, 0, BEATS
        ))  # fmt: skip
    return Scene(seed, tuple(things), (sample_background(rng),), float(rng.uniform(0, 7)))


def _label(things: Sequence[Thing], grid: int) -> Array:
    labels = np.zeros((grid, grid, 3), np.int64)
    for thing in things:
        mine = visible_share(thing, 0.0, grid) > _SEEN
        labels[mine] = COLORS.index(thing.color) + 1, SHAPES.index(thing.shape) + 1, SIZES.index(thing.size) + 1
    return labels


def _as_filmed(frames: Array, rng: np.random.Generator) -> Array:
    """Blur RGB `frames` [F, S, S, 3] and vary brightness, like a codec; return [F, 3, S, S]."""
    values = frames.astype(np.float32)
    blur = rng.uniform(0, 0.5)
    for axis in (1, 2):
        values = (1 - blur) * values + blur / 2 * (np.roll(values, 1, axis) + np.roll(values, -1, axis))
    values = values * rng.uniform(0.9, 1.1) + rng.uniform(-8, 8)
    pictures: Array = values.clip(0, 255).astype(np.uint8).transpose(0, 3, 1, 2)
    return pictures
