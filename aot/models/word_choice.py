"""How `generate` picks words: settings of the user's, and of the checkpoint's generation_config.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from aot.config import GenerationConfig

__all__ = ["SeededChoice", "generation_arguments", "ignored_settings", "understood_settings"]

_LEAST_TEMPERATURE = 1e-30  # below, float32 has no room for the quotients, and the best word is certain anyway


def generation_arguments(network: Any, options: GenerationConfig) -> dict[str, Any]:
    """Return arguments for `network.generate` that depend on no random state outside of them, and leave none."""
    from transformers import LogitsProcessorList

    processors = LogitsProcessorList()
    if options.temperature > 0:
        processors.append(SeededChoice(options.temperature, options.seed, _filters(network.generation_config)))
    return {
        "max_new_tokens": options.max_new_tokens,
        **({"min_new_tokens": options.min_new_tokens} if options.min_new_tokens else {}),
        "num_beams": 1,  # beams cannot be streamed
        "do_sample": False,  # the best word, which `SeededChoice` decides where it is there
        "logits_processor": processors,
    }


class SeededChoice:
    """A logits processor that draws a word from softmax(logits / temperature), cut by `filters`, and leaves no other.

    The draw is a race of exponential clocks, one per word of the vocabulary and as fast as the word is likely: the
    first to ring is word w with probability p(w). They come from a generator of its own, so equal seeds draw equal
    words, whatever else draws. All sequences of a batch race on the same clocks, as they would alone.
    """

    def __init__(self, temperature: float, seed: int, filters: Sequence[Callable[[Any, Tensor], Tensor]] = ()) -> None:
        self._temperature = max(temperature, _LEAST_TEMPERATURE)
        self._seed, self._filters = seed, filters
        self._generator: torch.Generator | None = None

    def __call__(self, input_ids: Any, scores: Tensor) -> Tensor:
        """[B, V] logits to [B, V]: 0 for the drawn word, -inf for all others."""
        if self._generator is None:
            self._generator = torch.Generator(scores.device).manual_seed(self._seed)
        scaled = (scores.float() - scores.float().amax(-1, keepdim=True)) / self._temperature
        for cut in self._filters:
            scaled = cut(input_ids, scaled)
        clocks = torch.empty_like(scaled[0]).exponential_(generator=self._generator)
        drawn = (scaled.softmax(-1) / clocks).argmax(-1, keepdim=True)
        return torch.full_like(scores, -torch.inf).scatter_(-1, drawn, 0.0)


# --- What a checkpoint asks for


def _is_share(value: Any) -> bool:
    return isinstance(value, (int, float)) and 0 < value < 1


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _are_ids(value: Any) -> bool:
    ids = value if isinstance(value, list) else [value]
    return all(isinstance(each, int) and not isinstance(each, bool) and each >= 0 for each in ids)


# Settings that narrow what is drawn from, in the order of transformers, and its classes for them.
_FILTERS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "top_h": ("TopHLogitsWarper", _is_share),
    "top_k": ("TopKLogitsWarper", _is_count),
    "top_p": ("TopPLogitsWarper", _is_share),
    "min_p": ("MinPLogitsWarper", _is_share),
    "typical_p": ("TypicalLogitsWarper", _is_share),
    "epsilon_cutoff": ("EpsilonLogitsWarper", _is_share),
    "eta_cutoff": ("EtaLogitsWarper", _is_share),
}
# Settings that `generate` follows by itself.
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
# Settings that change nothing here: the user's take their place, or they describe the file.
_REPLACED = {
    *("do_sample", "temperature", "num_beams", "use_cache", "transformers_version", "_from_model_config"),
    *("max_length", "max_new_tokens", "min_length", "min_new_tokens"),
}


def understood_settings(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return those settings of a checkpoint's generation_config.json that answers follow. With others `generate` fails,
    or does something else than write one answer.
    """
    followed = {**_FOLLOWED, **{name: applies for name, (_, applies) in _FILTERS.items()}}
    return {name: value for name, value in asked.items() if name in followed and followed[name](value)}


def ignored_settings(asked: Mapping[str, Any]) -> list[str]:
    """Return the names of the other settings, but for those that change nothing here."""
    understood = understood_settings(asked)
    return [name for name, value in asked.items() if name not in {*understood, *_REPLACED} and not _is_off(name, value)]


def _is_off(name: str, value: Any) -> bool:
    return value is None or value is False or value == _OFF.get(name, [])


_OFF = {
    **{"top_p": 1.0, "top_k": 0, "typical_p": 1.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0, "length_penalty": 1.0},
    **{"encoder_repetition_penalty": 1.0, "encoder_no_repeat_ngram_size": 0, "diversity_penalty": 0.0},
    **{"num_beam_groups": 1, "num_return_sequences": 1},
}


def _filters(config: Any) -> list[Callable[[Any, Tensor], Tensor]]:
    from transformers.generation import logits_process

    wanted = {name: getattr(config, name, None) for name in _FILTERS}
    return [
        getattr(logits_process, kind)(wanted[name])
        for name, (kind, applies) in _FILTERS.items()
        if applies(wanted[name])
    ]
