"""An answer that arrives piece by piece."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from aot.config import GenerationConfig
from aot.memory import explained_memory

if TYPE_CHECKING:
    from aot.models.prefill import Prefilled

__all__ = ["StreamedAnswer", "copied_cache", "generation_arguments"]

_PATIENCE_S = 2.0  # how long to wait for a thread that was told to stop; a forward pass cannot be interrupted


def generation_arguments(options: GenerationConfig) -> dict[str, Any]:
    """How `generate` picks words and how many; torch is seeded for it."""
    torch.manual_seed(options.seed)
    sampled = options.temperature > 0
    return {
        "max_new_tokens": options.max_new_tokens,
        "do_sample": sampled,
        **({"temperature": options.temperature} if sampled else {}),
        **({"min_new_tokens": options.min_new_tokens} if options.min_new_tokens else {}),
    }


def copied_cache(cache: Any) -> Any:
    """A cache that grows on its own. What it holds so far is shared: growing makes new tensors."""
    copied = copy.copy(cache)
    copied.layers = [copy.copy(layer) for layer in cache.layers]
    return copied


class StreamedAnswer:
    """Runs `generate` in a thread and yields its text. Leaving the loop early stops the thread.

    The prompt's ids [1, L] count for a repetition penalty of the checkpoint. What is read are its embeddings [1, L, D],
    or, with the keys and values of its beginning in `cache`, the ids behind that; `prefill` makes such a cache when the
    answer begins. layer_tokens: visual tokens in each layer of the language model, if that is known before.
    """

    def __init__(
        self,
        network: nn.Module,
        tokenizer: Any,
        prompt_ids: Tensor,
        options: GenerationConfig,
        *,
        embeddings: Tensor | None = None,
        cache: Any = None,
        prefill: Callable[[], Prefilled] | None = None,
        layer_tokens: tuple[int, ...] = (),
    ) -> None:
        self.network, self.tokenizer, self.options = network, tokenizer, options
        self.prompt_ids, self.embeddings, self.cache = prompt_ids, embeddings, cache
        self.prompt_tokens = prompt_ids.shape[1]
        self._prefill = prefill
        self._layer_tokens = layer_tokens
        self._stop = threading.Event()
        self._steps = 0
        self._first_token_at: float | None = None

    @property
    def first_token_at(self) -> float | None:
        return self._first_token_at

    @property
    def output_tokens(self) -> int:
        return self._steps

    @property
    def layer_tokens(self) -> tuple[int, ...]:
        return self._layer_tokens

    def __iter__(self) -> Iterator[str]:
        from transformers import TextIteratorStreamer

        self._stop.clear()
        self._steps = 0
        streamer = TextIteratorStreamer(self.tokenizer, skip_prompt=True, skip_special_tokens=True)
        failure: list[BaseException] = []
        thread = threading.Thread(target=self._run, args=(streamer, failure), name="aot-answer", daemon=True)
        thread.start()
        try:
            yield from (piece for piece in streamer if piece)
        finally:
            self._stop.set()
            thread.join(timeout=_PATIENCE_S)
        if failure:
            with explained_memory():
                raise failure[0]

    def _run(self, streamer: Any, failure: list[BaseException]) -> None:
        try:
            self._generate(streamer)
        except BaseException as error:  # handed to the reading thread, which raises it
            failure.append(error)
            streamer.on_finalized_text("", stream_end=True)

    @torch.inference_mode()
    def _generate(self, streamer: Any) -> None:
        from transformers import StoppingCriteriaList

        cache = self.cache
        if self._prefill is not None:
            prefilled = self._prefill()
            cache, self._layer_tokens = prefilled.cache, prefilled.layer_tokens
        read = {"inputs_embeds": self.embeddings} if cache is None else {"past_key_values": copied_cache(cache)}
        self.network.generate(  # type: ignore[operator]
            input_ids=self.prompt_ids,
            **read,
            attention_mask=torch.ones_like(self.prompt_ids),
            streamer=streamer,
            stopping_criteria=StoppingCriteriaList([self._after_step]),
            num_beams=1,  # beams cannot be streamed
            pad_token_id=self.tokenizer.pad_token_id,
            **generation_arguments(self.options),
        )

    def _after_step(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        if not self._steps:
            self._first_token_at = time.perf_counter()
        self._steps += 1
        return torch.full((input_ids.shape[0],), self._stop.is_set(), device=input_ids.device)
