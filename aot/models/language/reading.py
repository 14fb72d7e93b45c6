"""Answer several questions about one video.

The language model reads the video once, and all questions share the keys and values. With a
reduction inside the language model, the video is read again for each question.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from aot.config.schema import GenerationConfig
from aot.models.language.answer import LeftAnswers, StreamedAnswer, read_prompt, room_for
from aot.models.language.decoding import (
    Decoding,
    LanguageModel,
    Prefilled,
    ReadPrompts,
    last_hidden_states,
    until_end,
)
from aot.models.language.forcing import ForcedAnswer, predicted
from aot.models.language.prompt import VideoPrompt
from aot.models.language.slots import branched_cache
from aot.models.language.word_rules import Past, end_ids

__all__ = ["Reading", "ReadingAnew"]

_MOST_TOGETHER = 64  # questions in one forward pass
# The memory limit for copies of the video's keys and values; each question has its own copy.
_COPIES_BYTES = 2 << 30
# Tokens per answer in a first pass over all questions. Most answers end within these tokens. Only
# the longer answers take part in a second pass, so that they do not delay the short answers.
_SHORT = 6


@dataclass(frozen=True, slots=True)
class _Padded:
    """A batch of B suffixes, padded on the left to R rows.

    Padding repeats a suffix's own first id; it is masked and takes no positions.

    Attributes:
        ids: int64 [B, R].
        before: int64 [B, 1], the number of rows of padding.
        seen: bool [B, the rows of the prefix, R and those that follow], false for padding; None if
            there is no padding.
    """

    ids: Tensor
    before: Tensor
    seen: Tensor | None

    @property
    def rows(self) -> int:
        """Return R."""
        return self.ids.shape[1]


class ReadingAnew:
    """Answer each question with the function `ask`, which reads the whole prompt each time.

    `force` returns what the model predicts along a given answer to one question.
    """

    def __init__(
        self,
        ask: Callable[[str, GenerationConfig], StreamedAnswer],
        force: Callable[[str, Sequence[int], GenerationConfig], ForcedAnswer],
    ) -> None:
        self._ask, self._force = ask, force

    def generate(self, question: str, options: GenerationConfig) -> StreamedAnswer:
        """Start to answer a question; see `Reading.generate`."""
        return self._ask(question, options)

    def answers(self, questions: Sequence[str], options: GenerationConfig) -> list[str]:
        """Return the answers, which are generated one after the other."""
        return ["".join(self._ask(question, options)) for question in questions]

    def force(
        self, questions: Sequence[str], answers: Sequence[Sequence[int]], options: GenerationConfig
    ) -> list[ForcedAnswer]:
        """Return what the model predicts along given answers; see `Reading.force`."""
        return [self._force(text, answer, options) for text, answer in zip(questions, answers, strict=True)]


class Reading:
    """Answer several questions after a common prefix, which is read once.

    Up to rounding, the answers are the same as if each whole prompt were read separately. `prefix`
    is the prompt up to the end of the video. `suffix_of(question)` returns the token ids of the
    rest of the prompt.
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
        """Return the keys and values of the prefix, which is read at the first use."""
        self._left.wait()
        return read_prompt(self._model, self._prefix, 0).cache

    @torch.inference_mode()
    def generate(self, question: str, options: GenerationConfig) -> StreamedAnswer:
        """Start an answer; its text is generated while the caller iterates over it.

        Raises:
            ConfigError: If the question is empty, too long, or contains a control word.
        """
        prompt, cache = self._prompt(question), self._cache

        def read(room: int) -> Prefilled:
            # A copy, because the rows of this question must not stay in the common cache.
            branch = branched_cache(cache, 1, prompt.ids.shape[1] - self._prefix.video_end + room)
            return read_prompt(self._model, prompt, room, branch, self._prefix.video_end)

        return StreamedAnswer(self._model, self._tokenizer, prompt, options, read, self._left, self._layer_tokens)

    @torch.inference_mode()
    def answers(self, questions: Sequence[str], options: GenerationConfig) -> list[str]:
        """Return the answer to each question; the answers are generated in batches.

        Raises:
            ConfigError: See `generate`.
        """
        # 1. All questions, with at most `short` tokens per answer.
        self._left.wait()
        suffixes = [self._suffix_of(question) for question in questions]
        short = min(options.max_new_tokens, max(_SHORT, options.min_new_tokens))
        written = self._write(suffixes, replace(options, max_new_tokens=short))
        # 2. Generate each answer that has not ended again, from the start.
        if short < options.max_new_tokens:
            ends = end_ids(self._model.settings)
            going_on = [row for row, ids in enumerate(written) if ids[-1] not in ends]
            again = self._write([suffixes[row] for row in going_on], options)
            for row, ids in zip(going_on, again, strict=True):
                written[row] = ids
        return [self._tokenizer.decode(ids, skip_special_tokens=True) for ids in written]

    @torch.inference_mode()
    def force(
        self, questions: Sequence[str], answers: Sequence[Sequence[int]], options: GenerationConfig
    ) -> list[ForcedAnswer]:
        """Return what the model predicts along a given answer to each question, read in batches.

        Args:
            questions: the questions.
            answers: the ids of each answer, at least one; often of another model or prompt.
            options: the settings of generation; the temperature has no effect.

        Raises:
            ConfigError: See `generate`.
        """
        self._left.wait()
        suffixes = [[*self._suffix_of(text), *answer[:-1]] for text, answer in zip(questions, answers, strict=True)]
        return [
            forced
            for part in self._parts(len(suffixes))
            for forced in self._force_group(suffixes[part], answers[part], options)
        ]

    def _force_group(
        self, suffixes: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], options: GenerationConfig
    ) -> Iterator[ForcedAnswer]:
        """Yield the predictions of one batch; each suffix ends before the last id of its answer."""
        padded = self._padded(suffixes, 0)
        states = self._states(padded, branched_cache(self._cache, len(suffixes), padded.rows), max(map(len, answers)))
        for row, suffix, answer in zip(states, suffixes, answers, strict=True):
            asked = suffix[: len(suffix) - len(answer) + 1]
            prompt = torch.cat([self._prefix.ids, self._prefix.ids.new_tensor([asked])], 1)
            yield predicted(self._model, prompt, answer, row[-len(answer) :], options)

    def _prompt(self, question: str) -> VideoPrompt:
        """Return the whole prompt of a question."""
        suffix = torch.tensor([self._suffix_of(question)], device=self._prefix.ids.device)
        return self._prefix.followed_by(suffix, self._model.embed(suffix))

    def _write(self, suffixes: Sequence[Sequence[int]], options: GenerationConfig) -> list[list[int]]:
        """Return the ids of the answers, generated in batches that fit into the memory limit."""
        return [ids for part in self._parts(len(suffixes)) for ids in self._write_group(suffixes[part], options)]

    def _parts(self, count: int) -> Iterator[slice]:
        """Yield the slices of `count` questions that are batches within the memory limit."""
        step = min(max(_COPIES_BYTES // _cache_bytes(self._cache), 1), _MOST_TOGETHER) if count else 1
        return (slice(first, first + step) for first in range(0, count, step))

    def _write_group(self, suffixes: Sequence[Sequence[int]], options: GenerationConfig) -> list[list[int]]:
        """Return the ids of the answers of one batch, up to their end tokens."""
        ends, written = end_ids(self._model.settings), [list[int]() for _ in suffixes]
        for more in Decoding(self._model, self._read_group(suffixes, options), options):
            written = [until_end([*ids, *new], ends) for ids, new in zip(written, more, strict=True)]
            if all(ends & set(ids[-1:]) for ids in written):
                break
        return written

    def _read_group(self, suffixes: Sequence[Sequence[int]], options: GenerationConfig) -> ReadPrompts:
        """Run prefill of one batch of suffixes after the common prefix."""
        # 1. Each suffix continues its own copy of the prefix.
        prefix, count = self._prefix, len(suffixes)
        padded = self._padded(suffixes, options.max_new_tokens)
        ids, before = padded.ids, padded.before
        cache = branched_cache(self._cache, count, padded.rows + room_for(options))
        last = self._states(padded, cache, 1)[:, 0]
        # 2. For the rules about runs of ids, padding is moved before the prefix, so that the prompt
        # has no gap.
        whole = torch.cat([prefix.ids.expand(count, -1), ids], 1)
        column = torch.arange(whole.shape[1], device=ids.device)
        of_whole = torch.where(column < before + prefix.video_end, (column - before).clamp(min=0), column)
        past = Past(whole.gather(1, of_whole), options.max_new_tokens, first=before)
        return ReadPrompts(cache, last, past, self._positions(padded.rows - before), padded.seen)

    def _padded(self, suffixes: Sequence[Sequence[int]], more: int) -> _Padded:
        """Return one batch of suffixes, each of which at most `more` tokens will follow."""
        longest = max(map(len, suffixes))
        padding = [longest - len(suffix) for suffix in suffixes]
        ids = torch.tensor(
            [[suffix[0]] * pad + list(suffix) for pad, suffix in zip(padding, suffixes, strict=True)],
            device=self._prefix.ids.device,
        )
        before, seen = torch.tensor(padding, device=ids.device)[:, None], None
        if any(padding):
            end = self._prefix.video_end
            index = torch.arange(end + longest + more, device=ids.device) - end
            seen = (index < 0) | (index >= before)
        return _Padded(ids, before, seen)

    def _states(self, padded: _Padded, cache: Any, count: int) -> Tensor:
        """Read a batch after the prefix in `cache`; return the last states [B, count, D]."""
        seen = padded.seen
        return last_hidden_states(
            self._model.body,
            self._model.embed(padded.ids),
            cache,
            count,
            attention_mask=None if seen is None else seen[:, : self._prefix.video_end + padded.rows],
            position_ids=self._positions(torch.arange(padded.rows, device=padded.ids.device) - padded.before),
        )

    def _positions(self, distance: Tensor) -> Tensor:
        """Return the positions, [B, R] or [3, B, R], of R rows of text per sequence.

        `distance` [B, R] is the number of rows between the end of the video and each row.
        """
        return self._prefix.following() + distance.clamp(min=0)


def _cache_bytes(cache: Any) -> int:
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
