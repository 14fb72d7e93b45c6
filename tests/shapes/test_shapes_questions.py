"""Every answer is worked out again, from the words of the question and the scene alone."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest

from aot.shapes.questions import FAMILIES, NUMBERS, QA, WORDINGS, description, questions, word
from aot.shapes.world import BEATS, COLORS, SHAPES, SIDE, Scene, Thing, sample_scene

SCENES = [sample_scene(seed) for seed in range(300)]
ALL = [(scene, qa) for scene in SCENES for qa in questions(scene)]


def meant(scene: Scene, name: str) -> Thing:
    """The one thing that the words can mean, whichever color it has at the time."""
    words = name.removeprefix("the ").split()
    found = [thing for thing in scene.things if all(w == thing.shape or w in (thing.color, thing.turns) for w in words)]
    assert len(found) == 1, f"{name} means {len(found)} things"
    return found[0]


def half(value: float, low: str, high: str) -> str:
    return low if value < SIDE / 2 else high


def quadrant(thing: Thing, time: float) -> str:
    x, y = thing.position(time)
    return f"{half(y, 'top', 'bottom')} {half(x, 'left', 'right')}"


def fate(thing: Thing) -> str:
    return "appears" if thing.first else "disappears" if thing.stop < BEATS else "stays"


ORACLES = {
    "color": lambda scene, name: meant(scene, name).color,
    "shape": lambda scene, name: meant(scene, name).shape,
    "size": lambda scene, name: meant(scene, name).size,
    "motion": lambda scene, name: meant(scene, name).motion.replace("still", "nowhere"),
    "where": lambda scene, name: quadrant(meant(scene, name), meant(scene, name).first),
    "where_start": lambda scene, name: quadrant(meant(scene, name), 0),
    "where_end": lambda scene, name: quadrant(meant(scene, name), BEATS - 0.1),
    "count": lambda scene: NUMBERS[len(scene.things)],
    "count_start": lambda scene: NUMBERS[sum(thing.first == 0 for thing in scene.things)],
    "count_end": lambda scene: NUMBERS[sum(thing.stop == BEATS for thing in scene.things)],
    "exists": lambda scene, name: "yes" if name in {thing.name for thing in scene.things} else "no",
    "order_whole": lambda scene, name: fate(meant(scene, name)),
    "order_appear": lambda scene, *names: min(names, key=lambda name: meant(scene, name).first),
    "order_leave": lambda scene, *names: min(names, key=lambda name: meant(scene, name).stop),
    "flash_any": lambda scene: "yes" if any(thing.stop - thing.first == 1 for thing in scene.things) else "no",
    "flash": lambda scene: "the " + next(thing.name for thing in scene.things if thing.stop - thing.first == 1),
    "change": lambda scene, name: meant(scene, name).turns,
    "change_from": lambda scene, name: meant(scene, name).color,
    "change_what": lambda scene: "the " + next(thing.shape for thing in scene.things if thing.turns),
    "cut": lambda scene: "yes" if len(scene.backgrounds) == 2 else "no",
    "cut_side": lambda scene, name: "before" if meant(scene, name).stop == scene.cut else "after",
    "describe": description,
}


@pytest.mark.parametrize("kind", WORDINGS)
def test_every_answer_is_right(kind: str) -> None:
    asked = [(scene, qa) for scene, qa in ALL if qa.kind == kind]
    assert len(asked) > 15
    for scene, qa in asked:
        assert qa.answer == ORACLES[kind](scene, *qa.named), (scene.seed, qa.question)


def test_a_reference_is_what_the_question_is_about() -> None:
    for scene, qa in ALL:
        if qa.named and qa.kind != "exists":
            assert {scene.things[index] for index in qa.reference} == {meant(scene, name) for name in qa.named}


def test_no_answer_is_right_without_looking() -> None:
    """The commonest answer of each kind is far from a certainty."""
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for _, qa in ALL:
        answers[qa.kind][qa.answer] += 1
    for kind, counts in answers.items():
        share = counts.most_common(1)[0][1] / counts.total()
        assert share < (0.9 if kind == "cut" else 0.75), (kind, share)


def test_what_does_not_exist_is_nearly_there() -> None:
    """Absent things wear a color that is there; nine in ten also a shape that is."""
    hard = []
    for scene, qa in ALL:
        if qa.kind == "exists" and qa.answer == "no":
            color, shape = qa.named[0].split()
            assert color in {name for thing in scene.things for name in (thing.color, thing.turns)}
            if len(scene.things) > 1:
                hard.append(shape in {thing.shape for thing in scene.things})
    assert sum(hard) / len(hard) > 0.9


def test_a_description_tells_of_every_thing_once() -> None:
    pairs = [f"{color} {shape}" for color in COLORS for shape in SHAPES]
    for scene in SCENES:
        sentences = [sentence.strip() for sentence in description(scene).split(" .") if sentence.strip()]
        named = [pair for sentence in sentences for pair in pairs if f"the {pair} is" in sentence]
        assert sorted(named) == sorted(thing.name for thing in scene.things)
        assert sentences.count("the scene changes") == (scene.cut is not None)


def test_families_are_those_that_are_announced() -> None:
    assert {qa.family for _, qa in ALL} == set(FAMILIES)


def test_words_are_put_into_any_wording() -> None:
    assert word("exists", 0, ["orange star"]) == "is there an orange star ?"
    for kind, wordings in WORDINGS.items():
        holes = {text.count("{}") for text in wordings}
        assert len(holes) == 1, kind


def test_family_is_the_first_word_of_the_kind() -> None:
    assert QA("where_start", "", "").family == "where"
