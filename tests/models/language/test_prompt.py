"""Cutting the prompt where the video goes: the ids are those of the whole text."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aot.errors import ConfigError
from aot.models.families.llava import TEMPLATES
from aot.models.language.prompt import check_question, text_ids
from aot.text import Verbatim
from tests.support.model_inputs import PROMPTS, QUESTION
from tests.support.tiny_checkpoint import SPECIAL_TOKENS

if TYPE_CHECKING:
    from pathlib import Path

    from aot.models.families.llava import Llava

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
def tokenizer(small_model: Llava) -> Any:
    return small_model.tokenizer


@pytest.fixture(scope="module")
def video_id(tokenizer: Any) -> int:
    return tokenizer.convert_tokens_to_ids("<video>")


def ids_around(tokenizer: Any, template: str, question: str) -> tuple[list[int], list[int]]:
    """Token ids before and behind the video."""
    before, behind = TEMPLATES[template]
    behind = behind.replace("{question}", check_question(tokenizer, question))
    return text_ids(tokenizer, before), text_ids(tokenizer, behind)


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("template", sorted(PROMPTS))
def test_ids_are_those_of_the_whole_text(tokenizer: Any, video_id: int, template: str, question: str) -> None:
    before, after = ids_around(tokenizer, template, question)
    whole = tokenizer(PROMPTS[template].replace(QUESTION, question), add_special_tokens=False)["input_ids"]
    assert [*before, video_id, *after] == whole
    assert video_id not in before + after


@given(question=st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_any_text_survives(tokenizer: Any, question: str) -> None:
    if not question.strip() or any(word in question for word in tokenizer.get_added_vocab()):
        return  # refused, as other tests show
    _, after = ids_around(tokenizer, "hf", question)
    plain = tokenizer(f"\n{question.strip()}", add_special_tokens=False)["input_ids"]
    assert after[: len(plain)] == plain


def test_whitespace_around_a_question_is_removed_unless_it_is_verbatim(tokenizer: Any) -> None:
    assert check_question(tokenizer, " what?\n") == "what?"
    assert check_question(tokenizer, Verbatim(" what?\n")) == " what?\n"
    with pytest.raises(ConfigError, match="question is empty"):
        check_question(tokenizer, Verbatim(" \n"))


def test_the_hf_template_is_the_checkpoints(tokenizer: Any, small_folder: Path) -> None:
    template = json.loads((small_folder / "chat_template.json").read_text(encoding="utf-8"))["chat_template"]
    content = [{"type": "video"}, {"type": "text", "text": QUESTION}]
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], chat_template=template, tokenize=False, add_generation_prompt=True
    )
    assert rendered == "<video>".join(TEMPLATES["hf"]).replace("{question}", QUESTION)


@pytest.mark.parametrize("word", SPECIAL_TOKENS)
@pytest.mark.parametrize("shape", ["{}", "what is {} here?", "x{}x"])
def test_control_words_are_refused(tokenizer: Any, word: str, shape: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_question(tokenizer, shape.format(word))
    assert word in str(caught.value)


@pytest.mark.parametrize("question", ["", " ", "\n\t ", "\u3000"])
def test_an_empty_question_is_refused(tokenizer: Any, question: str) -> None:
    with pytest.raises(ConfigError, match="question is empty"):
        check_question(tokenizer, question)


def test_bytes_that_are_no_text_are_refused(tokenizer: Any) -> None:
    """What a shell passes in another encoding arrives as lone surrogates."""
    with pytest.raises(ConfigError):
        check_question(tokenizer, "caf\udce9?")
