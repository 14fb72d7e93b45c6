"""Sample films: the seed alone determines shots, things, posts, camera and holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from aot.shapes.film import ABSENT, CLEAR, SAMPLED_TIMES, Film, Hold, Shot
from aot.shapes.render import shown_shares
from aot.shapes.world import BEATS, COLORS, MOTIONS, RADII, SHAPES, SIDE, SIZES, Thing, sample_background

__all__ = ["MOST_THINGS", "sample_film"]

MOST_THINGS = 9
_REACH = 2  # the ground's side in pictures
_LEAST_FRAMES = 3  # every thing but a flash is clearly visible in this many sampled frames
_COUNTS = {1: (5, 9), 2: (3, 6), 3: (3, 4)}  # shots of a film: fewest and most things in a shot
_ATTEMPTS = 40


def sample_film(seed: int) -> Film:
    """Return the film of `seed`: one to three shots with up to nine things in all."""
    rng = np.random.default_rng([seed, 23])
    edges, holds = _timing(rng)
    film = Film(seed, (), holds, float(rng.uniform(0, 6)))
    times = [film.action_time(time) for time in SAMPLED_TIMES]
    fewest, most = _COUNTS[len(edges) - 1]
    flashing, turning = (int(rng.integers(len(edges) - 1)) if rng.random() < share else -1 for share in (0.3, 0.3))
    for number, (first, stop) in enumerate(pairwise(edges)):
        shot = _empty_shot(rng, first, stop)
        filmed = [time for time in times if first <= time < stop]
        wanted = [
            *(["flash"] if number == flashing else []),
            *(["turn"] if number == turning else []),
            *["plain"] * int(rng.integers(fewest, most + 1)),
        ][: min(most, MOST_THINGS - len(film.things))]
        for kind in wanted:
            # Rejection sampling; a thing is left out if no attempt gives one that can be seen.
            for _ in range(_ATTEMPTS):
                thing = _sample_thing(rng, shot, kind, holds)
                items = list(shot.items)
                items.insert(int(rng.integers(len(items) + 1)), thing)
                fuller = replace(shot, items=tuple(items))
                if _named_apart(thing, (*film.things, *shot.items)) and _all_visible(fuller, filmed):
                    shot = fuller
                    break
        film = replace(film, shots=(*film.shots, shot))
    return film


def _timing(rng: np.random.Generator) -> tuple[tuple[int, ...], tuple[Hold, ...]]:
    """Return the edges of the shots and the holds, so that every shot has enough sampled frames."""
    while True:
        edges = (0, *_cuts(rng), BEATS)
        holds = _holds(rng, edges)
        times = [Film(0, (), holds, 0.0).action_time(time) for time in SAMPLED_TIMES]
        if all(sum(first <= time < stop for time in times) > _LEAST_FRAMES for first, stop in pairwise(edges)):
            return edges, holds


def _cuts(rng: np.random.Generator) -> tuple[int, ...]:
    shots = rng.choice([1, 2, 3], p=[0.3, 0.4, 0.3])
    if shots == 1:
        return ()
    return (int(rng.integers(3, 6)),) if shots == 2 else (int(rng.integers(2, 4)), int(rng.integers(5, 7)))


def _holds(rng: np.random.Generator, edges: Sequence[int]) -> tuple[Hold, ...]:
    """Return one or two holds, in different shots, of 2 to 4 seconds in all."""
    seconds = float(rng.uniform(2, 4))
    spans = list(pairwise(edges))
    chosen = sorted(rng.choice(len(spans), size=min(len(spans), int(rng.integers(1, 3))), replace=False))
    return tuple(Hold(float(rng.uniform(spans[k][0] + 0.2, spans[k][1] - 0.2)), seconds / len(chosen)) for k in chosen)


def _empty_shot(rng: np.random.Generator, first: int, stop: int) -> Shot:
    """Return a shot of posts on textured ground, with a camera that pans for most of the time."""
    ground = replace(
        sample_background(rng),
        texture=float(rng.uniform(18, 32)),
        blocks=int(rng.integers(12, 28)),
        reach=_REACH,
    )
    pan = str(rng.choice(list(MOTIONS), p=[0.3, 0.3, 0.15, 0.15, 0.1]))
    beats = stop - first
    pan_first = first + float(rng.uniform(0, 0.3)) * beats
    pan_stop = stop - float(rng.uniform(0, 0.3)) * beats
    way = 0.0 if pan == "still" else float(rng.uniform(30, min(80, 20 * beats)))
    dx, dy = MOTIONS[pan]
    room = SIDE * (_REACH - 1)
    x = rng.uniform(max(0.0, -dx * way), room - max(0.0, dx * way))
    y = rng.uniform(max(0.0, -dy * way), room - max(0.0, dy * way))
    shot = Shot(first, stop, ground, (), pan, float(x), float(y), way / (pan_stop - pan_first), pan_first, pan_stop)
    posts = tuple(_sample_post(rng, shot) for _ in range(int(rng.integers(1, 4))))
    return replace(shot, items=posts)


def _sample_post(rng: np.random.Generator, shot: Shot) -> Thing:
    x, y = _somewhere(rng, shot, 0.0)
    color, radius = str(rng.choice(["gray", "black"])), float(rng.uniform(80, 120))
    return Thing(color, "post", "large", radius, "still", x, y, 0.0, shot.first, shot.stop)


def _somewhere(rng: np.random.Generator, shot: Shot, margin: float) -> tuple[float, float]:
    """Return a position on the ground that the camera sees at some time of the shot."""
    left, top = shot.corner(float(rng.uniform(shot.first, shot.stop)))
    x, y = rng.uniform(margin, SIDE - margin, size=2)
    return left + float(x), top + float(y)


def _sample_thing(rng: np.random.Generator, shot: Shot, kind: str, holds: Sequence[Hold]) -> Thing:
    size = str(rng.choice(SIZES))
    radius = float(rng.uniform(*RADII[size]))
    color, other = (str(name) for name in rng.choice(COLORS, size=2, replace=False))
    x, y = _somewhere(rng, shot, radius)
    first, stop = shot.first, shot.stop
    if kind == "flash":
        # A flash during a hold would not be short.
        beats = [beat for beat in range(first, stop) if not any(beat <= hold.at < beat + 1 for hold in holds)]
        first = int(rng.choice(beats or [first]))
        stop = first + 1
    still = kind == "flash" or rng.random() < 0.4
    motion = "still" if still else str(rng.choice(list(MOTIONS)[:4]))
    speed = 0.0 if still else float(rng.uniform(20, 50)) / (stop - first)
    turns_at = float(rng.uniform(0.3, 0.7)) * (stop - first) + first
    thing = Thing(color, str(rng.choice(SHAPES)), size, radius, motion, x, y, speed, first, stop)
    return replace(thing, turns=other, turns_at=round(turns_at)) if kind == "turn" else thing


def _named_apart(thing: Thing, others: Sequence[Thing]) -> bool:
    """Return whether no other thing has the shape and a color of `thing`."""
    return not any(thing.shape == other.shape and {*thing.colors} & {*other.colors} for other in others)


def _all_visible(shot: Shot, times: Sequence[float]) -> bool:
    """Return whether the frames at `times` show every thing long enough to be asked about."""
    frames = [(time, shown_shares(shot.view(time))) for time in times]
    for thing in shot.items:
        if thing.shape == "post":
            continue
        clear = [time for time, shares in frames if shares.get(thing, 0.0) >= CLEAR]
        if thing.flashes:
            glimpsed = [time for time, shares in frames if shares.get(thing, 0.0) >= ABSENT]
            if not clear or len(glimpsed) > 2:
                return False
        elif len(clear) < _LEAST_FRAMES:
            return False
        if thing.turns and not clear[0] < thing.turns_at <= clear[-1]:
            return False
    return True
