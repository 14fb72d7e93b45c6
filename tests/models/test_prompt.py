"""Cutting the prompt where the video goes: the ids are those of the whole text."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from model_inputs import PROMPTS, QUESTION
from tiny_checkpoint import SPECIAL_TOKENS

from aot.errors import ConfigError
from aot.models.prompt import TEMPLATES, split_prompt

if TYPE_CHECKING:
    from pathlib import Path

    from aot.models.llava_onevision import LlavaOnevision

QUESTIONS = [
    "What moves?",
    "a",
    "¿Qué pasa? 何が起きますか 🎬 e\u0301",
    "two\nlines\n\nand  spaces",
    "{x} {} {{question}} {video} %s $HOME \\n",
    "<|im_sta|> <vid eo> <image",
    "'s 're 123 \t tab",
]


@pytest.fixture(scope="module")
def tokenizer(small_model: LlavaOnevision) -> Any:
    return small_model.tokenizer


@pytest.fixture(scope="module")
def video_id(tokenizer: Any) -> int:
    return tokenizer.convert_tokens_to_ids("<video>")


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("template", sorted(PROMPTS))
def test_ids_are_those_of_the_whole_text(tokenizer: Any, video_id: int, template: str, question: str) -> None:
    before, after = split_prompt(tokenizer, template, question, video_id)
    whole = tokenizer(PROMPTS[template].replace(QUESTION, question), add_special_tokens=False)["input_ids"]
    assert [*before, video_id, *after] == whole
    assert video_id not in before + after


@given(question=st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_any_text_survives(tokenizer: Any, video_id: int, question: str) -> None:
    if not question.strip() or any(word in question for word in tokenizer.get_added_vocab()):
        return  # refused, as other tests show
    _, after = split_prompt(tokenizer, "hf", question, video_id)
    plain = tokenizer(f"\n{question.strip()}", add_special_tokens=False)["input_ids"]
    assert after[: len(plain)] == plain


def test_the_hf_template_is_the_checkpoints(tokenizer: Any, small_folder: Path) -> None:
    template = json.loads((small_folder / "chat_template.json").read_text(encoding="utf-8"))["chat_template"]
    content = [{"type": "video"}, {"type": "text", "text": QUESTION}]
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], chat_template=template, tokenize=False, add_generation_prompt=True
    )
    assert rendered == TEMPLATES["hf"].format(video="<video>", question=QUESTION)


@pytest.mark.parametrize("word", SPECIAL_TOKENS)
@pytest.mark.parametrize("shape", ["{}", "what is {} here?", "x{}x"])
def test_control_words_are_refused(tokenizer: Any, video_id: int, word: str, shape: str) -> None:
    with pytest.raises(ConfigError) as caught:
        split_prompt(tokenizer, "native", shape.format(word), video_id)
    assert word in str(caught.value)


@pytest.mark.parametrize("question", ["", " ", "\n\t ", "\u3000"])
def test_an_empty_question_is_refused(tokenizer: Any, video_id: int, question: str) -> None:
    with pytest.raises(ConfigError, match="question is empty"):
        split_prompt(tokenizer, "native", question, video_id)


def test_bytes_that_are_no_text_are_refused(tokenizer: Any, video_id: int) -> None:
    """What a shell passes in another encoding arrives as lone surrogates."""
    with pytest.raises(ConfigError):
        split_prompt(tokenizer, "native", "caf\udce9?", video_id)
