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
from aot.models.prompt import VideoPrompt

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


def read_but_last(language: Any, prompt: VideoPrompt) -> Any:
    """The keys and values of all rows but the last, which `generate` reads to begin with the answer."""
    return language(**prompt.language_inputs(prompt.ids.shape[1] - 1), use_cache=True).past_key_values


class StreamedAnswer:
    """Runs `generate` in a thread and yields its text. Leaving the loop early stops the thread.

    The prompt's ids count for a repetition penalty of the checkpoint. What is read are its embeddings, or, with the
    keys and values of its beginning in `cache`, the ids behind that; `prefill` makes such a cache when the answer
    begins. layer_tokens: visual tokens in each layer of the language model, if that is known before.
    """

    def __init__(
        self,
        network: nn.Module,
        tokenizer: Any,
        prompt: VideoPrompt,
        options: GenerationConfig,
        *,
        cache: Any = None,
        prefill: Callable[[], Prefilled] | None = None,
        layer_tokens: tuple[int, ...] = (),
    ) -> None:
        self.network, self.tokenizer, self.options = network, tokenizer, options
        self.prompt, self.cache = prompt, cache
        self.prompt_tokens = prompt.ids.shape[1]
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

        self.network.generate(  # type: ignore[operator]
            input_ids=self.prompt.ids,
            **self._read(),
            attention_mask=torch.ones_like(self.prompt.ids),
            streamer=streamer,
            stopping_criteria=StoppingCriteriaList([self._after_step]),
            num_beams=1,  # beams cannot be streamed
            pad_token_id=self.tokenizer.pad_token_id,
            **generation_arguments(self.options),
        )

    def _read(self) -> dict[str, Any]:
        """What `generate` goes by beside the ids."""
        cache, positions = self.cache, self.prompt.positions
        if self._prefill is not None:
            prefilled = self._prefill()
            cache, self._layer_tokens = prefilled.cache, prefilled.layer_tokens
        elif cache is None and positions is None:
            return {"inputs_embeds": self.prompt.embeddings}
        elif cache is None:
            cache = read_but_last(self.network.model.language_model, self.prompt)  # type: ignore[union-attr]
        read = {"past_key_values": copied_cache(cache)}
        return read if positions is None else read | {"position_ids": positions}

    def _after_step(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        if not self._steps:
            self._first_token_at = time.perf_counter()
        self._steps += 1
        return torch.full((input_ids.shape[0],), self._stop.is_set(), device=input_ids.device)
