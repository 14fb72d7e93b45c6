"""What the pictures of films show is what the labels say."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from aot.shapes.film import ABSENT, CLEAR, FRAMES, SAMPLED_TIMES, Film, Hold
from aot.shapes.film_sampling import MOST_THINGS, sample_film
from aot.shapes.questions import FAMILIES, NUMBERS, questions
from aot.shapes.render import PAINT, render, shown_shares
from aot.shapes.world import BEATS, MOTIONS, SIDE, Background, Thing, View

FILMS = [sample_film(seed) for seed in range(24)]
ASKED = [(film, qa) for film in FILMS for qa in questions(film)]
GRAY = Background(tint=(60.0, 60.0, 60.0), ramp=(0.0, 0.0), texture=0.0, blocks=3, seed=0)
SCALE = 2  # pixels per unit of length


@cache
def pictures(film: Film) -> np.ndarray:
    """The sampled frames without noise."""
    return render(replace(film, noise=0.0), SAMPLED_TIMES, SIDE * SCALE).astype(np.int16)


def painted(film: Film, thing: Thing, frame: int) -> np.ndarray | None:
    """Which pixels have the color of the thing, or None if something else has the color too."""
    view = film.sampled_views[frame]
    color = thing.color_at(view.time)
    if any(item.color_at(view.time) == color for item in view.items if item != thing):
        return None
    return np.abs(pictures(film)[frame] - np.array(PAINT[color], np.int16)).max(-1) < 25


def named(film: Film, name: str) -> Thing:
    """The one thing that the words can mean."""
    words = name.removeprefix("the ").split()
    found = [thing for thing in film.things if all(w in (thing.shape, *thing.colors) for w in words)]
    assert len(found) == 1, f"{name} means {len(found)} things"
    return found[0]


def test_a_film_is_its_seed() -> None:
    assert sample_film(7) == sample_film(7)
    assert sample_film(7) != sample_film(8)


def test_films_have_up_to_nine_things_in_up_to_three_shots() -> None:
    assert max(len(film.things) for film in FILMS) == MOST_THINGS
    assert {len(film.shots) for film in FILMS} == {1, 2, 3}
    assert all(
        shot.first == last.stop for film in FILMS for last, shot in zip(film.shots, film.shots[1:], strict=False)
    )
    assert all((film.shots[0].first, film.shots[-1].stop) == (0, BEATS) for film in FILMS)


def test_the_ground_moves_by_exactly_the_pan() -> None:
    moved = 0
    for film in FILMS:
        bare = replace(film, noise=0.0, shots=tuple(replace(shot, items=()) for shot in film.shots))
        shown = render(bare, SAMPLED_TIMES, SIDE)
        for one, other in zip(range(FRAMES), range(1, FRAMES), strict=False):
            earlier, later = bare.sampled_views[one], bare.sampled_views[other]
            dx, dy = (round(b) - round(a) for a, b in zip(earlier.corner, later.corner, strict=True))
            if earlier.background != later.background or (dx, dy) == (0, 0):
                continue
            whole = np.pad(shown[other], ((SIDE, SIDE), (SIDE, SIDE), (0, 0)))
            back = whole[SIDE - dy : 2 * SIDE - dy, SIDE - dx : 2 * SIDE - dx]
            inside = np.s_[max(0, dy) : SIDE + min(0, dy), max(0, dx) : SIDE + min(0, dx)]
            assert np.array_equal(shown[one][inside], back[inside])
            if abs(dx) + abs(dy) > 6:
                assert (shown[one] != shown[other]).any(-1).mean() > 0.3  # the difference is everywhere
                moved += 1
    assert moved > 25


def test_a_share_is_what_the_picture_shows_of_a_thing() -> None:
    compared = 0
    for film in FILMS[:10]:
        for thing in film.things:
            alone = View(0.0, GRAY, (replace(thing, x=45.0, y=45.0, motion="still"),))
            assert next(iter(shown_shares(replace(alone, time=float(thing.first))).values())) == pytest.approx(
                1, abs=0.02
            )
            sizes = {
                frame: found.sum() for frame in range(FRAMES) if (found := painted(film, thing, frame)) is not None
            }
            shares = film.shares[thing]
            most = max(sizes, key=lambda frame: shares[frame], default=None)
            if most is None or shares[most] < 0.99:
                continue
            for frame, size in sizes.items():
                assert size / sizes[most] == pytest.approx(shares[frame], abs=0.15), (film.seed, thing.name, frame)
                compared += 1
    assert compared > 200


def test_things_hide_each_other_and_leave_the_picture() -> None:
    hidden = out = 0
    for film in FILMS:
        for view in film.sampled_views:
            for item, share in shown_shares(view).items():
                if item.shape == "post":
                    continue
                lone = shown_shares(replace(view, items=(item,)))[item]
                hidden += share < min(CLEAR, lone)
                out += lone < CLEAR
    frames = len(FILMS) * FRAMES
    assert hidden > 0.2 * frames
    assert out > 0.2 * frames


def test_a_hold_repeats_the_picture_but_for_noise() -> None:
    for film in FILMS:
        times = [film.action_time(time) for time in SAMPLED_TIMES]
        same = [frame for frame in range(1, FRAMES) if times[frame] == times[frame - 1]]
        assert 2 <= len(same) <= 8
        for frame in same:
            assert np.array_equal(pictures(film)[frame], pictures(film)[frame - 1])
    assert (render(FILMS[0], [0.0, 0.0])[0] != render(FILMS[0], [0.0, 0.0])[1]).any()


def test_the_action_takes_its_beats_and_stands_still_in_holds() -> None:
    film = Film(0, (), (Hold(2.0, 1.0), Hold(6.0, 3.0)), 0.0)  # at twice the speed between the holds
    times = {0.5: 1.0, 1.0: 2.0, 1.9: 2.0, 2.5: 3.0, 4.0: 6.0, 7.0: 6.0, 7.5: 7.0, 8.0: 8.0}
    assert {time: film.action_time(time) for time in times} == pytest.approx(times)


def test_every_thing_is_seen_long_enough_and_a_flash_is_not() -> None:
    for film in FILMS:
        for thing, shares in film.shares.items():
            clear = sum(share >= CLEAR for share in shares)
            assert 1 <= clear <= 2 if thing.flashes else clear >= 3
        assert len([thing for thing in film.things if thing.flashes]) <= 1


def test_answers_name_what_is_unambiguous() -> None:
    for film, qa in ASKED:
        if qa.named and not (qa.kind == "exists" and qa.answer == "no"):
            assert {film.things[index] for index in qa.reference} == {named(film, name) for name in qa.named}
        elif qa.named:
            assert qa.named[0] not in {thing.name for thing in film.things}


def centers(film: Film, thing: Thing) -> dict[int, np.ndarray]:
    """(x, y) of the thing's pixels in frames that show it as a whole."""
    found = {}
    for frame, share in enumerate(film.shares[thing]):
        if share > 0.99 and (mask := painted(film, thing, frame)) is not None:
            found[frame] = np.argwhere(mask).mean(0)[::-1] / SCALE
    return found


