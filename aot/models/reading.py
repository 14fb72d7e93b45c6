"""A video for several questions. The language model reads it once, and all questions share its keys and values; where
the question decides what is left of the video inside the language model, it is read anew for each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from aot.config import GenerationConfig
from aot.models.answer import LeftAnswers, StreamedAnswer, read_prompt
from aot.models.kv_cache import cache_argument, copied_cache
from aot.models.prompt import VideoPrompt
from aot.models.word_choice import generation_arguments

__all__ = ["Reading", "ReadingAnew"]

_MOST_TOGETHER = 64  # questions in one forward pass
_COPIES_BYTES = 2 << 30  # each of them has its own copy of the video's keys and values
_SHORT = 6  # tokens; most answers are done by then, and do not wait for a long one beside them


class ReadingAnew:
    """Each question gets the answer that `ask` begins when it is asked alone."""

    def __init__(self, ask: Callable[[str, GenerationConfig], StreamedAnswer]) -> None:
        self._ask = ask

    def generate(self, question: str, options: GenerationConfig) -> StreamedAnswer:
        """As `Reading.generate`."""
        return self._ask(question, options)

    def answers(self, questions: Sequence[str], options: GenerationConfig) -> list[str]:
        """As `Reading.answers`, one after the other."""
        return ["".join(self._ask(question, options)) for question in questions]


class Reading:
    """Answers are those of the whole prompt, but for rounding.

    prefix: everything up to and with the video; `suffix_of` gives the token ids that follow for a question.
    layer_tokens: visual tokens in each layer.
    """

    def __init__(
        self,
        network: Any,
        tokenizer: Any,
        prefix: VideoPrompt,
        suffix_of: Callable[[str], list[int]],
        left: LeftAnswers,
        layer_tokens: tuple[int, ...] = (),
    ) -> None:
        self._network, self._tokenizer = network, tokenizer
        self._prefix, self._suffix_of, self._layer_tokens = prefix, suffix_of, layer_tokens
        self._left = left

    @cached_property
    def _cache(self) -> Any:
        self._left.wait()
        with torch.inference_mode():
            return read_prompt(self._network.model.language_model, self._prefix)

    @torch.inference_mode()
    def generate(self, question: str, options: GenerationConfig) -> StreamedAnswer:
        """Begin an answer; its text comes as it is written.

        Raises:
            ConfigError: the question is empty or too long, or holds one of the model's control words.
        """
        suffix = torch.tensor([self._suffix_of(question)], device=self._prefix.ids.device)
        prompt = self._prefix.followed_by(suffix, self._network.get_input_embeddings()(suffix))
        return StreamedAnswer(
            self._network,
            self._tokenizer,
            prompt,
            options,
            self._left,
            cache=self._cache,
            layer_tokens=self._layer_tokens,
        )

    @torch.inference_mode()
    def answers(self, questions: Sequence[str], options: GenerationConfig) -> list[str]:
        """The answer to every question, several in one pass.

        Raises:
            ConfigError: as `generate`.
        """
        self._left.wait()
        suffixes = [self._suffix_of(question) for question in questions]
        short = min(options.max_new_tokens, max(_SHORT, options.min_new_tokens))
        written = self._write(suffixes, replace(options, max_new_tokens=short))
        if short < options.max_new_tokens:
            going_on = [row for row, ids in enumerate(written) if ids[-1] not in self._last_ids]
            again = self._write([suffixes[row] for row in going_on], options)
            for row, ids in zip(going_on, again, strict=True):
                written[row] = ids
        return [self._tokenizer.decode(ids, skip_special_tokens=True) for ids in written]

    @cached_property
    def _last_ids(self) -> set[int]:
        ends = self._network.generation_config.eos_token_id
        return {self._tokenizer.pad_token_id, *(ends if isinstance(ends, list) else [ends])}

    def _write(self, suffixes: Sequence[Sequence[int]], options: GenerationConfig) -> list[list[int]]:
        if not suffixes:
            return []
        step = min(max(_COPIES_BYTES // _cache_bytes(self._cache), 1), _MOST_TOGETHER)
        groups = [suffixes[first : first + step] for first in range(0, len(suffixes), step)]
        return [ids for group in groups for ids in self._write_group(group, options)]

    def _write_group(self, suffixes: Sequence[Sequence[int]], options: GenerationConfig) -> list[list[int]]:
        """Shorter suffixes are padded in front, behind the shared prefix; masked padding takes no position."""
        longest = max(map(len, suffixes))
        pad, first = self._tokenizer.pad_token_id, self._prefix.video_end
        padded = [[pad] * (longest - len(suffix)) + list(suffix) for suffix in suffixes]
        prefix = self._prefix.ids.expand(len(suffixes), -1)
        ids = torch.cat([prefix, torch.tensor(padded, device=prefix.device)], 1)
        mask = torch.ones_like(ids)
        for row, suffix in enumerate(suffixes):
            mask[row, first : first + longest - len(suffix)] = 0
        shared = copied_cache(self._cache)
        shared.batch_repeat_interleave(len(suffixes))
        written = self._network.generate(
            input_ids=ids,
            attention_mask=mask,
            pad_token_id=pad,
            **cache_argument(type(self._network).forward, shared),
            **self._positions([len(suffix) for suffix in suffixes]),
            **generation_arguments(self._network, options),
        )
        return list(written[:, ids.shape[1] :].tolist())

    def _positions(self, lengths: Sequence[int]) -> dict[str, Tensor]:
        """Positions of padded suffixes where they are not those of the mask; padding has any."""
        of_prefix = self._prefix.positions
        if of_prefix is None:
            return {}
        longest, rows = max(lengths), []
        for length in lengths:
            whole = self._prefix.positions_with(length)
            assert whole is not None
            padding = whole[..., -1:].expand(*whole.shape[:-1], longest - length)
            rows.append(torch.cat([of_prefix, padding, whole[..., -length:]], -1))
        return {"position_ids": torch.cat(rows, -2)}


def _cache_bytes(cache: Any) -> int:
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
