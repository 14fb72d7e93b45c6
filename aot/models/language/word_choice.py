"""Choose tokens by the user's settings and the checkpoint's generation_config.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from aot.config.schema import GenerationConfig
from aot.models.language.word_rules import Past, word_rules

__all__ = ["SeededChoice", "WordChoice", "ignored_settings", "understood_settings"]

# At lower temperatures logits / temperature overflows float32; the best token is certain anyway.
_LEAST_TEMPERATURE = 1e-30


class WordChoice:
    """Choose the next token of each sequence: the best token at temperature 0, else a random token.

    The checkpoint's rules apply in both cases, its filters (e.g. top_p) only to random tokens.
    `settings` is the network's generation_config, `vocabulary` the number of logits.
    """

    def __init__(self, settings: Any, options: GenerationConfig, vocabulary: int, device: torch.device) -> None:
        self._rules = word_rules(settings, options.min_new_tokens, vocabulary, device)
        self._drawn: SeededChoice | None = None
        if options.temperature > 0:
            # Allocated once, because a CUDA graph reads a fixed address.
            clocks = torch.empty(vocabulary, device=device)
            self._drawn = SeededChoice(options.temperature, options.seed, clocks, _filters(settings))

    @property
    def unfinished(self) -> str | None:
        """Return the name of the setting whose filter failed in the last call, or None."""
        return self._drawn.unfinished if self._drawn else None

    @property
    def reads_past(self) -> bool:
        """Return whether a choice depends on earlier tokens."""
        return bool(self._rules)

    def prepare(self) -> None:
        """Draw random numbers for the next choice, outside the CUDA graph of a step."""
        if self._drawn:
            self._drawn.wind()

    def __call__(self, logits: Tensor, past: Past) -> Tensor:
        """Return the tokens [B] for logits [B, V]."""
        scores = logits.float()
        for rule in self._rules:
            scores = rule(scores, past)
        return self._drawn(scores) if self._drawn else scores.argmax(-1)


_Filter = Callable[[Any, Tensor], Tensor]


class SeededChoice:
    """Draw a token from softmax(logits / temperature), restricted by `filters`.

    Each token w has a probability p(w) and an exponential random variable E(w). The token with the
    largest p(w) / E(w) is chosen; this is w with probability p(w). Before each choice, `wind` draws
    all E(w) into `clocks` [V] from a separate generator. So equal seeds give equal tokens, even if
    other code uses random numbers. All sequences of a batch share E(w), so each sequence gets the
    tokens that it would get alone.
    """

    def __init__(
        self, temperature: float, seed: int, clocks: Tensor, filters: Mapping[str, _Filter] | None = None
    ) -> None:
        self._temperature = max(temperature, _LEAST_TEMPERATURE)
        self._clocks, self._filters = clocks, filters or {}
        self._generator = torch.Generator(clocks.device).manual_seed(seed)
        self.unfinished: str | None = None  # the name of the filter that raised an error

    def wind(self) -> None:
        """Draw new exponential variables."""
        self._clocks.exponential_(generator=self._generator)

    def __call__(self, scores: Tensor) -> Tensor:
        """Return the tokens [B] for scores [B, V] float32."""
        # The maximum becomes 0, so that no quotient overflows.
        scaled = (scores - scores.amax(-1, keepdim=True)) / self._temperature
        for name, cut in self._filters.items():
            self.unfinished = name  # stays if the filter raises an error
            scaled = cut(None, scaled)
        self.unfinished = None
        return (scaled.softmax(-1) / self._clocks).argmax(-1)


# --- The checkpoint's generation_config.json


def _is_share(value: Any) -> bool:
    return isinstance(value, (int, float)) and 0 < value < 1


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _are_ids(value: Any) -> bool:
    ids = value if isinstance(value, list) else [value]
    return all(isinstance(each, int) and not isinstance(each, bool) and each >= 0 for each in ids)


# Filters of random choices, in transformers' order: transformers' class, check of the value.
_FILTERS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "top_h": ("TopHLogitsWarper", _is_share),
    "top_k": ("TopKLogitsWarper", _is_count),
    "top_p": ("TopPLogitsWarper", _is_share),
    "min_p": ("MinPLogitsWarper", _is_share),
    "typical_p": ("TypicalLogitsWarper", _is_share),
    "epsilon_cutoff": ("EpsilonLogitsWarper", _is_share),
    "eta_cutoff": ("EtaLogitsWarper", _is_share),
}
# Settings that `word_rules` applies, and ids of special tokens: a check of the value.
_FOLLOWED: dict[str, Callable[[Any], bool]] = {
    "bos_token_id": _are_ids,
    "eos_token_id": _are_ids,
    "pad_token_id": _are_ids,
    "suppress_tokens": _are_ids,
    "begin_suppress_tokens": _are_ids,
    "bad_words_ids": lambda value: isinstance(value, list) and all(each and _are_ids(each) for each in value),
    "no_repeat_ngram_size": lambda value: value == 0 or _is_count(value),
    "repetition_penalty": lambda value: isinstance(value, (int, float)) and value > 0,
}
# Settings that are replaced by the user's, or that only describe the file.
_REPLACED = {
    *("do_sample", "temperature", "num_beams", "use_cache", "transformers_version", "_from_model_config"),
    *("max_length", "max_new_tokens", "min_length", "min_new_tokens"),
}


def understood_settings(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a generation_config.json that are supported and valid."""
    followed = {**_FOLLOWED, **{name: applies for name, (_, applies) in _FILTERS.items()}}
    return {name: value for name, value in asked.items() if name in followed and followed[name](value)}


def ignored_settings(asked: Mapping[str, Any]) -> list[str]:
    """Return the names of the unsupported or invalid settings of a generation_config.json.

    Settings that the user's settings replace, or that are switched off, are not listed.
    """
    understood = understood_settings(asked)
    return [name for name, value in asked.items() if name not in {*understood, *_REPLACED} and not _is_off(name, value)]


# A setting that is switched off needs no notice.
def _is_off(name: str, value: Any) -> bool:
    return value is None or value is False or value == _OFF.get(name, [])


# The values that switch a setting off, in addition to None and False.
_OFF = {
    **{"top_p": 1.0, "top_k": 0, "typical_p": 1.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0, "length_penalty": 1.0},
    **{"encoder_repetition_penalty": 1.0, "encoder_no_repeat_ngram_size": 0, "diversity_penalty": 0.0},
    **{"num_beam_groups": 1, "num_return_sequences": 1},
}


def _filters(config: Any) -> dict[str, _Filter]:
    """Return the filters of a network's generation_config, by the name of the setting."""
    from transformers.generation import logits_process

    wanted = {name: getattr(config, name, None) for name in _FILTERS}
    return {
        name: getattr(logits_process, kind)(wanted[name])
        for name, (kind, applies) in _FILTERS.items()
        if applies(wanted[name])
    }