def test_where_and_motion_are_what_the_pixels_do() -> None:
    checked: Counter[str] = Counter()
    for film, qa in ASKED:
        if qa.family not in ("where", "motion"):
            continue
        found = centers(film, named(film, qa.named[0]))
        if qa.family == "motion" and len(found) > 1:
            way = found[max(found)] - found[min(found)]
            if qa.answer == "nowhere":
                assert np.abs(way).max() < 5, (film.seed, qa)
            else:
                assert way @ MOTIONS[qa.answer] > -1, (film.seed, qa)
                assert np.abs(way).max() == np.abs(way @ MOTIONS[qa.answer]), (film.seed, qa)
            checked["motion"] += 1
        frame = {"where_start": 0, "where_end": FRAMES - 1}.get(qa.kind, next(iter(found), None))
        if qa.family == "where" and frame in found:
            x, y = found[frame]
            answer = f"{'top' if y < SIDE / 2 else 'bottom'} {'left' if x < SIDE / 2 else 'right'}"
            assert answer == qa.answer, (film.seed, qa)
            checked[qa.kind] += 1
    assert checked["motion"] > 40
    assert min(checked[kind] for kind in ("where", "where_start", "where_end")) > 5


def test_order_and_fate_are_what_the_frames_show() -> None:
    checked: Counter[str] = Counter()
    for film, qa in ASKED:
        if qa.family != "order":
            continue
        checked[qa.kind] += 1
        shares = [film.shares[named(film, name)] for name in qa.named]
        clear = [[frame for frame, share in enumerate(each) if share >= CLEAR] for each in shares]
        shown = [[frame for frame, share in enumerate(each) if share >= ABSENT] for each in shares]
        if qa.kind == "order_whole":
            start, end = shares[0][0] >= ABSENT, shares[0][-1] >= ABSENT
            assert {(True, True): "stays", (False, True): "appears", (True, False): "disappears"}[
                start, end
            ] == qa.answer
            continue
        mine = qa.named.index(qa.answer)
        if qa.kind == "order_appear":
            assert clear[mine][0] < shown[1 - mine][0]
        else:
            assert shown[mine][-1] < clear[1 - mine][-1]
    assert min(checked.values()) > 20


def test_counts_are_of_things_that_are_clearly_there_or_not() -> None:
    for film, qa in ASKED:
        if qa.family == "count":
            frames = {"count_start": [0], "count_end": [FRAMES - 1]}.get(qa.kind, range(FRAMES))
            seen = [max(shares[frame] for frame in frames) for shares in film.shares.values()]
            assert qa.answer == NUMBERS[sum(share >= CLEAR for share in seen)]
            assert not any(ABSENT < share < CLEAR for share in seen)


def test_films_ask_of_every_family_but_descriptions() -> None:
    assert {qa.family for _, qa in ASKED} == set(FAMILIES) - {"describe"}
