"""Pack questions after one video; each question is a branch that cannot see other branches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from aot.shapes.questions import QA, WORDINGS, questions, word
from aot.shapes.world import COLORS, Scene

__all__ = ["Branch", "Packed", "choose_questions", "encode_branch", "pack"]

# Sampling weights of the kinds of questions; kinds about rare events have higher weights.
_WEIGHTS = {
    "color": 1.2, "shape": 1.2, "size": 0.7, "count": 2.5, "count_start": 2.0, "count_end": 2.0, "motion": 1.5,
    "where": 2.0, "where_start": 2.0, "where_end": 2.0, "exists": 2.0, "order_appear": 1.2, "order_leave": 1.2,
    "order_whole": 1.2, "flash": 3.0, "flash_any": 1.2, "change": 3.0, "change_from": 3.0, "change_what": 2.0,
    "cut": 0.8, "cut_side": 2.0, "describe": 4.0,
}  # fmt: skip
_DESCRIBE_TOKEN_WEIGHT = 0.5


@dataclass(frozen=True, slots=True)
class Branch:
    """Token ids of one question and its answer.

    Attributes:
        family: family of the question.
        ids: token ids of the question, then of the answer.
        answer_at: index in `ids` of the first token of the answer.
        pointers: pairs (index in `ids` of a token that names a thing, index of the thing).
        token_weight: weight of each answer token in the loss.
    """

    family: str
    ids: list[int]
    answer_at: int
    pointers: list[tuple[int, int]]
    token_weight: float

    @property
    def asked(self) -> list[int]:
        """Return the indices in `ids` of the question's tokens that name a thing."""
        return [index for index, _ in self.pointers if index < self.answer_at]


@dataclass(slots=True)
class Packed:
    """A batch of packed branches; all branches of a video follow the same prefix.

    Attributes:
        ids: [B, L], token ids.
        segment: [B, L], the number (from 1) of the branch that each token belongs to; -1: padding.
        positions: [B, L], position ids.
        weight: [B, L], loss weight of predicting the next token.
        families: family of each branch, in one list per video.
        pointers: triples (video, row of a token that names a thing, thing); all are indices.
        readers: triples (video, row of the last token before an answer, row of a token of the
            question that names a thing); the first row should attend to the second.
    """

    ids: Tensor
    segment: Tensor
    positions: Tensor
    weight: Tensor
    families: list[list[str]]
    pointers: list[tuple[int, int, int]] = field(default_factory=list)
    readers: list[tuple[int, int, int]] = field(default_factory=list)


def choose_questions(scene: Scene, rng: np.random.Generator, seen: Sequence[bool]) -> list[QA]:
    """Return questions about `scene` in random wordings and order; rare kinds tend to come first.

    Questions about a thing without a kept token are left out.

    Args:
        scene: the scene.
        rng: the random generator.
        seen: for each thing, whether at least one token of the thing is kept.
    """
    able = [qa for qa in questions(scene) if _answerable(qa, seen)]
    if not able:
        return []
    kinds = [qa.kind for qa in able]
    # Sorting exponential variables divided by weights samples by weight without replacement.
    weights = np.array([_WEIGHTS[kind] / kinds.count(kind) ** 0.5 for kind in kinds])
    order = np.argsort(rng.exponential(size=len(able)) / weights)
    return [_reworded(able[index], rng) for index in order]


def _answerable(qa: QA, seen: Sequence[bool]) -> bool:
    return all(seen[thing] for thing in qa.reference) if qa.reference else all(seen)


def _reworded(qa: QA, rng: np.random.Generator) -> QA:
    text = word(qa.kind, int(rng.integers(len(WORDINGS[qa.kind]))), qa.named)
    return replace(qa, question=text)


def encode_branch(qa: QA, scene: Scene, index: dict[str, int]) -> Branch:
    """Return the branch of a question and its answer; `index` maps words to token ids."""
    asked = qa.question.split()
    answer = qa.answer.split()
    words = [*asked, "<|im_end|>", "<|im_start|>", "assistant", *answer, "<|im_end|>"]
    answer_at = len(asked) + 3
    pointers = _pointers(asked, qa, scene)
    if qa.kind == "describe":
        pointers += [(answer_at + at, thing) for at, thing in _described(answer, scene)]
    weight = _DESCRIBE_TOKEN_WEIGHT if qa.kind == "describe" else 1.0
    return Branch(qa.family, [index[w] for w in words], answer_at, pointers, weight)


def _pointers(words: list[str], qa: QA, scene: Scene) -> list[tuple[int, int]]:
    """Return pairs (index of the word that names a thing, thing) for the things in `qa.reference`.

    If the question does not name the thing, the index is that of the last word.
    """
    if qa.kind == "exists" and not qa.reference:
        return _nearly_named(words, qa, scene)
    pointers = []
    for number in qa.reference:
        thing = scene.things[number]
        if qa.kind == "shape":
            at = words.index(thing.color)
        elif any(thing.shape in name.split() for name in qa.named):
            at = _find(words, thing.color, thing.shape)
        else:
            at = len(words) - 2
        pointers.append((at, number))
    return pointers


def _nearly_named(words: list[str], qa: QA, scene: Scene) -> list[tuple[int, int]]:
    """Return [(index of the shape in `words`, thing)] if exactly one thing has this shape, else [].

    `words` ask for a thing that does not exist. The color of the thing shows that the answer is no.
    """
    color, shape = qa.named[0].split()
    alike = [number for number, thing in enumerate(scene.things) if thing.shape == shape]
    return [(_find(words, color, shape), alike[0])] if len(alike) == 1 else []


def _find(words: list[str], color: str, shape: str) -> int:
    """Return the index of `shape` in `words`: after `color` if possible, else not after a color."""
    both = [k for k, pair in enumerate(pairwise(words)) if pair == (color, shape)]
    if both:
        return both[0] + 1
    return next(k for k, w in enumerate(words) if w == shape and words[k - 1] not in COLORS)


def _described(answer: list[str], scene: Scene) -> list[tuple[int, int]]:
    """Return pairs (index of a shape in `answer`, thing) for the things that `answer` names."""
    names = {thing.name: number for number, thing in enumerate(scene.things)}
    spoken = [" ".join(pair) for pair in pairwise(answer)]
    return [(k, names[name]) for k, name in enumerate(spoken, 1) if name in names]


def pack(branches: Sequence[Sequence[Branch]], prefix: int) -> Packed:
    """Concatenate the branches of each video; position ids of every branch start at `prefix`."""
    rows = max(sum(len(branch.ids) for branch in group) for group in branches)
    shape = (len(branches), rows)
    packed = Packed(
        ids=torch.zeros(shape, dtype=torch.long),
        segment=torch.full(shape, -1),
        positions=torch.zeros(shape, dtype=torch.long),
        weight=torch.zeros(shape),
        families=[[branch.family for branch in group] for group in branches],
    )
    for video, group in enumerate(branches):
        at = 0
        for number, branch in enumerate(group, 1):
            stop = at + len(branch.ids)
            packed.ids[video, at:stop] = torch.tensor(branch.ids)
            packed.segment[video, at:stop] = number
            packed.positions[video, at:stop] = prefix + torch.arange(len(branch.ids))
            packed.weight[video, at + branch.answer_at - 1 : stop - 1] = branch.token_weight
            packed.pointers += [(video, at + index, thing) for index, thing in branch.pointers]
            packed.readers += [(video, at + branch.answer_at - 1, at + index) for index in branch.asked]
            at = stop
    return packed
