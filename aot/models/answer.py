"""An answer that arrives piece by piece."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from aot.config import GenerationConfig
from aot.memory import explained_memory
from aot.models.kv_cache import cache_argument, copied_cache
from aot.models.prompt import VideoPrompt
from aot.models.word_choice import generation_arguments

if TYPE_CHECKING:
    from aot.models.prefill import Prefilled
    from aot.models.token_stream import TokenStream

__all__ = ["LeftAnswers", "StreamedAnswer", "read_prompt"]

_PATIENCE_S = 2.0  # how long leaving an answer waits for its thread; a forward pass cannot be interrupted


class LeftAnswers:
    """The threads of answers that were left early, until the forward pass they are in is done."""

    def __init__(self) -> None:
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()

    def leave(self, thread: threading.Thread) -> None:
        """Wait for a thread that was told to stop, but not for long."""
        with self._lock:
            self._threads = [each for each in (*self._threads, thread) if each.is_alive()]
        if thread is not threading.current_thread():  # the garbage collector leaves answers in any thread
            thread.join(_PATIENCE_S)

    def wait(self) -> None:
        """Return when none of them runs any more."""
        with self._lock:
            threads = list(self._threads)
        for thread in threads:
            thread.join()


def read_prompt(language: Any, prompt: VideoPrompt, rows: int | None = None) -> Any:
    """Return the keys and values of the first `rows` of a prompt, or of all, in a language model without its head."""
    from transformers import DynamicCache

    cache = DynamicCache(config=language.config)
    language(**prompt.language_inputs(rows), **cache_argument(type(language).forward, cache), use_cache=True)
    return cache


class StreamedAnswer:
    """Runs `generate` in a thread and yields its text. Leaving the loop early stops the thread, and no other answer of
    the model begins before it has stopped.

    The prompt's ids count for a repetition penalty of the checkpoint. What is read are its embeddings, or, with the
    keys and values of its beginning in `cache`, the ids behind that; `prefill` makes such a cache when the answer
    begins. layer_tokens: visual tokens in each layer of the language model, if that is known before. left: the model's.
    """

    def __init__(
        self,
        network: nn.Module,
        tokenizer: Any,
        prompt: VideoPrompt,
        options: GenerationConfig,
        left: LeftAnswers,
        *,
        cache: Any = None,
        prefill: Callable[[], Prefilled] | None = None,
        layer_tokens: tuple[int, ...] = (),
    ) -> None:
        self.network, self.tokenizer, self.options = network, tokenizer, options
        self.prompt, self.cache = prompt, cache
        self.prompt_tokens = prompt.ids.shape[1]
        self._prefill, self._left = prefill, left
        self._layer_tokens = layer_tokens
        self._stream: TokenStream | None = None  # of the last time that it was begun

    @property
    def first_token_at(self) -> float | None:
        return self._stream.first_token_at if self._stream else None

    @property
    def output_tokens(self) -> int:
        return self._stream.tokens if self._stream else 0

    @property
    def layer_tokens(self) -> tuple[int, ...]:
        return self._layer_tokens

    def __iter__(self) -> Iterator[str]:
        from aot.models.token_stream import TokenStream

        self._left.wait()
        self._stream = stream = TokenStream(self.tokenizer)
        stop, failure = threading.Event(), list[BaseException]()
        thread = threading.Thread(target=self._run, args=(stream, stop, failure), name="aot-answer", daemon=True)
        thread.start()
        try:
            yield from (piece for piece in stream if piece)
        finally:
            stop.set()
            self._left.leave(thread)
        if failure:
            with explained_memory():
                raise failure[0]

    def _run(self, stream: TokenStream, stop: threading.Event, failure: list[BaseException]) -> None:
        try:
            self._generate(stream, stop)
        except BaseException as error:  # handed to the reading thread, which raises it
            failure.append(error)
            stream.fail()

    @torch.inference_mode()
    def _generate(self, stream: TokenStream, stop: threading.Event) -> None:
        from transformers import StoppingCriteriaList

        def stopped(input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
            return torch.full((input_ids.shape[0],), stop.is_set(), device=input_ids.device)

        read = self._read()
        if stop.is_set():
            return
        self.network.generate(  # type: ignore[operator]
            input_ids=self.prompt.ids,
            **read,
            attention_mask=torch.ones_like(self.prompt.ids),
            streamer=stream,
            stopping_criteria=StoppingCriteriaList([stopped]),
            pad_token_id=self.tokenizer.pad_token_id,
            **generation_arguments(self.network, self.options),
        )

    def _read(self) -> dict[str, Any]:
        """Return what `generate` goes by in addition to the ids."""
        cache, positions = self.cache, self.prompt.positions
        if self._prefill is not None:
            prefilled = self._prefill()
            cache, self._layer_tokens = prefilled.cache, prefilled.layer_tokens
        elif cache is None and positions is None:
            return {"inputs_embeds": self.prompt.embeddings}
        elif cache is None:  # all but the last row, which `generate` reads to begin with the answer
            cache = read_prompt(self.network.model.language_model, self.prompt, self.prompt_tokens - 1)  # type: ignore[union-attr]
        read = cache_argument(type(self.network).forward, copied_cache(cache))
        return read if positions is None else read | {"position_ids": positions}
