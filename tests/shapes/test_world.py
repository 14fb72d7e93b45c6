"""Laws of the scenes, over many seeds."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from aot.shapes.world import BEATS, COLORS, MOTIONS, RADII, SHAPES, SIDE, Scene, Thing, sample_scene

SCENES = [sample_scene(seed) for seed in range(400)]
EVERY_HALF_BEAT = [beat / 2 for beat in range(2 * BEATS)]


def test_a_scene_is_its_seed() -> None:
    assert sample_scene(12) == sample_scene(12)
    assert len({repr(scene.things) for scene in SCENES}) == len(SCENES)


@pytest.mark.parametrize("scene", SCENES[:120], ids=lambda scene: scene.seed)
def test_things_stay_in_the_picture_and_never_touch(scene: Scene) -> None:
    for time in EVERY_HALF_BEAT:
        seen = [thing for thing in scene.things if thing.seen(time)]
        for index, thing in enumerate(seen):
            assert all(thing.radius <= at <= SIDE - thing.radius for at in thing.position(time))
            for other in seen[index + 1 :]:
                assert math.dist(thing.position(time), other.position(time)) > thing.radius + other.radius


def test_every_thing_has_a_name_of_its_own_whatever_color_it_turns() -> None:
    for scene in SCENES:
        names = [name for thing in scene.things for name in {thing.name, f"{thing.turns or thing.color} {thing.shape}"}]
        assert len(names) == len(set(names))


def test_sizes_can_be_told_apart() -> None:
    assert max(RADII["small"]) * 1.5 < min(RADII["large"])
    for thing in things():
        assert RADII[thing.size][0] <= thing.radius <= RADII[thing.size][1]


def test_a_thing_that_moves_goes_far_enough_to_be_seen_moving() -> None:
    for thing in things():
        way = math.dist(thing.position(thing.first), thing.position(thing.stop))
        assert way == 0 if thing.motion == "still" else way >= 17.99


def test_a_cut_parts_the_scene_in_two_places() -> None:
    for scene in SCENES:
        assert len(scene.backgrounds) == (1 if scene.cut is None else 2)
        if scene.cut is not None:
            spans = {(thing.first, thing.stop) for thing in scene.things}
            assert spans <= {(0, scene.cut), (scene.cut, BEATS)}
            assert scene.background_at(scene.cut - 0.1) != scene.background_at(scene.cut)


def test_a_flash_is_one_beat_long_and_lone() -> None:
    for scene in SCENES:
        flashes = [thing for thing in scene.things if thing.flashes]
        assert len(flashes) <= 1
        for thing in flashes:
            assert [thing.seen(beat) for beat in range(BEATS)].count(True) == 1
            assert thing.seen(thing.first + 0.9)
            assert not thing.seen(thing.first + 1.0)


def test_a_color_turns_once_while_it_is_seen() -> None:
    turning = [thing for thing in things() if thing.turns]
    for thing in turning:
        assert thing.first < thing.turns_at < thing.stop
        assert (thing.color_at(thing.turns_at - 0.1), thing.color_at(thing.turns_at)) == (thing.color, thing.turns)


def test_nothing_is_rare_and_nothing_is_usual() -> None:
    shares = {
        "cut": sum(scene.cut is not None for scene in SCENES) / len(SCENES),
        "flash": sum(any(thing.flashes for thing in scene.things) for scene in SCENES) / len(SCENES),
        "turn": sum(any(thing.turns for thing in scene.things) for scene in SCENES) / len(SCENES),
        "late": sum(thing.first > 0 for thing in things()) / len(things()),
    }
    assert all(0.1 < share < 0.5 for share in shares.values()), shares
    for names, counts in (
        (COLORS, Counter(thing.color for thing in things())),
        (SHAPES, Counter(thing.shape for thing in things())),
        (tuple(MOTIONS), Counter(thing.motion for thing in things())),
    ):
        assert set(counts) == set(names)
        assert min(counts.values()) > 0.4 * len(things()) / len(names)


def things() -> list[Thing]:
    return [thing for scene in SCENES for thing in scene.things]
