"""Later turns of a conversation get the answers that one prefill of the whole history gives."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch

from aot.config.schema import Config, GenerationConfig, InnerConfig, ModelConfig
from aot.errors import ConfigError
from aot.models import load_model
from aot.models.base import Turn
from aot.models.families.llava import Llava
from aot.models.language.conversation import Conversation
from aot.models.language.decode_graph import BoundSteps
from aot.models.language.decoding import Decoding
from aot.models.language.lean_decoder import LeanDecoder
from aot.models.language.slots import Slots, slot_cache
from aot.pipeline.run import Pipeline
from aot.types import CompressedTokens
from tests.support.compressed import compress_frames
from tests.support.model_inputs import PROMPTS, QUESTION, frames_for, stock_inputs, variant
from tests.support.qwen_inputs import frames_of
from tests.support.qwen_inputs import stock_inputs as qwen_inputs
from tests.support.tiny_internvl import CHAT_TEMPLATE, make_internvl

QUESTIONS = ["What moves?", "Is it red, or blue, or something else?", "Why", "And then?"]
GREEDY = GenerationConfig(max_new_tokens=20)
FAMILIES = ("native", "hf", "qwen25", "qwen3", "qwen3_moe", "internvl", "internvl_llama")
CHATML = "{}<|im_end|>\n<|im_start|>assistant\n{}<|im_end|>\n<|im_start|>user\n"
CHATML_HF = "{}<|im_end|><|im_start|>assistant \n{}<|im_end|><|im_start|>user \n"


@pytest.fixture(scope="module")
def model_of(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """model_of(family): a tiny model, in float32."""
    loaded: dict[str, Any] = {}

    def load(family: str) -> Any:
        if family in ("native", "hf"):
            return variant(request.getfixturevalue("small_model"), template=family)
        if family not in loaded:
            if family.startswith("internvl"):
                text = "llama" if family.endswith("llama") else "qwen2"
                folder = make_internvl(tmp_path_factory.mktemp(family), text=text)
            else:
                folder = request.getfixturevalue(f"{family}_folder")
            loaded[family] = load_model(ModelConfig(name=str(folder), device="cpu", dtype="float32"))
        return loaded[family]

    return load


def frames_in(model: Any) -> Any:
    return frames_of((24, 40), 5) if hasattr(model, "_sizes") else frames_for(model)


def kept(model: Any, **settings: Any) -> CompressedTokens:
    return compress_frames(model, frames_in(model), Config(**settings))


def converse(model: Any, tokens: CompressedTokens, options: GenerationConfig = GREEDY) -> Conversation:
    found = model.converse(tokens, options)
    assert isinstance(found, Conversation)
    return found


def anew(model: Any, tokens: CompressedTokens, turns: list[Turn], question: str, inner: Any = None) -> str:
    """The answer of one prefill of the whole prompt."""
    conversation = model.converse(tokens, GREEDY, inner)
    conversation.turns = list(turns)
    return "".join(conversation.ask(question))


# --- Exactness


@pytest.mark.parametrize("ratio", [1.0, 0.2])
@pytest.mark.parametrize("family", FAMILIES)
def test_later_turns_are_those_of_one_prefill(model_of: Callable[[str], Any], family: str, ratio: float) -> None:
    model = model_of(family)
    tokens = kept(model, ratio=ratio)
    conversation, answers = converse(model, tokens), list[str]()
    for question in QUESTIONS:
        expected = anew(model, tokens, conversation.turns, question)
        answers.append("".join(conversation.ask(question)))
        assert answers[-1] == expected
    assert conversation.turns == [Turn(*pair) for pair in zip(QUESTIONS, answers, strict=True)]
    assert answers[0] == "".join(model.generate(tokens, QUESTIONS[0], GREEDY))
    alone = ["".join(model.generate(tokens, question, GREEDY)) for question in QUESTIONS[1:]]
    assert family == "qwen3_moe" or alone != answers[1:], "earlier turns have an effect"


@pytest.mark.parametrize("family", [family for family in FAMILIES if not family.startswith("internvl")])
def test_with_all_tokens_they_are_the_stock_models(model_of: Callable[[str], Any], family: str) -> None:
    model = model_of(family)
    frames = frames_in(model)
    stock = type(model.network).from_pretrained(model.config.name, dtype="float32").eval()
    conversation, history = converse(model, kept(model, method="none")), ""
    for question in QUESTIONS:
        if isinstance(model, Llava):
            inputs = stock_inputs(model, frames, PROMPTS[family].replace(QUESTION, history + question))
        else:
            inputs = qwen_inputs(model, frames, question=history + question)
        ids = stock.generate(**inputs, max_new_tokens=GREEDY.max_new_tokens, do_sample=False)
        expected = model.tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        assert "".join(conversation.ask(question)) == expected
        history += (CHATML_HF if family == "hf" else CHATML).format(question, expected)


@pytest.mark.parametrize("family", ["hf", "internvl", "internvl_llama"])
def test_the_text_is_that_of_the_checkpoints_chat_template(
    model_of: Callable[[str], Any], family: str, small_folder: Path
) -> None:
    model = model_of(family)
    template = json.loads((small_folder / "chat_template.json").read_text())["chat_template"]
    turns = [Turn("What moves?", "A {question}."), Turn("Why?", "")]
    messages = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": turns[0].question}]}]
    for turn, following in zip(turns, ["Why?", "And then?"], strict=True):
        for role, text in (("assistant", turn.answer), ("user", following)):
            messages.append({"role": role, "content": [{"type": "text", "text": text}]})
    expected = model.tokenizer.apply_chat_template(
        messages, chat_template=template if family == "hf" else CHAT_TEMPLATE, tokenize=False,
        add_generation_prompt=True,
    )  # fmt: skip
    prefix = model._prefix(kept(model, ratio=0.2))
    found = model.tokenizer.decode(model._suffix(prefix, "And then?", turns))
    assert found.strip() == expected.partition("<video>")[2].strip()


def test_under_a_repetition_penalty_too(model_of: Callable[[str], Any]) -> None:
    model = model_of("native")
    tokens = kept(model, ratio=0.2)
    conversation, plain = converse(model, tokens), list[str]()
    for question in QUESTIONS[:2]:
        plain.append("".join(conversation.ask(question)))
    with patch.object(model.network.generation_config, "repetition_penalty", 1.5):
        conversation = converse(model, tokens)
        for question in QUESTIONS[:2]:
            expected = anew(model, tokens, conversation.turns, question)
            assert "".join(conversation.ask(question)) == expected
    assert [turn.answer for turn in conversation.turns] != plain


@pytest.mark.parametrize("reduction", ["fastv", "pyramiddrop"])
def test_a_reduction_inside_reads_the_whole_history(model_of: Callable[[str], Any], reduction: str) -> None:
    model = model_of("native")
    config = Config(ratio=0.7, method="none", inner=InnerConfig(reduction), generation=GREEDY)
    pipeline = Pipeline(model, config)
    tokens = compress_frames(model, frames_in(model), config)
    conversation = pipeline.converse(tokens)
    for question in QUESTIONS[:3]:
        expected = anew(model, tokens, conversation.turns, question, pipeline.inner)
        answer = conversation.ask(question)
        assert "".join(answer) == expected
        assert len(set(answer.layer_tokens)) > 1


# --- What is read


def rows_read(model: Any, work: Callable[[], object]) -> list[int]:
    """The number of rows in each forward pass of the whole language model."""
    lengths: list[int] = []
    forward = model.language.forward

    def counted(*arguments: Any, inputs_embeds: Any = None, **named: Any) -> Any:
        lengths.append(inputs_embeds.shape[1])
        return forward(*arguments, inputs_embeds=inputs_embeds, **named)

    with patch.object(model.language, "forward", counted):
        work()
    return lengths


@pytest.mark.parametrize("family", FAMILIES)
def test_only_what_is_new_is_read(model_of: Callable[[str], Any], family: str) -> None:
    model = model_of(family)
    conversation, read, new = converse(model, kept(model, ratio=0.2)), list[int](), list[int]()
    for question in QUESTIONS[:3]:
        answers = [conversation.ask(question)]
        read += rows_read(model, lambda answers=answers: "".join(answers[0]))  # type: ignore[misc]
        rest = model._later_turn().replace("{answer}", "").replace("{question}", question)
        new.append(len(model.tokenizer(rest, add_special_tokens=False)["input_ids"]))
    video, *later = read
    assert video > conversation._prefix.video_end
    # The template of the hub opens earlier answers in other words, so the last answer is read again.
    again = [len(turn.answer) if family == "hf" else 0 for turn in conversation.turns]
    assert all(rows <= most + said + 2 for rows, most, said in zip(later, new[1:], again[:2], strict=True))


def test_turns_may_be_replaced(model_of: Callable[[str], Any]) -> None:
    model = model_of("native")
    tokens = kept(model, ratio=0.2)
    conversation = converse(model, tokens)
    first, second = ("".join(conversation.ask(question)) for question in QUESTIONS[:2])
    conversation.turns.clear()
    read = rows_read(model, lambda: "".join(conversation.ask(QUESTIONS[0])))
    assert read[0] < 4, "the beginning is still held"
    assert [turn.answer for turn in conversation.turns] == [first]
    conversation.turns = [Turn("Is it?", "yes"), Turn("Why", "no")]
    assert "".join(conversation.ask("So?")) == anew(model, tokens, [Turn("Is it?", "yes"), Turn("Why", "no")], "So?")
    conversation.turns = [Turn(QUESTIONS[0], first)]
    assert "".join(conversation.ask(QUESTIONS[1])) == second


def test_an_answer_can_be_generated_again(model_of: Callable[[str], Any]) -> None:
    conversation = converse(model_of("native"), kept(model_of("native"), ratio=0.2))
    answer = conversation.ask(QUESTIONS[0])
    assert "".join(answer) == "".join(answer)
    assert len(conversation.turns) == 1


def test_an_answer_left_early_is_a_turn(model_of: Callable[[str], Any]) -> None:
    model = model_of("native")
    tokens = kept(model, ratio=0.2)
    conversation = converse(model, tokens, GenerationConfig(max_new_tokens=2000, min_new_tokens=2000))
    pieces = iter(conversation.ask(QUESTIONS[0]))
    said = next(piece for piece in pieces if piece)
    pieces.close()
    assert conversation.turns == [Turn(QUESTIONS[0], said)]
    conversation._options = GREEDY
    expected = anew(model, tokens, conversation.turns, QUESTIONS[1])
    assert "".join(conversation.ask(QUESTIONS[1])) == expected


def test_a_prompt_that_was_read_is_held_if_its_answer_is_left(model_of: Callable[[str], Any]) -> None:
    model = model_of("native")
    conversation = converse(model, kept(model, ratio=0.2))
    pieces = iter(conversation.ask(QUESTIONS[0]))
    assert next(pieces) == "", "no text yet"
    pieces.close()
    assert conversation.turns == []
    assert rows_read(model, lambda: "".join(conversation.ask(QUESTIONS[0])))[0] < 4


def test_an_answer_that_was_not_begun_is_no_turn(model_of: Callable[[str], Any]) -> None:
    conversation = converse(model_of("native"), kept(model_of("native"), ratio=0.2))
    conversation.ask(QUESTIONS[0])
    assert conversation.turns == []


def test_after_a_failure_everything_is_read_again(model_of: Callable[[str], Any]) -> None:
    model = model_of("native")
    tokens = kept(model, ratio=0.2)
    conversation = converse(model, tokens)
    "".join(conversation.ask(QUESTIONS[0]))
    with patch.object(model.language, "forward", side_effect=ValueError("no")), pytest.raises(ValueError, match="no"):
        "".join(conversation.ask(QUESTIONS[1]))
    assert len(conversation.turns) == 1
    assert "".join(conversation.ask(QUESTIONS[1])) == anew(model, tokens, conversation.turns[:1], QUESTIONS[1])


def test_a_finished_answer_is_freed_at_once(model_of: Callable[[str], Any]) -> None:
    """It holds the embeddings of the whole prompt, which must not wait for the garbage collector."""
    conversation = converse(model_of("native"), kept(model_of("native"), ratio=0.2))
    gc.collect()
    gc.disable()
    try:
        answer = conversation.ask(QUESTIONS[0])
        "".join(answer)
        freed = weakref.ref(answer)
        del answer
        assert freed() is None
    finally:
        gc.enable()


def test_one_question_at_a_time(model_of: Callable[[str], Any]) -> None:
    conversation = converse(model_of("native"), kept(model_of("native"), ratio=0.2))
    pieces = iter(conversation.ask(QUESTIONS[0]))
    next(pieces)
    with pytest.raises(ConfigError, match="one question at a time"):
        "".join(conversation.ask(QUESTIONS[1]))
    pieces.close()
    assert "".join(conversation.ask(QUESTIONS[1]))


def test_conversations_of_one_model_in_threads(model_of: Callable[[str], Any]) -> None:
    model = model_of("native")
    tokens = kept(model, ratio=0.2)

    def talk(number: int) -> list[str]:
        conversation = converse(model, tokens)
        return ["".join(conversation.ask(QUESTIONS[(number + turn) % 4])) for turn in range(3)]

    alone = [talk(number) for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(talk, range(4))) == alone


# --- Refusals


def test_a_control_word_in_an_earlier_answer_is_refused(model_of: Callable[[str], Any]) -> None:
    conversation = converse(model_of("native"), kept(model_of("native"), ratio=0.2))
    conversation.turns = [Turn("What?", "a <video>")]
    with pytest.raises(ConfigError, match=r"an earlier answer contains <video>, .* leave out the earlier turns"):
        conversation.ask("Why?")


def test_a_history_that_is_too_long_is_refused(model_of: Callable[[str], Any]) -> None:
    conversation = converse(model_of("native"), kept(model_of("native"), ratio=0.2))
    conversation.turns = [Turn("What?", "x" * 100_000)]
    with pytest.raises(ConfigError, match=r"the model reads at most .* leave out the earlier turns, or use"):
        conversation.ask("Why?")


# --- Slots


def test_cropped_slots_are_overwritten(model_of: Callable[[str], Any]) -> None:
    """Also after steps of a CUDA graph, which are more than the words of the answer."""
    model = model_of("native")
    cache = slot_cache(model.language.config, 4)
    (layer, *_) = cache.layers
    assert isinstance(layer, Slots)
    states = torch.arange(24.0).view(1, 1, 6, 4)
    layer.update(states, states)
    step = torch.zeros(1, dtype=torch.int64)
    layer.bind(step)
    layer.update(states[:, :, :1], states[:, :, :1])
    layer.crop(7)
    assert layer.get_seq_length() == 7
    layer.crop(5)
    keys, _ = layer.update(-states[:, :, :2], -states[:, :, :2])
    assert torch.equal(keys, torch.cat([states[:, :, :5], -states[:, :, :2]], 2))


def test_steps_with_fixed_memory_go_on_after_a_turn(model_of: Callable[[str], Any]) -> None:
    """What a CUDA graph replays: slots that are bound, and a mask that hides cropped rows."""
    model = model_of("native")
    tokens = kept(model, ratio=0.2)

    def bound(decoding: Decoding) -> BoundSteps:
        return BoundSteps(decoding, LeanDecoder(decoding._model.body))

    conversation = converse(model, tokens)
    with patch.object(Decoding, "_pick_steps", bound):
        answers = ["".join(conversation.ask(question)) for question in QUESTIONS]
    plain = converse(model, tokens)
    assert ["".join(plain.ask(question)) for question in QUESTIONS] == answers
