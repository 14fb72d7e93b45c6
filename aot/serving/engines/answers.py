"""Let an engine generate the answers, with the prompts of a model."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

import torch

from aot.config.schema import GenerationConfig
from aot.errors import UnsupportedError
from aot.models.base import Turn
from aot.models.language.text_pieces import TextPieces
from aot.serving.engines.base import Engine, EngineRequest, Sampling
from aot.types import CompressedTokens

if TYPE_CHECKING:
    from aot.compression.in_llm import InnerReduction
    from aot.models.composed import ComposedModel
    from aot.models.language.prompt import VideoPrompt

__all__ = ["EngineAnswer", "EngineAnswerer", "EngineConversation", "EngineReading"]


class EngineAnswerer:
    """Answer with an engine: the model makes the prompt, the engine continues it.

    Args:
        model: the model that made the tokens; its own language model is not used.
        engine: has the same language model.
    """

    def __init__(self, model: ComposedModel, engine: Engine) -> None:
        self._model, self.engine = model, engine

    def generate(
        self, tokens: CompressedTokens, question: str, options: GenerationConfig, inner: InnerReduction | None = None
    ) -> EngineAnswer:
        """Start to answer `question`; for errors see `ComposedModel.prompt`."""
        return self.answer(tokens, question, (), options, inner)

    def read(self, tokens: CompressedTokens, inner: InnerReduction | None = None) -> EngineReading:
        """Prepare to answer several questions; the engine itself keeps what it has read."""
        return EngineReading(self, tokens, inner)

    def converse(
        self, tokens: CompressedTokens, options: GenerationConfig, inner: InnerReduction | None = None
    ) -> EngineConversation:
        """Begin a conversation; the engine itself keeps what it has read."""
        return EngineConversation(self, tokens, options, inner)

    @torch.inference_mode()
    def answer(
        self,
        tokens: CompressedTokens,
        question: str,
        turns: Sequence[Turn],
        options: GenerationConfig,
        inner: InnerReduction | None = None,
        on_end: Callable[[str], None] = lambda text: None,
    ) -> EngineAnswer:
        """Start to answer `question` after earlier `turns`; `on_end` receives the answer."""
        if inner is not None:
            raise UnsupportedError(
                "a reduction inside the language model (--inner) cannot act in an engine; use --engine transformers"
            )
        prompt = self._model.prompt(tokens, question, turns)
        sampling = Sampling.of(self._model.network.generation_config, options)
        layer_tokens = (len(tokens.features),) * self._model.language_layers
        return EngineAnswer(self.engine, self._model.tokenizer, prompt, sampling, layer_tokens, on_end)


class EngineAnswer:
    """An answer that an engine generates while the caller iterates over its text.

    The first piece is empty and comes when the engine has the prompt. A second iteration generates
    the answer again.

    Attributes:
        ids: the generated ids, with the end token.
    """

    notices: tuple[str, ...] = ()

    def __init__(
        self,
        engine: Engine,
        tokenizer: object,
        prompt: VideoPrompt,
        sampling: Sampling,
        layer_tokens: tuple[int, ...],
        on_end: Callable[[str], None],
    ) -> None:
        self._engine, self._tokenizer, self._prompt, self._sampling = engine, tokenizer, prompt, sampling
        self._on_end = on_end
        self.prompt_tokens, self.layer_tokens = prompt.ids.shape[1], layer_tokens
        self.first_token_at: float | None = None
        self.ids: list[int] = []

    @property
    def output_tokens(self) -> int:
        """Return how many tokens have been generated so far."""
        return len(self.ids)

    def __iter__(self) -> Generator[str, None, None]:
        self.first_token_at, self.ids = None, []
        prompt, text, said = self._prompt, TextPieces(self._tokenizer), ""
        if prompt.tokens.unread is not None:
            prompt.tokens.unread.read()
        try:
            with closing(self._engine.begin(EngineRequest.of(prompt, self._sampling))) as arriving:
                yield ""
                for ids in arriving:
                    self.first_token_at = self.first_token_at or time.perf_counter()
                    self.ids += ids
                    for word in ids:
                        text.add(word)
                    if piece := text.complete():
                        said += piece
                        yield piece
            if piece := text.end():
                said += piece
                yield piece
        finally:
            if said:
                self._on_end(said)


class EngineReading:
    """A video about which an engine answers several questions."""

    def __init__(self, answerer: EngineAnswerer, tokens: CompressedTokens, inner: InnerReduction | None) -> None:
        self._answerer, self._tokens, self._inner = answerer, tokens, inner

    def generate(self, question: str, options: GenerationConfig) -> EngineAnswer:
        """Start to answer a question."""
        return self._answerer.generate(self._tokens, question, options, self._inner)

    def answers(self, questions: Sequence[str], options: GenerationConfig) -> list[str]:
        """Return the answer to each question."""
        return ["".join(self.generate(question, options)) for question in questions]


class EngineConversation:
    """Questions about one video that may refer to earlier ones; see `aot.models.base`."""

    def __init__(
        self,
        answerer: EngineAnswerer,
        tokens: CompressedTokens,
        options: GenerationConfig,
        inner: InnerReduction | None,
    ) -> None:
        self.turns: list[Turn] = []
        self._answerer, self._tokens, self._options, self._inner = answerer, tokens, options, inner

    def ask(self, question: str) -> EngineAnswer:
        """Start to answer the next question."""
        earlier = list(self.turns)

        def add(text: str) -> None:
            self.turns = [*earlier, Turn(question, text)]

        return self._answerer.answer(self._tokens, question, earlier, self._options, self._inner, add)
