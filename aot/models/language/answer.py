"""Generate an answer in a thread, and yield its text in pieces."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator
from queue import SimpleQueue
from typing import Any

import torch
from torch import Tensor

from aot.config.schema import GenerationConfig
from aot.models.language.decoding import MOST_ROOM, Decoding, LanguageModel, Prefilled, ReadPrompts, last_hidden_state
from aot.models.language.lean_decoder import why_not_lean
from aot.models.language.prompt import VideoPrompt
from aot.models.language.prompt_attention import uses_prompt_attention
from aot.models.language.slots import slot_cache
from aot.models.language.text_pieces import TextPieces
from aot.models.language.word_rules import Past, end_ids
from aot.runtime.memory import explained_memory

__all__ = ["LeftAnswers", "StreamedAnswer", "read_lean", "read_prompt", "room_for"]

# The least time between pieces: to decode text after every token would slow down small models.
_BETWEEN_PIECES_S = 0.02
# The longest wait for the thread of an abandoned answer; a forward pass cannot be interrupted.
_PATIENCE_S = 2.0


class LeftAnswers:
    """Threads of abandoned answers; each thread runs until its current forward pass ends."""

    def __init__(self) -> None:
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()

    def leave(self, thread: threading.Thread) -> None:
        """Record `thread`, which was asked to stop, and wait briefly for its end."""
        with self._lock:
            self._threads = [each for each in (*self._threads, thread) if each.is_alive()]
        # The garbage collector may close an answer in any thread, even in `thread` itself.
        if thread is not threading.current_thread():
            thread.join(_PATIENCE_S)

    def wait(self) -> None:
        """Wait until all recorded threads have ended."""
        with self._lock:
            threads = list(self._threads)
        for thread in threads:
            thread.join()


def room_for(options: GenerationConfig) -> int:
    """Return the number of cache slots to allocate for the answer."""
    return min(options.max_new_tokens, MOST_ROOM)


@torch.inference_mode()
def read_prompt(model: LanguageModel, prompt: VideoPrompt, room: int, after: Any = None, rows: int = 0) -> Prefilled:
    """Run prefill: return the keys and values of a prompt, and the states of its last row.

    Args:
        model: the parts of the network.
        prompt: the whole prompt.
        room: the number of cache slots for the answer.
        after: a cache with the first `rows` rows of the prompt; no later row may be a visual token.
        rows: the number of rows that `after` holds.
    """
    cache = slot_cache(model.body.config, room) if after is None else after
    given = prompt.language_inputs(rows)
    if after is None and prompt.embeddings.is_cuda and (last := read_lean(model, cache, **given)) is not None:
        return Prefilled(cache, last)
    return Prefilled(cache, last_hidden_state(model.body, given.pop("inputs_embeds"), cache, **given))


def read_lean(
    model: LanguageModel, cache: Any, inputs_embeds: Tensor, position_ids: Tensor | None = None, **more: Any
) -> Tensor | None:
    """Run prefill with the lean decoder; return the last row's states [1, D], or None if it cannot.

    The decoder has no other attention than that of torch, no compiled modules, and no features that
    layers add to visual rows.
    """
    body = model.body
    chosen = not uses_prompt_attention(body) or any(part._compiled_call_impl for part in body.modules())
    if more or chosen or why_not_lean(body, cache) is not None:
        return None
    if position_ids is None:
        position_ids = torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device)[None]
    return model.lean.read(inputs_embeds[0], position_ids, cache.layers)


class StreamedAnswer:
    """An answer that a thread generates while the caller iterates over its text.

    `ids` are the ids generated so far, up to and including the end token.

    If the caller leaves the loop early, the thread stops. The next answer of the model starts after
    the thread has stopped. A second iteration generates the answer again. The checkpoint's
    repetition penalty also applies to the prompt.

    The first piece is empty: the device has been given all work up to the first token. Checks of
    the kept tokens are read then, before the first text.

    `read(room)` runs prefill and allocates `room` cache slots for the answer. `layer_tokens` is the
    number of visual tokens in each layer of the language model, if known before prefill.
    """

    def __init__(
        self,
        model: LanguageModel,
        tokenizer: Any,
        prompt: VideoPrompt,
        options: GenerationConfig,
        read: Callable[[int], Prefilled],
        left: LeftAnswers,
        layer_tokens: tuple[int, ...] = (),
    ) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._prompt, self._options = prompt, options
        self._read, self._left = read, left
        self.prompt_tokens = prompt.ids.shape[1]
        self.layer_tokens = layer_tokens
        self.first_token_at: float | None = None
        self.ids: list[int] = []
        self.notices: tuple[str, ...] = ()

    @property
    def output_tokens(self) -> int:
        """Return the number of tokens generated so far."""
        return len(self.ids)

    def __iter__(self) -> Generator[str, None, None]:
        # 1. Start the thread, after the threads of abandoned answers have ended.
        self._left.wait()
        pieces: SimpleQueue[str | BaseException | None] = SimpleQueue()
        stop = threading.Event()
        thread = threading.Thread(target=self._run, args=(pieces, stop), name="aot-answer", daemon=True)
        thread.start()
        # 2. Yield the pieces from the queue. If the caller leaves the loop, Python raises
        # GeneratorExit here.
        try:
            while isinstance(piece := pieces.get(), str):
                yield piece
        finally:
            stop.set()
            self._left.leave(thread)
        # 3. Raise an error of the thread in the caller's thread.
        if piece is not None:
            with explained_memory():
                raise piece

    def _run(self, pieces: SimpleQueue[str | BaseException | None], stop: threading.Event) -> None:
        """Put the pieces into the queue, and last None, or the error that ended the answer."""
        try:
            for number, piece in enumerate(self.pieces()):
                if stop.is_set():
                    break
                if piece or number == 0:
                    pieces.put(piece)
        except BaseException as error:  # the iterating thread raises the error
            pieces.put(error)
        else:
            pieces.put(None)

    def pieces(self) -> Iterator[str]:
        """Generate in the current thread; after each token, yield the new text (often empty).

        The first piece is empty and comes when the first token is queued.
        """
        self.first_token_at, self.ids = None, []
        text, due = TextPieces(self._tokenizer), 0.0
        decoding = self._begin()
        yield ""
        if self._prompt.tokens.unread is not None:
            self._prompt.tokens.unread.read()
        for word in self._words(decoding):
            # An empty piece is yielded too, so that `_run` can stop after any token.
            text.add(word)
            now = time.perf_counter()
            piece = text.complete() if now >= due else ""
            if piece:
                due = now + _BETWEEN_PIECES_S
            yield piece
        yield text.end()

    def _words(self, decoding: Decoding | None = None) -> Iterator[int]:
        """Yield the generated ids, up to and including the end token."""
        ends = end_ids(self._model.settings)
        decoding = decoding or self._begin()
        for (ids,) in decoding:
            # The ids are on the host, so the device has computed them.
            self.first_token_at = self.first_token_at or time.perf_counter()
            self.notices = decoding.notices
            for word in ids:
                self.ids.append(word)
                yield word
                if word in ends:
                    return

    @torch.inference_mode()
    def _begin(self) -> Decoding:
        """Queue prefill and the first token; return the decoding loop that continues the prompt."""
        prompt = self._prompt
        read = self._read(room_for(self._options))
        self.layer_tokens = read.layer_tokens or self.layer_tokens
        past = Past(prompt.ids, self._options.max_new_tokens)
        found = ReadPrompts(read.cache, read.last, past, prompt.following())
        return Decoding(self._model, found, self._options)
