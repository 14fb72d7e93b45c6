"""Apply a checkpoint's rules for the next token (generation_config.json), as transformers does.

Rules read ids from tensors with fixed shapes that are updated in place. So a rule can be part of a
CUDA graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from aot.compression.ops.uploads import uploaded

__all__ = ["Past", "Rule", "end_ids", "word_rules"]

_NEVER = float("-inf")


class Past:
    """The ids of B prompts of P ids each, followed by up to N generated ids.

    Attributes:
        ids: int64 [B, P + N]. Entries that are not generated yet repeat the prompt's first id, so
            that they add no new id.
        read: P, the number of prompt ids.
        count: int64 [1], the number of ids so far: P plus the generated ids.
        first: int64 [B, 1], the index at which the prompt starts, after padding.
    """

    def __init__(self, prompts: Tensor, room: int, first: Tensor | None = None) -> None:
        self.ids = torch.cat([prompts, prompts[:, :1].expand(-1, room)], 1)
        self.read = prompts.shape[1]
        self.count = torch.full((1,), self.read, device=prompts.device)
        self.first = torch.zeros_like(prompts[:, :1]) if first is None else first

    def append(self, words: Tensor) -> None:
        """Append the next token of each sequence, `words` [B]."""
        self.ids.index_copy_(1, self.count, words[:, None])
        self.count += 1

    def last(self, count: int) -> Tensor:
        """Return the last `count` ids of each sequence, [B, count]."""
        back = torch.arange(count, 0, -1, device=self.ids.device)
        return self.ids.index_select(1, (self.count - back).clamp(min=0))


Rule = Callable[[Tensor, Past], Tensor]  # logits [B, V] float32 and the past -> new logits


def word_rules(settings: Any, min_new_tokens: int, vocabulary: int, device: torch.device) -> list[Rule]:
    """Return the rules that `settings` and `min_new_tokens` set, in the order of transformers."""
    rules: list[Rule] = []
    penalty = getattr(settings, "repetition_penalty", None)
    if penalty not in (None, 1.0):
        rules.append(_RepetitionPenalty(penalty))
    size = getattr(settings, "no_repeat_ngram_size", None)
    if size:
        rules.append(_NoRepeat(size))
    # To forbid an end token would make answers endless; transformers ignores such entries too.
    ends = end_ids(settings)
    words = [word for word in getattr(settings, "bad_words_ids", None) or () if len(word) > 1 or word[0] not in ends]
    if words:
        rules.append(_BadWords(words, device))
    if min_new_tokens:
        rules.append(_NotBefore(min_new_tokens, _members(ends, vocabulary, device)))
    suppressed = _ids(getattr(settings, "suppress_tokens", None))
    if suppressed:
        rules.append(_Suppressed(_members(suppressed, vocabulary, device)))
    at_first = _ids(getattr(settings, "begin_suppress_tokens", None))
    if at_first:
        rules.append(_NotBefore(1, _members(at_first, vocabulary, device)))
    return rules


def end_ids(settings: Any) -> frozenset[int]:
    """Return the ids that end an answer."""
    return frozenset(_ids(settings.eos_token_id))


def _ids(value: int | Sequence[int] | None) -> list[int]:
    if value is None:
        return []
    return [value] if isinstance(value, int) else list(value)


def _members(ids: Sequence[int] | frozenset[int], vocabulary: int, device: torch.device) -> Tensor:
    """Return bool [V], true for the tokens of the vocabulary that are in `ids`."""
    # `ids` may hold ids for which there is no logit.
    known = sorted(word for word in ids if word < vocabulary)
    members = torch.zeros(vocabulary, dtype=torch.bool)
    members[known] = True
    return uploaded(members, device)


class _RepetitionPenalty:
    """Lower the logits of ids that occurred before."""

    def __init__(self, penalty: float) -> None:
        self._penalty = penalty

    def __call__(self, scores: Tensor, past: Past) -> Tensor:
        # An id that occurs several times is written several times with the same value.
        seen = scores.gather(1, past.ids)
        return scores.scatter(1, past.ids, torch.where(seen < 0, seen * self._penalty, seen / self._penalty))


class _NoRepeat:
    """Forbid each token that would repeat an earlier run of `size` tokens."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __call__(self, scores: Tensor, past: Past) -> Tensor:
        if past.ids.shape[1] < self._size:
            return scores
        # 1. All runs of the past that are complete and contain no padding.
        runs = past.ids.unfold(1, self._size, 1)  # [B, R, size]
        number = torch.arange(runs.shape[1], device=scores.device)
        complete = (number + self._size <= past.count) & (number >= past.first)
        # 2. Forbid the last token of each run whose other tokens equal the most recent tokens.
        again = (runs[..., :-1] == past.last(self._size - 1)[:, None]).all(-1) & complete
        return _without(scores, runs[..., -1], again)


class _BadWords:
    """Forbid each token that would complete one of the id sequences `words`."""

    def __init__(self, words: Sequence[Sequence[int]], device: torch.device) -> None:
        # Shorter sequences are padded on the left with -1, which matches everything.
        before = max(map(len, words)) - 1
        padded = [[-1] * (before + 1 - len(word)) + list(word) for word in words]
        ids = uploaded(torch.tensor(padded), device)
        self._before, self._last = ids[:, :-1], ids[:, -1]

    def __call__(self, scores: Tensor, past: Past) -> Tensor:
        # Forbid the last token of each sequence whose other tokens equal the most recent tokens.
        # Padding does not count as a recent token.
        before = self._before
        back = torch.arange(before.shape[1], 0, -1, device=scores.device)
        known = past.count - back >= past.first  # [B, before]
        same = (past.last(before.shape[1])[:, None] == before) & known[:, None]
        ends = (same | (before < 0)).all(-1)  # [B, words]
        return _without(scores, self._last.expand(len(scores), -1), ends)


class _NotBefore:
    """Forbid the tokens marked in `words`, bool [V], until `count` tokens are generated."""

    def __init__(self, count: int, words: Tensor) -> None:
        self._count, self._words = count, words

    def __call__(self, scores: Tensor, past: Past) -> Tensor:
        early = past.count - past.read < self._count
        return scores.masked_fill(self._words & early, _NEVER)


class _Suppressed:
    """Forbid the tokens marked in `words`, bool [V], at every step."""

    def __init__(self, words: Tensor) -> None:
        self._words = words

    def __call__(self, scores: Tensor, past: Past) -> Tensor:
        return scores.masked_fill(self._words, _NEVER)


def _without(scores: Tensor, words: Tensor, banned: Tensor) -> Tensor:
    """Set the score of each of `words` [B, N] to minus infinity where `banned` [B, N] is true."""
    # A token may be listed several times; it is forbidden if one of its entries is banned. Sums do
    # not depend on the order of writes.
    found = torch.zeros_like(scores).scatter_add_(1, words, banned.to(scores.dtype))
    return scores.masked_fill(found > 0, _NEVER)
