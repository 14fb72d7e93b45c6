"""Answer questions about one video that may refer to earlier questions and answers.

The prompt of a question holds all earlier turns, as the checkpoint's chat template has them. Keys
and values of rows that were read or generated before are reused as far as the ids of the rows agree
with those of the new prompt. So an answer is, up to rounding, that of one prefill of the whole
prompt, and only the rows that are new are read.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from aot.compression.ops.uploads import uploaded
from aot.config.schema import GenerationConfig
from aot.errors import ConfigError
from aot.models.base import Turn
from aot.models.language.answer import LeftAnswers, StreamedAnswer, read_prompt
from aot.models.language.decoding import Decoding, LanguageModel, Prefilled
from aot.models.language.prompt import VideoPrompt, check_question, check_reserved
from aot.models.language.slots import Slots

__all__ = ["LATER_TURN", "Conversation", "text_after_video"]

# Every family's prompt ends with the words that open an answer.
_OPENING = "<|im_start|>assistant\n"
# An earlier answer and the question after it, in ChatML.
LATER_TURN = "<|im_start|>assistant\n{answer}<|im_end|>\n<|im_start|>user\n{question}<|im_end|>\n"


def text_after_video(tokenizer: Any, template: str, later_turn: str, turns: Sequence[Turn], question: str) -> str:
    """Return the text of the prompt after the video, with earlier `turns` and a new `question`.

    Args:
        tokenizer: the checkpoint's tokenizer.
        template: the text after the video in the prompt of a first question, with {question}.
        later_turn: an earlier answer and the next question, with {answer} and {question}.
        turns: the earlier questions and answers.
        question: the new question.

    Raises:
        ConfigError: If a question is empty, or a text contains a control word of the model.
    """
    questions = [check_question(tokenizer, each) for each in (*(turn.question for turn in turns), question)]
    text = template.removesuffix(_OPENING).replace("{question}", questions[0])
    # Cut first, because an answer may contain "{question}".
    opening, _, rest = later_turn.partition("{answer}")
    between, _, closing_words = rest.partition("{question}")
    for turn, following in zip(turns, questions[1:], strict=True):
        check_reserved(tokenizer, turn.answer, "an earlier answer", "leave out the earlier turns")
        text += opening + turn.answer + between + following + closing_words
    return text + _OPENING


@dataclass(frozen=True, slots=True)
class _Held:
    """Keys and values of the prefix and of the rows after it, whose ids are `ids`."""

    cache: Any
    ids: list[int]


class Conversation:
    """Questions and answers about one video, each of which follows the earlier ones.

    Up to rounding, an answer is the same as if the whole prompt with all turns were read at once.

    Attributes:
        turns: the questions and answers so far, which the next prompt contains. An answer adds its
            turn when it ends, or when the caller leaves it after its first text. The caller may
            replace the list: rows that still agree are not read again.
    """

    def __init__(
        self,
        model: LanguageModel,
        tokenizer: Any,
        prefix: VideoPrompt,
        suffix_of: Callable[[str, Sequence[Turn]], list[int]],
        options: GenerationConfig,
        left: LeftAnswers,
        layer_tokens: tuple[int, ...] = (),
        reduced: Callable[[VideoPrompt, int], Prefilled] | None = None,
    ) -> None:
        """Prepare a conversation; nothing is read before the first answer.

        Args:
            model: the parts of the network that generate text.
            tokenizer: the checkpoint's tokenizer.
            prefix: the prompt up to the end of the video.
            suffix_of: returns the ids of the rest, for a question and earlier turns.
            options: the settings of generation.
            left: the abandoned answers of the model.
            layer_tokens: the number of visual tokens in each layer.
            reduced: prefill with a reduction inside the language model. What it drops may depend on
                the question, so that it reads the whole prompt for each answer.
        """
        self.turns: list[Turn] = []
        self._model, self._tokenizer, self._prefix = model, tokenizer, prefix
        self._suffix_of, self._options, self._left = suffix_of, options, left
        self._layer_tokens, self._reduced = layer_tokens, reduced
        self._held: _Held | None = None
        self._busy = threading.Lock()

    @torch.inference_mode()
    def ask(self, question: str) -> StreamedAnswer:
        """Start to answer the next question; the text is generated while the answer is iterated.

        Raises:
            ConfigError: If the question is empty, too long with the earlier turns, or contains a
                control word.
        """
        ids = self._suffix_of(question, self.turns)
        suffix = uploaded(torch.tensor([ids]), self._prefix.ids.device)
        prompt = self._prefix.followed_by(suffix, self._model.embed(suffix))
        return _TurnAnswer(self, question, ids, prompt)

    def _read(self, prompt: VideoPrompt, ids: list[int], room: int) -> Prefilled:
        """Run prefill for the rows of `prompt` that are not held; `ids` come after the prefix."""
        if self._reduced is not None:
            return self._reduced(prompt, room)
        held, self._held = self._held, None  # nothing is held if reading fails
        cache, rows = None, 0
        if held is not None:
            # At least the last row is read, because the first word is chosen by its states.
            cache, rows = held.cache, self._prefix.video_end + _agreeing(held.ids, ids[:-1])
            for layer in cache.layers:
                layer.crop(rows)
        read = read_prompt(self._model, prompt, room, cache, rows)
        # Layers of other kinds cannot be cut to fewer rows.
        if all(isinstance(layer, Slots) for layer in read.cache.layers):
            self._held = _Held(read.cache, list(ids))
        return read

    def _add_read(self, ids: list[int]) -> None:
        """Record that the rows of `ids`, of an answer, were read after those of its prompt."""
        if self._held is not None:
            self._held.ids.extend(ids)


class _TurnAnswer(StreamedAnswer):
    """The answer to a question of a conversation, which is added to the conversation's turns."""

    def __init__(self, conversation: Conversation, question: str, ids: list[int], prompt: VideoPrompt) -> None:
        of, read = conversation, partial(conversation._read, prompt, ids)
        super().__init__(of._model, of._tokenizer, prompt, of._options, read, of._left, of._layer_tokens)
        self._conversation, self._question = conversation, question
        self._turns = list(conversation.turns)

    def __iter__(self) -> Generator[str, None, None]:
        conversation, said = self._conversation, list[str]()
        if not conversation._busy.acquire(blocking=False):
            raise ConfigError("a conversation answers one question at a time; wait for the end of the answer")
        try:
            with closing(super().__iter__()) as pieces:
                for piece in pieces:
                    said.append(piece)
                    yield piece
        finally:
            # A second iteration replaces the turn of the first one.
            if text := "".join(said):
                conversation.turns = [*self._turns, Turn(self._question, text)]
            conversation._busy.release()

    def _words(self, decoding: Decoding | None = None) -> Iterator[int]:
        """Yield the ids, and tell the conversation which rows of the answer were read."""
        said: list[int] = []
        try:
            for word in super()._words(decoding):
                said.append(word)
                yield word
        finally:
            # The last word was chosen, but not read.
            self._conversation._add_read(said[:-1])


def _agreeing(first: Sequence[int], second: Sequence[int]) -> int:
    """Return how many ids at the beginning of both sequences are equal."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((index for index, (one, other) in pairs if one != other), min(len(first), len(second)))
