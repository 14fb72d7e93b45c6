"""Define scenes: which shapes exist, when they are visible and how they move.

A scene lasts `BEATS` beats of one second. The unit of length is 1/90 of the picture's side; the
unit of time is a beat. The seed alone determines a scene.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

__all__ = [
    "BEATS",
    "COLORS",
    "FRAMES_PER_SECOND",
    "MIDDLE_MARGIN",
    "MOTIONS",
    "RADII",
    "SHAPES",
    "SIDE",
    "SIZES",
    "Background",
    "Scene",
    "Thing",
    "View",
    "sample_background",
    "sample_scene",
]

SIDE = 90
BEATS = 8
FRAMES_PER_SECOND = 8
COLORS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "white")
SHAPES = ("circle", "square", "triangle", "star", "cross")
SIZES = ("small", "large")
MOTIONS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0), "still": (0.0, 0.0)}
MIDDLE_MARGIN = 5.0  # a thing nearer than this to a center line has no quadrant
RADII = {"small": (5.0, 6.0), "large": (10.0, 12.0)}

_MARGIN = 3.0
_GAP = 2.0
_ATTEMPTS = 40


@dataclass(frozen=True, slots=True)
class Thing:
    """A moving shape.

    The shape is visible in beats `first` .. `stop` - 1. It starts at (x, y) and moves by `speed`
    per beat in the direction `motion`. From beat `turns_at` on, its color is `turns`.
    """

    color: str
    shape: str
    size: str
    radius: float
    motion: str
    x: float
    y: float
    speed: float
    first: int
    stop: int
    turns: str | None = None
    turns_at: int = BEATS

    @property
    def name(self) -> str:
        """Return the first color and the shape, such as "red circle"."""
        return f"{self.color} {self.shape}"

    @property
    def colors(self) -> tuple[str, ...]:
        """Return the first color and, if the shape changes color, the second color."""
        return (self.color, self.turns) if self.turns else (self.color,)

    @property
    def flashes(self) -> bool:
        """Return whether the shape is visible for one beat only."""
        return self.stop - self.first == 1

    @property
    def fate(self) -> str:
        """Return the verb for the visibility: "flashes", "appears", "disappears" or "stays"."""
        if self.flashes:
            return "flashes"
        return "appears" if self.first > 0 else "disappears" if self.stop < BEATS else "stays"

    def position(self, time: float) -> tuple[float, float]:
        """Return (x, y) of the center at `time`."""
        dx, dy = MOTIONS[self.motion]
        way = self.speed * (time - self.first)
        return self.x + dx * way, self.y + dy * way

    def seen(self, time: float) -> bool:
        """Return whether the shape is visible at `time`."""
        return self.first <= math.floor(time) < self.stop

    def color_at(self, time: float) -> str:
        """Return the color of the shape at `time`."""
        return self.turns if self.turns and time >= self.turns_at else self.color


@dataclass(frozen=True, slots=True)
class Background:
    """A dark background of color `tint` (RGB, 0 .. 255) and varying brightness.

    Brightness rises by `ramp[0]` from top to bottom and by `ramp[1]` from left to right. `blocks` x
    `blocks` areas get random brightness of standard deviation `texture`, drawn with `seed`. The
    background's side is `reach` times the picture's.
    """

    tint: tuple[float, float, float]
    ramp: tuple[float, float]
    texture: float
    blocks: int
    seed: int
    reach: int = 1


@dataclass(frozen=True, slots=True)
class View:
    """What a picture shows at one time.

    Attributes:
        time: the time in beats, which tells where `items` are.
        background: the background.
        items: things in the order of painting; later ones hide earlier ones.
        corner: position of the picture's top left corner on the background.
    """

    time: float
    background: Background
    items: tuple[Thing, ...]
    corner: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Scene:
    """The content of a video; if the scene changes at beat `cut`, `backgrounds` has two items."""

    seed: int
    things: tuple[Thing, ...]
    backgrounds: tuple[Background, ...]
    noise: float
    cut: int | None = None

    def background_at(self, time: float) -> Background:
        """Return the background at `time`."""
        return self.backgrounds[self.cut is not None and time >= self.cut]

    def view(self, time: float) -> View:
        """Return what the picture at `time` shows."""
        return View(time, self.background_at(time), tuple(thing for thing in self.things if thing.seen(time)))

    # What a viewer can tell; the questions are made of these facts.

    @property
    def cuts(self) -> tuple[int, ...]:
        """Return the beats at which the scene changes."""
        return () if self.cut is None else (self.cut,)

    def counts(self) -> dict[str, int]:
        """Return the answers to the questions of the family "count"."""
        start, end = (sum(thing.seen(time) for thing in self.things) for time in (0.0, BEATS - 0.1))
        return {"count": len(self.things), "count_start": start, "count_end": end}

    def size(self, thing: Thing) -> str | None:
        """Return the size of `thing`."""
        return thing.size

    def motion(self, thing: Thing) -> str | None:
        """Return a key of `MOTIONS`, or None if `thing` is visible for too short a time."""
        return None if thing.flashes else thing.motion

    def places(self, thing: Thing) -> dict[str, tuple[float, float]]:
        """Return the position of `thing` for each kind of question about it."""
        if thing.motion == "still":
            return {"where": thing.position(thing.first)}
        if (thing.first, thing.stop) == (0, BEATS):
            return {"where_start": thing.position(0.0), "where_end": thing.position(BEATS - 0.1)}
        return {}

    def fate(self, thing: Thing) -> str | None:
        """Return "appears", "disappears" or "stays", or None if a cut makes all things appear."""
        return thing.fate if self.cut is None else None

    def comes_before(self, one: Thing, other: Thing) -> bool:
        """Return whether `one` appears before `other`."""
        return one.first < other.first

    def leaves_before(self, one: Thing, other: Thing) -> bool:
        """Return whether `one` disappears before `other`."""
        return one.stop < other.stop


def sample_scene(seed: int) -> Scene:
    """Return the scene of `seed`: one to four things, sometimes with a scene change."""
    rng = np.random.default_rng([seed, 7])
    cut = int(rng.integers(3, 6)) if rng.random() < 0.15 else None
    count = int(rng.choice([2, 3, 4] if cut else [1, 2, 3, 4], p=[0.3, 0.4, 0.3] if cut else [0.1, 0.25, 0.35, 0.3]))
    things: list[Thing] = []
    for first, stop in _spans(rng, count, cut):
        # Rejection sampling; a thing is left out if no attempt gives a compatible thing.
        for _ in range(_ATTEMPTS):
            thing = _sample_thing(rng, first, stop, may_turn=cut is None)
            if all(_compatible(thing, other) for other in things):
                things.append(thing)
                break
    backgrounds = tuple(sample_background(rng) for _ in range(2 if cut else 1))
    return Scene(seed, tuple(things), backgrounds, float(rng.uniform(0, 6)), cut)


def _spans(rng: np.random.Generator, count: int, cut: int | None) -> Iterator[tuple[int, int]]:
    """Yield `first` and `stop` of each thing; without a cut, the first thing is always visible."""
    if cut is not None:
        before = int(rng.integers(1, count))
        yield from [(0, cut)] * before + [(cut, BEATS)] * (count - before)
        return
    yield 0, BEATS
    kinds = rng.choice(["whole", "late", "gone", "flash"], size=count - 1, p=[0.3, 0.27, 0.2, 0.23])
    flashed = False
    for kind in kinds:
        if kind == "flash" and not flashed:
            flashed = True
            beat = int(rng.integers(1, BEATS - 1))
            yield beat, beat + 1
        elif kind == "late":
            yield int(rng.integers(2, BEATS - 2)), BEATS
        elif kind == "gone":
            yield 0, int(rng.integers(3, BEATS - 1))
        else:
            yield 0, BEATS


def _sample_thing(rng: np.random.Generator, first: int, stop: int, *, may_turn: bool) -> Thing:
    beats = stop - first
    size = str(rng.choice(SIZES, p=[0.65, 0.35] if beats == 1 else [0.5, 0.5]))
    radius = float(rng.uniform(*RADII[size]))
    color, other = (str(name) for name in rng.choice(COLORS, size=2, replace=False))
    turns = may_turn and beats == BEATS and rng.random() < 0.28
    still = turns or beats == 1 or rng.random() < 0.25
    motion = "still" if still else str(rng.choice(list(MOTIONS)[:4]))
    # The whole path stays inside the margin.
    low, high = _MARGIN + radius, SIDE - _MARGIN - radius
    way = 0.0 if still else float(rng.uniform(18, min(40, high - low)))
    dx, dy = MOTIONS[motion]
    x = rng.uniform(low + max(0.0, -dx * way), high - max(0.0, dx * way))
    y = rng.uniform(low + max(0.0, -dy * way), high - max(0.0, dy * way))
    return Thing(
        color=color,
        shape=str(rng.choice(SHAPES)),
        size=size,
        radius=radius,
        motion=motion,
        x=float(x),
        y=float(y),
        speed=way / beats,
        first=first,
        stop=stop,
        turns=other if turns else None,
        turns_at=int(rng.integers(2, BEATS - 1)) if turns else BEATS,
    )


def _compatible(thing: Thing, other: Thing) -> bool:
    """Return whether two things have different names and never touch while both are visible.

    Two things that change color are not compatible.
    """
    if thing.shape == other.shape and {*thing.colors} & {*other.colors}:
        return False
    if thing.turns and other.turns:
        return False
    times = range(max(thing.first, other.first), min(thing.stop, other.stop) + 1)
    clearance = thing.radius + other.radius + _GAP
    return all(math.dist(thing.position(time), other.position(time)) > clearance for time in times)


def sample_background(rng: np.random.Generator) -> Background:
    """Return a random background, dark enough to contrast with all colors of things."""
    level = rng.uniform(20, 95)
    tint = np.clip(level + rng.uniform(-18, 18, size=3), 5, 115)
    return Background(
        tint=(float(tint[0]), float(tint[1]), float(tint[2])),
        ramp=(float(rng.uniform(-25, 25)), float(rng.uniform(-25, 25))),
        texture=float(rng.uniform(0, 14)),
        blocks=int(rng.integers(3, 16)),
        seed=int(rng.integers(2**31)),
    )
