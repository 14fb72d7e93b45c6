"""An answer whose text arrives in pieces."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import torch

from aot.config.schema import GenerationConfig
from aot.models.language.decoding import MOST_ROOM, Decoding, LanguageModel, Prefilled, ReadPrompts, states_behind
from aot.models.language.prompt import VideoPrompt
from aot.models.language.slots import slot_cache
from aot.models.language.text_pieces import TextPieces
from aot.models.language.word_rules import Past, end_ids
from aot.runtime.memory import explained_memory

__all__ = ["LeftAnswers", "StreamedAnswer", "read_prompt", "room_for"]

# Small models write many words in this time, and a piece of text for each would slow them down.
_BETWEEN_PIECES_S = 0.02
_PATIENCE_S = 2.0  # how long leaving an answer waits for its thread; a forward pass cannot be interrupted


class LeftAnswers:
    """The threads of answers that were left early, until the forward pass they are in is done."""

    def __init__(self) -> None:
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()

    def leave(self, thread: threading.Thread) -> None:
        """Wait for a thread that is to stop, but not for long."""
        with self._lock:
            self._threads = [each for each in (*self._threads, thread) if each.is_alive()]
        if thread is not threading.current_thread():  # the garbage collector leaves answers in any thread
            thread.join(_PATIENCE_S)

    def wait(self) -> None:
        """Wait until none of them runs."""
        with self._lock:
            threads = list(self._threads)
        for thread in threads:
            thread.join()


def room_for(options: GenerationConfig) -> int:
    """Return how many slots a cache should have for the answer."""
    return min(options.max_new_tokens, MOST_ROOM)


@torch.inference_mode()
def read_prompt(language: Any, prompt: VideoPrompt, room: int, behind: Any = None, rows: int = 0) -> Prefilled:
    """Read a prompt with a language model.

    Args:
        language: without its head.
        prompt: the whole prompt.
        room: slots for the answer.
        behind: a cache that holds the first `rows` of the prompt; the others are no visual tokens.
        rows: how many rows are read already.
    """
    cache = slot_cache(language.config, room) if behind is None else behind
    given = prompt.language_inputs(rows)
    return Prefilled(cache, states_behind(language, given.pop("inputs_embeds"), cache, **given))


class StreamedAnswer:
    """An answer that is written in a thread while it is iterated, and yields text.

    Leaving the loop early stops the thread, and no other answer of the model begins before it has
    stopped. Each iteration writes the answer anew. The ids of the prompt count for a repetition
    penalty of the checkpoint.

    read: reads the prompt, with a number of slots for the answer. layer_tokens: visual tokens in
    each layer of the language model, if that is known before. left: of the model.
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
        self.output_tokens = 0
        self.notices: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[str]:
        self._left.wait()
        pieces: SimpleQueue[str | _End] = SimpleQueue()
        stop = threading.Event()
        thread = threading.Thread(target=self._run, args=(pieces, stop), name="aot-answer", daemon=True)
        thread.start()
        try:
            while not isinstance(piece := pieces.get(), _End):
                yield piece
        finally:
            stop.set()
            self._left.leave(thread)
        if piece.failure:
            with explained_memory():
                raise piece.failure

    def _run(self, pieces: SimpleQueue[str | _End], stop: threading.Event) -> None:
        try:
            for piece in self.pieces():
                if stop.is_set():
                    break
                if piece:
                    pieces.put(piece)
        except BaseException as error:  # handed to the reading thread, which raises it
            pieces.put(_End(error))
        else:
            pieces.put(_End())

    def pieces(self) -> Iterator[str]:
        """Write in this thread, and yield the text that has become complete, often none."""
        self.first_token_at, self.output_tokens = None, 0
        text, due = TextPieces(self._tokenizer), 0.0
        for word in self._words():
            text.add(word)
            now = time.perf_counter()
            piece = text.complete() if now >= due else ""
            if piece:
                due = now + _BETWEEN_PIECES_S
            yield piece
        yield text.end()

    def _words(self) -> Iterator[int]:
        """Yield ids up to the one that ends the answer, with it."""
        ends = end_ids(self._model.settings)
        decoding = self._begin()
        for (ids,) in decoding:
            self.first_token_at = self.first_token_at or time.perf_counter()  # on the host, so the device is done
            self.notices = decoding.notices
            for word in ids:
                self.output_tokens += 1
                yield word
                if word in ends:
                    return

    @torch.inference_mode()
    def _begin(self) -> Decoding:
        prompt = self._prompt
        read = self._read(room_for(self._options))
        self.layer_tokens = read.layer_tokens or self.layer_tokens
        past = Past(prompt.ids, self._options.max_new_tokens)
        return Decoding(self._model, ReadPrompts(read.cache, read.last, past, prompt.following()), self._options)


@dataclass(frozen=True, slots=True)
class _End:
    """Follows the last piece. failure: the error that ended the answer early."""

    failure: BaseException | None = None
