"""Questions answered together get the answers they get alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pytest

import aot.models.language.reading
from aot.compression.methods import build_method
from aot.config.schema import Config, GenerationConfig, ModelConfig
from aot.errors import ConfigError
from aot.models import VideoModel, load_model
from aot.types import CompressedTokens
from tests.support.model_inputs import frames_for

QUESTIONS = ["What moves?", "Is it red, or blue, or something else?", "Why", "what moves?", "How many are there?"]
GREEDY = GenerationConfig(max_new_tokens=20)


def kept(model: VideoModel, ratio: float) -> CompressedTokens:
    method = build_method(Config(ratio=ratio))
    return method.compress(model.encode(frames_for(model), method.needs), round(ratio * 4 * model.tokens_per_frame))  # type: ignore[arg-type]


def alone(model: VideoModel, tokens: CompressedTokens, options: GenerationConfig = GREEDY) -> list[str]:
    return ["".join(model.generate(tokens, question, options)) for question in QUESTIONS]


@pytest.mark.parametrize("ratio", [1.0, 0.2])
def test_together_is_alone(small_model: VideoModel, ratio: float) -> None:
    tokens = kept(small_model, ratio)
    expected = alone(small_model, tokens)
    assert len(set(expected)) > 1
    assert small_model.read(tokens).answers(QUESTIONS, GREEDY) == expected


@pytest.mark.parametrize("ratio", [1.0, 0.2])
def test_one_after_the_other_is_alone(small_model: VideoModel, ratio: float) -> None:
    tokens = kept(small_model, ratio)
    reading = small_model.read(tokens)
    replies = [reading.generate(question, GREEDY) for question in QUESTIONS]
    assert ["".join(reply) for reply in replies] == alone(small_model, tokens)
    single = small_model.generate(tokens, QUESTIONS[0], GREEDY)
    assert replies[0].prompt_tokens == single.prompt_tokens
    assert "".join(single) and replies[0].output_tokens == single.output_tokens


def test_under_a_repetition_penalty_too(small_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "penalty"
    shutil.copytree(small_folder, folder)
    settings = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(settings | {"repetition_penalty": 1.5}))
    model = load_model(ModelConfig(name=str(folder), device="cpu", dtype="float32"))
    tokens = kept(model, 0.2)
    assert model.read(tokens).answers(QUESTIONS, GREEDY) == alone(model, tokens)


@pytest.mark.parametrize("copies_bytes", [0, 1 << 30])
def test_a_long_answer_beside_short_ones(copies_bytes: int) -> None:
    asked = ["what happens ?", "is there a red square ?", "how many objects are there in all ?"]
    model = load_model(ModelConfig(name="shapes", device="cpu", dtype="float32"))
    tokens = kept(model, 0.5)
    options = GenerationConfig(max_new_tokens=30)
    expected = ["".join(model.generate(tokens, question, options)) for question in asked]
    assert sorted(len(text.split()) > 6 for text in expected) == [False, False, True]
    with patch.object(aot.models.language.reading, "_COPIES_BYTES", copies_bytes):
        assert model.read(tokens).answers(asked, options) == expected


def test_the_video_is_read_once(small_model: VideoModel) -> None:
    tokens = kept(small_model, 1.0)
    language = small_model.network.model.language_model  # type: ignore[attr-defined]
    lengths: list[int] = []
    forward: Callable[..., object] = language.forward

    def counted(*arguments: object, inputs_embeds=None, **named: object) -> object:  # type: ignore[no-untyped-def]
        lengths.append(inputs_embeds.shape[1])
        return forward(*arguments, inputs_embeds=inputs_embeds, **named)

    with patch.object(language, "forward", counted):
        small_model.read(tokens).answers(QUESTIONS, GREEDY)
    assert [length > 100 for length in lengths] == [True] + [False] * (len(lengths) - 1)


def test_no_questions_no_answers_and_nothing_read(small_model: VideoModel) -> None:
    reading = small_model.read(kept(small_model, 0.2))
    with patch.object(small_model.network.model.language_model, "forward", None):  # type: ignore[attr-defined]
        assert reading.answers([], GREEDY) == []


def test_an_answer_to_a_read_video_can_be_read_again(small_model: VideoModel) -> None:
    reply = small_model.read(kept(small_model, 0.2)).generate(QUESTIONS[0], GREEDY)
    first = "".join(reply)
    assert first and "".join(reply) == first


def test_no_fewer_words_than_asked_for(small_model: VideoModel) -> None:
    exactly = GenerationConfig(max_new_tokens=9, min_new_tokens=9)
    reply = small_model.generate(kept(small_model, 0.2), QUESTIONS[0], exactly)
    assert "".join(reply) and reply.output_tokens == 9


def test_an_empty_question_is_refused(small_model: VideoModel) -> None:
    with pytest.raises(ConfigError, match="empty"):
        small_model.read(kept(small_model, 0.2)).answers(["What moves?", " "], GREEDY)
