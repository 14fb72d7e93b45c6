"""Make questions about a scene, each with exactly one right answer.

A question has several wordings, an answer has one. `QA.reference` lists the things that a question
is about; training uses them as labels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aot.shapes.world import COLORS, MIDDLE_MARGIN, SHAPES, SIDE, Scene, Thing

if TYPE_CHECKING:
    from aot.shapes.film import Film

__all__ = ["FAMILIES", "NUMBERS", "QA", "WORDINGS", "description", "questions", "word"]

NUMBERS = ("zero", "one", "two", "three", "four")

WORDINGS = {
    "color": ("what color is the {} ?", "which color does the {} have ?"),
    "shape": ("what shape is the {} object ?", "which shape is the {} thing ?"),
    "size": ("what size is the {} ?", "is the {} small or large ?", "how big is the {} ?"),
    "count": ("how many objects are there in all ?", "how many things does the video show ?"),
    "count_start": ("how many objects are there at the start ?", "how many things are there at first ?"),
    "count_end": ("how many objects are there at the end ?", "how many things are left at the end ?"),
    "motion": ("which way does the {} move ?", "where does the {} go ?", "in which direction does the {} move ?"),
    "where_start": ("where is the {} at the start ?", "where is the {} at first ?"),
    "where_end": ("where is the {} at the end ?",),
    "where": ("where is the {} ?",),
    "exists": ("is there a {} ?", "do you see a {} ?", "does a {} appear in the video ?"),
    "order_appear": ("what appears first , the {} or the {} ?", "which comes first , the {} or the {} ?"),
    "order_leave": ("what disappears first , the {} or the {} ?",),
    "order_whole": ("does the {} appear , disappear or stay ?", "does the {} stay , appear or disappear ?"),
    "flash": ("what flashes ?", "which object is seen only for a moment ?", "what flashes in the video ?"),
    "flash_any": ("does something flash ?", "is there a flash ?"),
    "change": ("what color does the {} become ?", "which color does the {} turn ?"),
    "change_from": ("what color is the {} before it changes ?", "what color does the {} have at first ?"),
    "change_what": ("which object changes color ?", "what changes color ?"),
    "cut": ("does the scene change ?", "is there a cut ?", "is there a scene change ?"),
    "cut_side": ("is the {} before or after the cut ?", "is the {} before or after the scene change ?"),
    "describe": (
        "what happens ?",
        "what happens in the video ?",
        "describe the video .",
        "what do you see ?",
        "what is happening ?",
        "describe what happens .",
    ),
}
FAMILIES = (
    "color", "shape", "size", "count", "motion", "where", "exists", "order", "flash", "change", "cut", "describe",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class QA:
    """A question with its answer.

    Attributes:
        kind: a key of `WORDINGS`.
        question: the question in one of the wordings of `kind`.
        answer: the right answer.
        reference: indices into `scene.things` of the things that the question is about.
        named: names of things to fill into the wording, in the order of its placeholders.
    """

    kind: str
    question: str
    answer: str
    reference: tuple[int, ...] = ()
    named: tuple[str, ...] = ()

    @property
    def family(self) -> str:
        """Return the part of `kind` before the first "_", a member of `FAMILIES`."""
        return self.kind.partition("_")[0]


def word(kind: str, wording: int, named: Sequence[str]) -> str:
    """Return wording number `wording` of the question `kind`, with the names `named` filled in."""
    return WORDINGS[kind][wording].format(*named).replace(" a orange", " an orange")


def questions(scene: Scene | Film) -> list[QA]:
    """Return all questions that can be answered about `scene`, each in its first wording."""
    asked = [*_single(scene), *_counts(scene), *_exists(scene), *_orders(scene), *_events(scene)]
    return [*asked, _qa(scene, "describe", (), description(scene))] if isinstance(scene, Scene) else asked


def description(scene: Scene) -> str:
    """Return one sentence per thing, sorted by color and shape; things before a cut come first."""
    ordered = sorted(scene.things, key=lambda thing: (COLORS.index(thing.color), SHAPES.index(thing.shape)))
    if scene.cut is None:
        return " ".join(map(_sentence, ordered))
    before = [_sentence(thing) for thing in ordered if thing.first < scene.cut]
    after = [_sentence(thing) for thing in ordered if thing.first >= scene.cut]
    return " ".join([*before, "the scene changes .", *after])


def _sentence(thing: Thing) -> str:
    return f"the {thing.name} is {thing.size} and {_deed(thing)} ."


def _deed(thing: Thing) -> str:
    if thing.flashes:
        return "flashes"
    if thing.turns:
        return f"turns {thing.turns}"
    return "stays still" if thing.motion == "still" else f"moves {thing.motion}"


def _qa(scene: Scene | Film, kind: str, named: Sequence[str], answer: str, things: Sequence[Thing] = ()) -> QA:
    return QA(kind, word(kind, 0, named), answer, tuple(scene.things.index(thing) for thing in things), tuple(named))


def _call(scene: Scene | Film, thing: Thing, *, by_shape: bool = False) -> str | None:
    """Return the shape or the full name of `thing`, or None if the name would be ambiguous.

    With `by_shape`, or if `thing` changes color, only the shape is possible.
    """
    alone = Counter(other.shape for other in scene.things)[thing.shape] == 1
    if by_shape or thing.turns:
        return thing.shape if alone else None
    # A third of the names are short; the seed decides which names, so the choice is reproducible.
    briefly = (scene.seed + scene.things.index(thing)) % 3 == 0
    return thing.shape if alone and briefly else thing.name


def _single(scene: Scene | Film) -> Iterator[QA]:
    """Yield the questions about single things: color, shape, size, motion and position."""
    colors = Counter(color for thing in scene.things for color in {*thing.colors})
    for thing in scene.things:
        shape = _call(scene, thing, by_shape=True)
        if shape and not thing.turns:
            yield _qa(scene, "color", [shape], thing.color, [thing])
        if colors[thing.color] == 1 and not thing.turns:
            yield _qa(scene, "shape", [thing.color], thing.shape, [thing])
        name = _call(scene, thing)
        if name is None:
            continue
        if size := scene.size(thing):
            yield _qa(scene, "size", [name], size, [thing])
        if motion := scene.motion(thing):
            yield _qa(scene, "motion", [name], "nowhere" if motion == "still" else motion, [thing])
        yield from _where(scene, thing, name)


def _where(scene: Scene | Film, thing: Thing, name: str) -> Iterator[QA]:
    for kind, (x, y) in scene.places(thing).items():
        if min(abs(x - SIDE / 2), abs(y - SIDE / 2)) > MIDDLE_MARGIN:
            rows, cols = ("top", "bottom")[y > SIDE / 2], ("left", "right")[x > SIDE / 2]
            yield _qa(scene, kind, [name], f"{rows} {cols}", [thing])


def _counts(scene: Scene | Film) -> Iterator[QA]:
    for kind, count in scene.counts().items():
        if count < len(NUMBERS):
            yield _qa(scene, kind, [], NUMBERS[count])


def _exists(scene: Scene | Film) -> Iterator[QA]:
    """Yield one "exists" question with the answer yes, if possible, and one with the answer no."""
    steady = [thing for thing in scene.things if not thing.turns]
    seen = {color for thing in scene.things for color in thing.colors}
    pairs = {(color, thing.shape) for thing in scene.things for color in thing.colors}
    if steady:
        thing = steady[scene.seed % len(steady)]
        yield _qa(scene, "exists", [thing.name], "yes", [thing])
    # A hard negative combines a color and a shape that both occur, but not in one thing.
    shapes = {thing.shape for thing in scene.things}
    hard = sorted((c, s) for c in seen for s in shapes if (c, s) not in pairs)
    half = sorted((c, s) for c in seen for s in SHAPES if (c, s) not in pairs)
    color, shape = (hard or half)[scene.seed % len(hard or half)]
    yield _qa(scene, "exists", [f"{color} {shape}"], "no")


def _orders(scene: Scene | Film) -> Iterator[QA]:
    named = [(thing, name) for thing in scene.things if (name := _call(scene, thing)) and not thing.flashes]
    for thing, name in named:
        if fate := scene.fate(thing):
            yield _qa(scene, "order_whole", [name], fate, [thing])
    for number, (one, first) in enumerate(named):
        for position, (other, second) in enumerate(named):
            # Of more than four things, a fourth of the many pairs is enough.
            if len(named) > 4 and (scene.seed + number + position) % 4:
                continue
            turn = [first, second] if (scene.seed + one.first) % 2 else [second, first]
            if scene.comes_before(one, other):
                yield _qa(scene, "order_appear", turn, first, [one, other])
            if scene.leaves_before(one, other):
                yield _qa(scene, "order_leave", turn, first, [one, other])


def _events(scene: Scene | Film) -> Iterator[QA]:
    flashing = [thing for thing in scene.things if thing.flashes]
    yield _qa(scene, "flash_any", [], "yes" if flashing else "no", flashing)
    for thing in flashing:
        yield _qa(scene, "flash", [], f"the {thing.name}", [thing])
    for thing in scene.things:
        if thing.turns:
            yield _qa(scene, "change_what", [], f"the {thing.shape}", [thing])
            if name := _call(scene, thing):
                yield _qa(scene, "change", [name], thing.turns, [thing])
                yield _qa(scene, "change_from", [name], thing.color, [thing])
    yield _qa(scene, "cut", [], "yes" if scene.cuts else "no")
    if len(scene.cuts) == 1:
        for thing in scene.things:
            name = _call(scene, thing)
            if name:
                yield _qa(scene, "cut_side", [name], "before" if thing.first < scene.cuts[0] else "after", [thing])
