"""Which words of a question count, and what they are to the language model."""

from __future__ import annotations

import pytest
import torch

from aot.config.schema import ModelConfig
from aot.models import load_model
from aot.models.base import ScoresFrames
from aot.models.families.llava import Llava
from aot.models.language.question_words import content_words, embed_words
from aot.types import Needs
from tests.support.model_inputs import frames_for


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ("What does the red dog do before the red dog's bath?", ["red", "dog", "dog's", "bath"]),
        ("What happens in the video?", []),
        ("Wo ist der Hund?", ["wo", "ist", "der", "hund"]),
        ("你好吗", ["你好吗"]),
        ("?!", []),
    ],
)
def test_words_that_frame_a_question_do_not_count(question: str, words: list[str]) -> None:
    assert content_words(question) == words


def test_a_word_is_the_mean_of_its_tokens(small_model: Llava) -> None:
    table = small_model.network.get_input_embeddings().weight
    words = embed_words(small_model.tokenizer, table.__getitem__, ["a red ox?"])
    assert words is not None and words.weights == (0.5, 0.5)
    ids = small_model.tokenizer(" red", add_special_tokens=False)["input_ids"]
    torch.testing.assert_close(words.embeddings[0], table[ids].mean(0))


def test_questions_count_the_same_whatever_their_words(small_model: Llava) -> None:
    table = small_model.network.get_input_embeddings().weight
    words = embed_words(small_model.tokenizer, table.__getitem__, ["red ox", "red", "what happens?"])
    assert words is not None and words.weights == (0.75, 0.25)


def test_unknown_words_do_not_count() -> None:
    model = load_model(ModelConfig(name="shapes", device="cpu"))
    assert isinstance(model, Llava) and isinstance(model, ScoresFrames)
    table = model.network.get_input_embeddings().weight
    words = embed_words(model.tokenizer, table.__getitem__, ["is there a giraffe near the red star?"])
    assert words is not None
    vocabulary = model.tokenizer.get_vocab()
    assert torch.equal(words.embeddings, table[[vocabulary["red"], vocabulary["star"]]].float())
    assert model.frame_scorer(["giraffe?", "what happens?"]) is None


def test_several_questions_score_their_mean(small_model: Llava) -> None:
    visual = small_model.encode(frames_for(small_model, 6), Needs(frame_embeddings=True))
    scores = []
    for questions in (["red ox"], ["blue"], ["red ox", "blue"]):
        scorer = small_model.frame_scorer(questions)
        assert scorer is not None
        scorer.add(visual)
        scores.append(scorer.scores())
    torch.testing.assert_close((scores[0] + scores[1]) / 2, scores[2], rtol=1e-5, atol=1e-6)  # float32 features
