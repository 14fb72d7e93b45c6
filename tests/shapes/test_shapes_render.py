"""What is drawn is what the scene says."""

from __future__ import annotations

import math

import numpy as np
import pytest

from aot.shapes.render import PAINT, render, visible_share
from aot.shapes.world import BEATS, SHAPES, SIDE, Background, Scene, Thing, sample_scene

GRAY = Background(tint=(60.0, 60.0, 60.0), ramp=(0.0, 0.0), texture=0.0, blocks=3, seed=0)
# Area of every outline in squared radii, by plain geometry.
AREAS = {
    "circle": math.pi * 0.9**2,
    "square": 1.6**2,
    "triangle": 0.5 * 1.7 * 2 * (0.7 + 1.0) * 0.447 / 0.894,
    "star": 5 * 0.42 * math.sin(math.pi / 5),
    "cross": 4 * 2 * 0.3 - 4 * 0.3**2,
}


def lone(shape: str, **values: object) -> Scene:
    settings = {"x": 40.0, "y": 50.0, "speed": 0.0, "first": 0, "stop": BEATS} | values
    thing = Thing(color="red", shape=shape, size="large", radius=12.0, motion="still", **settings)  # type: ignore[arg-type]
    return Scene(0, (thing,), (GRAY,), 0.0)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_has_its_area(shape: str) -> None:
    share = visible_share(lone(shape).things[0], 0.0, 45)
    assert share.sum() * 4 == pytest.approx(AREAS[shape] * 144, rel=0.03)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("side", [SIDE, 360])
def test_shares_and_pictures_agree(shape: str, side: int) -> None:
    picture = render(lone(shape), [0.0], side)[0].astype(float)
    painted = (picture - 60) / (np.array(PAINT["red"]) - 60)
    cells = painted.reshape(15, side // 15, 15, side // 15, 3).mean((1, 3))
    share = visible_share(lone(shape).things[0], 0.0, 15)
    assert np.abs(cells - share[..., None]).max() < 0.04


def test_shapes_differ_from_each_other() -> None:
    pictures = [render(lone(shape), [0.0])[0].astype(float) for shape in SHAPES]
    for index, one in enumerate(pictures):
        assert all(np.abs(one - other).mean() > 0.5 for other in pictures[index + 1 :])


def test_the_triangle_and_the_star_point_up() -> None:
    for shape in ("triangle", "star"):
        rows = visible_share(lone(shape).things[0], 0.0, 90).sum(1)
        upper, lower = rows[:50].nonzero()[0], rows[50:].nonzero()[0]
        assert rows[upper[0] : upper[0] + 3].sum() < rows[50 + lower[-1] - 2 : 50 + lower[-1] + 1].sum()


def test_a_thing_is_seen_in_its_own_beats_only() -> None:
    scene = lone("circle", first=3, stop=4)
    red = [frame[50, 40].tolist() == list(PAINT["red"]) for frame in render(scene, np.arange(BEATS) + 0.5)]
    assert red == [beat == 3 for beat in range(BEATS)]


def test_a_moving_thing_is_where_the_scene_says() -> None:
    scene = sample_scene(5)
    for time in (0.0, 2.3, 7.9):
        for thing in scene.things:
            if thing.seen(time):
                share = visible_share(thing, time, 90)
                rows, cols = np.mgrid[0:90, 0:90] + 0.5
                x, y = thing.position(time)
                assert (share * cols).sum() / share.sum() == pytest.approx(x, abs=0.6)
                assert (share * rows).sum() / share.sum() == pytest.approx(y, abs=2.5)  # a triangle is heavier below


def test_pictures_are_a_function_of_the_seed_and_noise_moves() -> None:
    scene = sample_scene(9)
    frames = render(scene, [0.0, 0.0])
    assert np.array_equal(frames, render(scene, [0.0, 0.0]))
    assert (frames[0] != frames[1]).any() == (scene.noise > 0)
    assert frames.dtype == np.uint8
    assert frames.shape == (2, SIDE, SIDE, 3)


def test_a_cut_changes_the_background() -> None:
    scene = next(scene for scene in map(sample_scene, range(100)) if scene.cut is not None)
    before, after, later = render(scene, [scene.cut - 0.01, scene.cut, scene.cut + 1.0]).astype(float)
    assert np.median(np.abs(before - after)) > 2 * np.median(np.abs(after - later))
