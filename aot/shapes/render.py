"""Draw pictures of a scene."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from aot.shapes.world import SIDE, Background, Scene, Thing, View

if TYPE_CHECKING:
    from aot.shapes.film import Film

__all__ = ["render", "shown_shares", "visible_share"]

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
    # Posts only; no question names these.
    "gray": (92, 92, 92),
    "black": (10, 10, 10),
}
_POST_WIDTH = 0.06  # of a post's height


def render(scene: Scene | Film, times: Sequence[float], side: int = SIDE) -> NDArray[np.uint8]:
    """Return noisy pictures of `scene` at `times` (in beats), as RGB [F, side, side, 3]."""
    rng = np.random.default_rng([scene.seed, 11])
    grounds: dict[Background, Floats] = {}
    shown = np.empty((len(times), side, side, 3), np.uint8)
    noise = np.empty((side, side, 3), np.float32)
    for index, time in enumerate(times):
        view = scene.view(time)
        if view.background not in grounds:
            grounds[view.background] = _paint_background(view.background, side)
        frame = _paint_view(view, grounds[view.background], side)
        if scene.noise:
            rng.standard_normal(dtype=np.float32, out=noise)
            frame += np.multiply(noise, scene.noise, out=noise)
        shown[index] = frame.clip(0, 255, out=frame)
    return shown


def shown_shares(view: View) -> dict[Thing, float]:
    """Return for each item of `view` the share of its area that the picture shows, 0 .. 1."""
    free = np.ones((SIDE, SIDE), np.float32)
    shares = {}
    for item in reversed(view.items):
        rows, cols, mask = _mask(item, view.time, 1.0, SIDE, view.corner)
        shares[item] = min(1.0, float((mask * free[rows, cols]).sum()) / _area(item.shape, item.radius))
        free[rows, cols] *= 1 - mask
    return shares


@functools.lru_cache
def _area(shape: str, radius: float) -> float:
    axis = np.arange(-math.ceil(radius), math.ceil(radius), dtype=np.float32) + 0.5
    return float(np.clip(0.5 - _distance(shape, axis[None, :], axis[:, None], radius), 0, 1).sum())


def visible_share(thing: Thing, time: float, cells: int) -> Floats:
    """Return the share of each grid cell that `thing` covers at `time`: [cells, cells], 0 .. 1."""
    share = np.zeros((SIDE, SIDE), np.float32)
    if thing.seen(time):
        rows, cols, mask = _mask(thing, time, 1.0, SIDE)
        share[rows, cols] = mask
    step = SIDE // cells
    shares: Floats = share[: cells * step, : cells * step].reshape(cells, step, cells, step).mean((1, 3))
    return shares


def _paint_view(view: View, ground: Floats, side: int) -> Floats:
    """Return the picture of `view` without noise: float32 [side, side, 3]."""
    scale = side / SIDE
    # Whole pixels: the ground and what stands on it move by exactly the same way.
    left, top = (round(value * scale) for value in view.corner)
    frame: Floats = ground[top : top + side, left : left + side].copy()
    for item in view.items:
        rows, cols, mask = _mask(item, view.time, scale, side, (left, top))
        paint = np.asarray(PAINT[item.color_at(view.time)], np.float32)
        patch = frame[rows, cols]
        patch += mask[..., None] * (paint - patch)
    return frame


def _paint_background(background: Background, picture_side: int) -> Floats:
    side = picture_side * background.reach
    rng = np.random.default_rng(background.seed)
    axis = np.linspace(-0.5, 0.5, side, dtype=np.float32)
    light: Floats = background.ramp[0] * axis[:, None] + background.ramp[1] * axis[None, :]
    coarse = rng.standard_normal((background.blocks, background.blocks)).astype(np.float32)
    index = np.arange(side) * background.blocks // side
    light = light + background.texture * coarse[index][:, index]
    tinted: Floats = np.asarray(background.tint, np.float32) + light[..., None]
    return tinted


def _mask(
    thing: Thing, time: float, scale: float, side: int, corner: tuple[float, float] = (0.0, 0.0)
) -> tuple[slice, slice, Floats]:
    """Return row and column slices around `thing`, and the covered share of each pixel in them.

    `corner` is the position of the picture's top left pixel, in pixels; outside the picture, the
    slices are empty.
    """
    x, y = (value * scale - start for value, start in zip(thing.position(time), corner, strict=True))
    radius = thing.radius * scale
    width = _POST_WIDTH * radius if thing.shape == "post" else radius
    cols = slice(max(0, math.floor(x - width - 1)), max(0, min(side, math.ceil(x + width + 1))))
    rows = slice(max(0, math.floor(y - radius - 1)), max(0, min(side, math.ceil(y + radius + 1))))
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
    if shape == "post":
        post: Floats = np.maximum(abs(dx) - _POST_WIDTH * radius, abs(dy) - radius)
        return post
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
