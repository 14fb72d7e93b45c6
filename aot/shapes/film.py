"""Define films: shots of a camera that pans over textured ground, with things that hide each other.

A film is harder than a `Scene` in the ways real videos are: the whole picture changes when the
camera moves, things pass behind posts, behind each other and out of the picture, the picture holds
still for a while, and shots are cut. Like a scene, a film lasts `BEATS` seconds. Its action also
takes `BEATS` beats, but runs faster between the holds.

Ground truth is what the `FRAMES` evenly sampled frames show. A thing is clearly visible in a frame
that shows at least `CLEAR` of its area, and absent from one that shows less than `ABSENT`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from aot.shapes.render import shown_shares
from aot.shapes.world import BEATS, FRAMES_PER_SECOND, MIDDLE_MARGIN, MOTIONS, SIDE, Background, Thing, View
from aot.video.sampling import spread

__all__ = ["ABSENT", "CLEAR", "FRAMES", "SAMPLED_TIMES", "WHOLE", "Film", "Hold", "Shot"]

FRAMES = 16
SAMPLED_TIMES = tuple(index / FRAMES_PER_SECOND for index in spread(BEATS * FRAMES_PER_SECOND, FRAMES))
CLEAR, WHOLE, ABSENT = 0.6, 0.95, 0.1
_STILL_WAY, _MOVING_WAY = 4.0, 18.0  # a thing that goes less or more than this across the picture is still or moves


@dataclass(frozen=True, slots=True)
class Hold:
    """The action stands still for `seconds` when it has reached beat `at`."""

    at: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Shot:
    """What the camera films in the beats `first` .. `stop` of the action.

    `items` are things and posts in the order of painting. The picture's top left corner starts at
    (x, y) on the ground and moves by `speed` per beat in the direction `pan`, from beat `pan_first`
    to beat `pan_stop`.
    """

    first: int
    stop: int
    ground: Background
    items: tuple[Thing, ...]
    pan: str
    x: float
    y: float
    speed: float
    pan_first: float
    pan_stop: float

    def view(self, time: float) -> View:
        """Return what the camera sees at beat `time` of the action."""
        return View(time, self.ground, tuple(item for item in self.items if item.seen(time)), self.corner(time))

    def corner(self, time: float) -> tuple[float, float]:
        """Return the position of the picture's top left corner on the ground."""
        dx, dy = MOTIONS[self.pan]
        way = self.speed * (min(max(time, self.pan_first), self.pan_stop) - self.pan_first)
        return self.x + dx * way, self.y + dy * way


