"""Questions packed behind one video give the logits that each gives alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from aot.shapes.questions import questions
from aot.shapes.training.language import LanguageLesson
from aot.shapes.training.network import WIDTH, build_network, vocabulary
from aot.shapes.training.packing import Branch, choose_questions, encode_branch, pack
from aot.shapes.training.reading import read_packed
from aot.shapes.world import sample_scene

INDEX = {token: number for number, token in enumerate(vocabulary())}


@pytest.fixture(scope="module")
def lesson() -> LanguageLesson:
    return LanguageLesson(build_network(3), seed=1, steps=10, videos=2, frames=3)


def branches(seed: int, count: int) -> list[Branch]:
    scene = sample_scene(seed)
    return [encode_branch(qa, scene, INDEX) for qa in questions(scene)[:count]]


@torch.no_grad()
def logits(lesson: LanguageLesson, prompt: Tensor, visual: Tensor, groups: list[list[Branch]]) -> Tensor:
    prefix = len(prompt) + visual.shape[1] + 1
    packed = pack(groups, prefix)
    return lesson.network.lm_head(read_packed(lesson.network, prompt, visual, packed)[-1][:, prefix:])


def test_packed_is_alone(lesson: LanguageLesson) -> None:
    torch.manual_seed(0)
    prompt, visual = torch.tensor([1, 9, 12]), torch.randn(2, 20, WIDTH)
    groups = [branches(5, 4), branches(6, 3)]
    packed = logits(lesson, prompt, visual, groups)
    for video, group in enumerate(groups):
        at = 0
        for branch in group:
            alone = logits(lesson, prompt, visual[video : video + 1], [[branch]])[0]
            torch.testing.assert_close(packed[video, at : at + len(branch.ids)], alone, atol=2e-4, rtol=1e-4)
            at += len(branch.ids)


def test_the_training_attention_is_the_stock_attention(lesson: LanguageLesson) -> None:
    torch.manual_seed(1)
    prompt, visual = torch.tensor([1, 9, 12]), torch.randn(1, 20, WIDTH)
    (branch,) = branches(7, 1)
    packed = logits(lesson, prompt, visual, [[branch]])
    stock = build_network(3)
    embed = stock.get_input_embeddings()
    newline = stock.model.image_newline.expand(1, 1, -1)
    embeds = torch.cat([embed(prompt)[None], visual, newline, embed(torch.tensor([branch.ids]))], 1)
    with torch.no_grad():
        wanted = stock.lm_head(stock.model.language_model(inputs_embeds=embeds).last_hidden_state)
    torch.testing.assert_close(packed, wanted[:, -len(branch.ids) :], atol=2e-4, rtol=1e-4)


def test_only_answers_are_learned() -> None:
    (branch,) = branches(8, 1)
    packed = pack([[branch]], 5)
    learned = packed.ids[0, 1:][packed.weight[0, :-1] > 0]
    assert learned.tolist() == branch.ids[branch.answer_at :]
    assert learned[-1] == INDEX["<|im_end|>"]


def test_a_pointer_is_at_the_word_that_names_its_thing() -> None:
    words = vocabulary()
    for seed in range(60):
        scene = sample_scene(seed)
        for qa in questions(scene):
            branch = encode_branch(qa, scene, INDEX)
            for index, number in branch.pointers:
                thing = scene.things[number]
                named = words[branch.ids[index]]
                if qa.kind == "describe" or (qa.named and qa.kind != "shape"):
                    assert named == thing.shape
                elif qa.kind == "shape":
                    assert named == thing.color


def test_questions_about_what_was_dropped_are_not_asked() -> None:
    scene = next(scene for scene in map(sample_scene, range(50)) if len(scene.things) == 3)
    rng = np.random.default_rng(0)
    asked = choose_questions(scene, rng, [True, False, True])
    assert asked
    assert all(qa.reference and 1 not in qa.reference for qa in asked)
    assert len(choose_questions(scene, rng, [True] * 3)) == len(questions(scene))


def test_a_step_gives_a_gradient_to_everything_but_the_tower(lesson: LanguageLesson) -> None:
    loss, facts = lesson(0)
    loss.backward()
    assert torch.isfinite(loss)
    assert {"answer", "show", "cell", "track", "time", "events", "look", "know", "place", "read"} <= facts.keys()
    for name, parameter in lesson.named_parameters():
        if "vision_tower" in name:
            assert parameter.grad is None
        else:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name
