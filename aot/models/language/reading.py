"""Several questions about one video.

The language model reads the video once, and all questions share its keys and values. If the
question decides which tokens are left inside the language model, it is read again for each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from aot.config.schema import GenerationConfig
from aot.models.language.answer import LeftAnswers, StreamedAnswer, read_prompt, room_for
from aot.models.language.decoding import Decoding, LanguageModel, Prefilled, ReadPrompts, states_behind, until_end
from aot.models.language.prompt import VideoPrompt
from aot.models.language.slots import branched_cache
from aot.models.language.word_rules import Past, end_ids

__all__ = ["Reading", "ReadingAnew"]

_MOST_TOGETHER = 64  # questions in one forward pass
_COPIES_BYTES = 2 << 30  # each of them has its own copy of the video's keys and values
_SHORT = 6  # tokens; most answers end by then, and do not wait for a long one of their batch


class ReadingAnew:
    """Answers each question with its own pass over the whole prompt, by `ask`."""

    def __init__(self, ask: Callable[[str, GenerationConfig], StreamedAnswer]) -> None:
        self._ask = ask

    def generate(self, question: str, options: GenerationConfig) -> StreamedAnswer:
        """Begin an answer, as `Reading.generate`."""
        return self._ask(question, options)

    def answers(self, questions: Sequence[str], options: GenerationConfig) -> list[str]:
        """Return the answers, which are written one after the other."""
        return ["".join(self._ask(question, options)) for question in questions]


class Reading:
    """Answers questions after one prefix; answers are those of the whole prompt, up to rounding.

    prefix: the prompt up to the end of the video. suffix_of: returns the ids that follow for a
    question. layer_tokens: visual tokens in each layer.
    """

    def __init__(
        self,
        model: LanguageModel,
        tokenizer: Any,
        prefix: VideoPrompt,
        suffix_of: Callable[[str], list[int]],
        left: LeftAnswers,
        layer_tokens: tuple[int, ...] = (),
    ) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._prefix, self._suffix_of, self._layer_tokens = prefix, suffix_of, layer_tokens
        self._left = left

    @cached_property
    def _cache(self) -> Any:
        self._left.wait()
        return read_prompt(self._model.body, self._prefix, 0).cache

    @torch.inference_mode()
    def generate(self, question: str, options: GenerationConfig) -> StreamedAnswer:
        """Begin an answer; its text comes as it is written.

        Raises:
            ConfigError: the question is empty, too long, or holds a control word of the model.
        """
        suffix = torch.tensor([self._suffix_of(question)], device=self._prefix.ids.device)
        prompt, cache = self._prefix.followed_by(suffix, self._model.embed(suffix)), self._cache

        def read(room: int) -> Prefilled:
            behind = branched_cache(cache, 1, suffix.shape[1] + room)
            return read_prompt(self._model.body, prompt, room, behind, self._prefix.video_end)

        return StreamedAnswer(self._model, self._tokenizer, prompt, options, read, self._left, self._layer_tokens)

    @torch.inference_mode()
    def answers(self, questions: Sequence[str], options: GenerationConfig) -> list[str]:
        """Return the answer to every question; several are written in one pass.

        Raises:
            ConfigError: as `generate`.
        """
        self._left.wait()
        suffixes = [self._suffix_of(question) for question in questions]
        short = min(options.max_new_tokens, max(_SHORT, options.min_new_tokens))
        written = self._write(suffixes, replace(options, max_new_tokens=short))
        if short < options.max_new_tokens:
            ends = end_ids(self._model.settings)
            going_on = [row for row, ids in enumerate(written) if ids[-1] not in ends]
            again = self._write([suffixes[row] for row in going_on], options)
            for row, ids in zip(going_on, again, strict=True):
                written[row] = ids
        return [self._tokenizer.decode(ids, skip_special_tokens=True) for ids in written]

    def _write(self, suffixes: Sequence[Sequence[int]], options: GenerationConfig) -> list[list[int]]:
        if not suffixes:
            return []
        step = min(max(_COPIES_BYTES // _cache_bytes(self._cache), 1), _MOST_TOGETHER)
        groups = [suffixes[first : first + step] for first in range(0, len(suffixes), step)]
        return [ids for group in groups for ids in self._write_group(group, options)]

    def _write_group(self, suffixes: Sequence[Sequence[int]], options: GenerationConfig) -> list[list[int]]:
        ends, written = end_ids(self._model.settings), [list[int]() for _ in suffixes]
        for more in Decoding(self._model, self._read_group(suffixes, options), options):
            written = [until_end([*ids, *new], ends) for ids, new in zip(written, more, strict=True)]
            if all(ends & set(ids[-1:]) for ids in written):
                break
        return written

    def _read_group(self, suffixes: Sequence[Sequence[int]], options: GenerationConfig) -> ReadPrompts:
        """Read suffixes; shorter ones have masked padding on the left, without positions."""
        prefix, count, most = self._prefix, len(suffixes), options.max_new_tokens
        longest = max(map(len, suffixes))
        padding = [longest - len(suffix) for suffix in suffixes]
        ids = torch.tensor(
            [[suffix[0]] * pad + list(suffix) for pad, suffix in zip(padding, suffixes, strict=True)],
            device=prefix.ids.device,
        )
        before = torch.tensor(padding, device=ids.device)[:, None]
        cache = branched_cache(self._cache, count, longest + room_for(options))
        seen = None
        if any(padding):
            place = torch.arange(prefix.video_end + longest + most, device=ids.device) - prefix.video_end
            seen = (place < 0) | (place >= before)
        last = states_behind(
            self._model.body,
            self._model.embed(ids),
            cache,
            attention_mask=None if seen is None else seen[:, : prefix.video_end + longest],
            position_ids=self._positions(torch.arange(longest, device=ids.device) - before),
        )
        # In the ids so far the padding comes first, so that nothing separates the ids of a prompt.
        whole = torch.cat([prefix.ids.expand(count, -1), ids], 1)
        column = torch.arange(whole.shape[1], device=ids.device)
        of_whole = torch.where(column < before + prefix.video_end, (column - before).clamp(min=0), column)
        past = Past(whole.gather(1, of_whole), most, first=before)
        return ReadPrompts(cache, last, past, self._positions(longest - before), seen)

    def _positions(self, behind: Tensor) -> Tensor:
        """Return positions [B, R] or [3, B, R] of text that follows the video at a distance."""
        return self._prefix.following() + behind.clamp(min=0)


def _cache_bytes(cache: Any) -> int:
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