@dataclass(frozen=True)
class Film:
    """Consecutive shots with holds; what a viewer can tell follows from the sampled frames."""

    seed: int
    shots: tuple[Shot, ...]
    holds: tuple[Hold, ...]
    noise: float

    def action_time(self, time: float) -> float:
        """Return the beat of the action that the film has reached after `time` seconds."""
        rate = BEATS / (BEATS - sum(hold.seconds for hold in self.holds))
        for hold in self.holds:
            if time * rate <= hold.at:
                break
            time = max(time - hold.seconds, hold.at / rate)
        return time * rate

    def view(self, time: float) -> View:
        """Return what the picture shows after `time` seconds."""
        beat = self.action_time(time)
        return next(shot for shot in reversed(self.shots) if beat >= shot.first).view(beat)

    @cached_property
    def things(self) -> tuple[Thing, ...]:
        """Return the things of all shots, without posts."""
        return tuple(item for shot in self.shots for item in shot.items if item.shape != "post")

    @cached_property
    def sampled_views(self) -> tuple[View, ...]:
        """Return the views of the sampled frames."""
        return tuple(self.view(time) for time in SAMPLED_TIMES)

    @cached_property
    def shares(self) -> dict[Thing, tuple[float, ...]]:
        """Return for each thing the share of its area that each sampled frame shows."""
        frames = [shown_shares(view) for view in self.sampled_views]
        return {thing: tuple(frame.get(thing, 0.0) for frame in frames) for thing in self.things}

    # What a viewer can tell: the same facts as those of `Scene`.

    @property
    def cuts(self) -> tuple[int, ...]:
        """Return the beats at which a new shot starts."""
        return tuple(shot.first for shot in self.shots[1:])

    def counts(self) -> dict[str, int]:
        """Return the counts that no half-visible thing makes ambiguous."""
        counts = {"count": len(self.things)}
        for kind, frame in (("count_start", 0), ("count_end", -1)):
            shares = [shares[frame] for shares in self.shares.values()]
            if not any(ABSENT < share < CLEAR for share in shares):
                counts[kind] = sum(share >= CLEAR for share in shares)
        return counts

    def size(self, thing: Thing) -> str | None:
        """Return the size of `thing`, or None if no frame shows the whole thing."""
        return thing.size if max(self.shares[thing]) >= WHOLE else None

    def motion(self, thing: Thing) -> str | None:
        """Return the way of `thing` across the picture, a key of `MOTIONS`, or None if it is mixed.

        The camera's motion counts too: a thing that the camera follows is still.
        """
        path = self._path(thing)
        if thing.flashes or len(path) < 2:
            return None
        if max(math.dist(path[0], at) for at in path) < _STILL_WAY:
            return "still"
        ways = [(x - path[0][0], y - path[0][1]) for x, y in path]
        for motion, (dx, dy) in list(MOTIONS.items())[:4]:
            along = [x * dx + y * dy for x, y in ways]
            across = max(abs(x * dy) + abs(y * dx) for x, y in ways)
            steady = all(later >= earlier - 1 for earlier, later in pairwise(along))
            if along[-1] >= max(_MOVING_WAY, 3 * across) and steady:
                return motion
        return None

    def places(self, thing: Thing) -> dict[str, tuple[float, float]]:
        """Return the position in the picture for each kind of question about it."""
        ends = {"where_start": 0, "where_end": FRAMES - 1}
        shown = {kind: frame for kind, frame in ends.items() if self.shares[thing][frame] >= WHOLE}
        if shown:
            return {kind: self._position(thing, frame) for kind, frame in shown.items()}
        path = self._path(thing)
        quadrants = {(x > SIDE / 2, y > SIDE / 2) for x, y in path}
        middle = min(min(abs(x - SIDE / 2), abs(y - SIDE / 2)) for x, y in path)
        return {"where": path[0]} if len(quadrants) == 1 and middle > MIDDLE_MARGIN else {}

    def fate(self, thing: Thing) -> str | None:
        """Return "appears", "disappears" or "stays", or None if none of these is plainly right."""
        start, *between, end = self.shares[thing]
        if self.cuts or thing.flashes:
            return None
        if min(start, end) >= CLEAR and min(between) > ABSENT:
            return "stays"
        if start < ABSENT and end >= CLEAR:
            return "appears"
        return "disappears" if end < ABSENT and start >= CLEAR else None

    def comes_before(self, one: Thing, other: Thing) -> bool:
        """Return whether `one` is clearly visible before anything of `other`."""
        return self._frames(one, CLEAR)[0] < self._frames(other, ABSENT)[0]

    def leaves_before(self, one: Thing, other: Thing) -> bool:
        """Return whether `one` is gone when `other` is clearly visible for the last time."""
        return self._frames(one, ABSENT)[-1] < self._frames(other, CLEAR)[-1]

    def _frames(self, thing: Thing, share: float) -> list[int]:
        """Return the sampled frames that show at least `share` of `thing`."""
        return [frame for frame, shown in enumerate(self.shares[thing]) if shown >= share]

    def _path(self, thing: Thing) -> list[tuple[float, float]]:
        """Return the positions in the picture in all frames where `thing` is clearly visible."""
        return [self._position(thing, frame) for frame in self._frames(thing, CLEAR)]

    def _position(self, thing: Thing, frame: int) -> tuple[float, float]:
        view = self.sampled_views[frame]
        (x, y), (left, top) = thing.position(view.time), view.corner
        return x - left, y - top
