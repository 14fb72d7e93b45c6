"""Draw pictures of a scene."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aot.shapes.world import SIDE, Background, Scene, Thing

__all__ = ["render", "visible_share"]

Floats = NDArray[np.floating[Any]]

PAINT = {
    "red": (228, 36, 36),
    "orange": (250, 138, 20),
    "yellow": (250, 226, 40),
    "green": (40, 178, 60),
    "cyan": (50, 214, 224),
    "blue": (50, 84, 240),
    "purple": (176, 60, 214),
    "white": (246, 246, 246),
}


def render(scene: Scene, times: Sequence[float], side: int = SIDE) -> NDArray[np.uint8]:
    """Return noisy pictures of `scene` at `times` (in beats), as RGB [F, side, side, 3]."""
    rng = np.random.default_rng([scene.seed, 11])
    scale = side / SIDE
    canvases = [_paint_background(background, side) for background in scene.backgrounds]
    frames = np.empty((len(times), side, side, 3), np.float32)
    for frame, time in zip(frames, times, strict=True):
        frame[:] = canvases[scene.backgrounds.index(scene.background_at(time))]
        for thing in scene.things:
            if thing.seen(time):
                _paint(frame, thing, time, scale)
    if scene.noise:
        frames += rng.standard_normal(frames.shape, dtype=np.float32) * scene.noise
    shown: NDArray[np.uint8] = frames.clip(0, 255).astype(np.uint8)
    return shown


def visible_share(thing: Thing, time: float, cells: int) -> Floats:
    """Return the share of each grid cell that `thing` covers at `time`: [cells, cells], 0 .. 1."""
    share = np.zeros((SIDE, SIDE), np.float32)
    if thing.seen(time):
        rows, cols, mask = _mask(thing, time, 1.0, SIDE)
        share[rows, cols] = mask
    step = SIDE // cells
    shares: Floats = share[: cells * step, : cells * step].reshape(cells, step, cells, step).mean((1, 3))
    return shares


def _paint_background(background: Background, side: int) -> Floats:
    rng = np.random.default_rng(background.seed)
    axis = np.linspace(-0.5, 0.5, side, dtype=np.float32)
    light: Floats = background.ramp[0] * axis[:, None] + background.ramp[1] * axis[None, :]
    coarse = rng.standard_normal((background.blocks, background.blocks)).astype(np.float32)
    index = np.arange(side) * background.blocks // side
    light = light + background.texture * coarse[index][:, index]
    tinted: Floats = np.asarray(background.tint, np.float32) + light[..., None]
    return tinted


def _paint(frame: Floats, thing: Thing, time: float, scale: float) -> None:
    rows, cols, mask = _mask(thing, time, scale, frame.shape[0])
    paint = np.asarray(PAINT[thing.color_at(time)], np.float32)
    patch = frame[rows, cols]
    patch += mask[..., None] * (paint - patch)


def _mask(thing: Thing, time: float, scale: float, side: int) -> tuple[slice, slice, Floats]:
    """Return row and column slices around `thing`, and the covered share of each pixel in them."""
    x, y = (value * scale for value in thing.position(time))
    radius = thing.radius * scale
    cols = slice(max(0, math.floor(x - radius - 1)), min(side, math.ceil(x + radius + 1)))
    rows = slice(max(0, math.floor(y - radius - 1)), min(side, math.ceil(y + radius + 1)))
    dx = np.arange(cols.start, cols.stop, dtype=np.float32)[None, :] + 0.5 - x
    dy = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] + 0.5 - y
    return rows, cols, np.clip(0.5 - _distance(thing.shape, dx, dy, radius), 0, 1)


def _distance(shape: str, dx: Floats, dy: Floats, radius: float) -> Floats:
    """Return each pixel's signed distance to the outline of `shape`, in pixels, negative inside.

    `dx` and `dy` are the offsets of pixels from the center. The distance is accurate only near the
    outline, which is enough to smooth the edge.
    """
    if shape == "circle":
        return np.hypot(dx, dy) - 0.9 * radius
    if shape == "square":
        return np.maximum(abs(dx), abs(dy)) - 0.8 * radius
    if shape == "triangle":
        slope: Floats = 0.894 * abs(dx) - 0.447 * dy - 0.447 * radius
        triangle: Floats = np.maximum(dy - 0.7 * radius, slope)
        return triangle
    if shape == "cross":
        long, short = np.maximum(abs(dx), abs(dy)), np.minimum(abs(dx), abs(dy))
        return np.maximum(long - radius, short - 0.3 * radius)
    return _star_distance(dx, dy, radius)


def _star_distance(dx: Floats, dy: Floats, radius: float) -> Floats:
    """Return each pixel's signed distance to the outline of a five-pointed star, one point up."""
    # By symmetry, every tenth of the circle maps to the same straight edge.
    fifth = 2 * math.pi / 5
    angle = abs((np.arctan2(dx, -dy) + fifth / 2) % fifth - fifth / 2)
    distance = np.hypot(dx, dy)
    along, across = distance * np.cos(angle), distance * np.sin(angle)
    inner = 0.42 * radius
    edge_x, edge_y = inner * math.cos(fifth / 2) - radius, inner * math.sin(fifth / 2)
    return (across * -edge_x + (along - radius) * edge_y) / math.hypot(edge_x, edge_y)
