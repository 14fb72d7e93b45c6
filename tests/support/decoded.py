"""What a decoding writes, by any of its kinds of steps, and what stock `generate` writes behind the same prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache, LogitsProcessorList

from aot.config.schema import GenerationConfig
from aot.models.language.answer import StreamedAnswer
from aot.models.language.decode_graph import BoundSteps, GraphSteps
from aot.models.language.decoding import Decoding, LanguageModel, LeanSteps, Prefilled, ReadPrompts, Steps, WholeSteps
from aot.models.language.kv_cache import cache_argument
from aot.models.language.lean_decoder import LeanDecoder, _by_products
from aot.models.language.prompt import VideoPrompt
from aot.models.language.word_choice import SeededChoice, _filters
from aot.models.language.word_rules import Past

KINDS: dict[str, Callable[[Decoding], Steps]] = {
    "lean": lambda decoding: LeanSteps(decoding, LeanDecoder(decoding._model.body)),
    "whole": lambda decoding: WholeSteps(decoding, decoding._model.body),
    "bound": lambda decoding: BoundSteps(decoding, LeanDecoder(decoding._model.body)),
    "graph": lambda decoding: GraphSteps(decoding, LeanDecoder(decoding._model.body)),
}


@contextmanager
def steps_of(kind: str) -> Iterator[list[Steps]]:
    """All answers are written by steps of one kind, which are collected."""
    picked: list[Steps] = []

    def pick(decoding: Decoding) -> Steps:
        picked.append(KINDS[kind](decoding))
        return picked[-1]

    with patch.object(Decoding, "_pick_steps", pick):
        yield picked


def ids_of(answer: StreamedAnswer, kind: str) -> list[int]:
    """The ids of an answer, written in this thread."""
    with steps_of(kind):
        return list(answer._words())


@dataclass
class _Heard:
    """A head that remembers the logits."""

    head: Any
    logits: list[Tensor] = field(default_factory=list)

    def __call__(self, states: Tensor) -> Tensor:
        self.logits.append(self.head(states))
        return self.logits[-1].clone()


def continued(
    network: Any, body: Any, prompt: VideoPrompt, read: Prefilled, count: int, kind: str = "lean"
) -> tuple[Tensor, Tensor]:
    """Logits [count, vocabulary] of a greedy answer of so many words behind a prompt that was read, and its ids."""
    head = _Heard(network.get_output_embeddings())
    model = replace(LanguageModel.of(network, body), head=head)
    past = Past(prompt.ids, count)
    options = GenerationConfig(max_new_tokens=count)
    decoding = Decoding(model, ReadPrompts(read.cache, read.last, past, prompt.following()), options)
    with steps_of(kind):
        ids = [word for (words,) in decoding for word in words]
    return torch.cat(head.logits), torch.tensor(ids)


class Drawn:
    """Our choice of a word as a logits processor of `generate`."""

    def __init__(self, settings: Any, options: GenerationConfig, like: Tensor, words: int) -> None:
        clocks = torch.empty(words, device=like.device)
        self._choice = SeededChoice(options.temperature, options.seed, clocks, _filters(settings))

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        self._choice.wind()
        drawn = self._choice(scores.float())
        return torch.full_like(scores, -torch.inf).scatter_(-1, drawn[:, None], 0.0)


@torch.inference_mode()
def error_of_products(dtype: torch.dtype, device: str = "cpu") -> float:
    """The largest difference of attention by products from attention in float64, over a batch with masks."""
    generator = torch.Generator().manual_seed(0)
    queries, keys, values = (torch.randn(2, 3, rows, 16, generator=generator).to(device, dtype) for rows in (4, 40, 40))
    seen = (torch.rand(2, 1, 1, 40, generator=generator) > 0.3).to(device)
    mask = torch.zeros(seen.shape, device=device).masked_fill(~seen, -torch.inf)
    scale = 2.0  # scores up to 30, which 16 bits would round to quarters
    found = _by_products(queries, keys, values, mask, scale)
    assert found.dtype == dtype
    wide = (each.double() for each in (queries, keys, values))
    expected = functional.scaled_dot_product_attention(*wide, attn_mask=seen, scale=scale)
    return float((found.double() - expected).abs().max())


@torch.inference_mode()
def stock_ids(model: Any, prompt: VideoPrompt, options: GenerationConfig) -> list[int]:
    """What `generate` writes behind a prompt; where positions are not 0 .. P - 1, with all but its last row read
    before, since `generate` goes on from what it is given.
    """
    network, language, given = model.network, model.language, dict[str, Any]()
    if prompt.positions is None:
        given["inputs_embeds"] = prompt.embeddings
    else:
        rows = prompt.ids.shape[1] - 1
        first = replace(
            prompt, ids=prompt.ids[:, :rows], embeddings=prompt.embeddings[:, :rows], token=prompt.token[:rows],
            positions=prompt.positions[..., :rows],
        )  # fmt: skip
        cache = DynamicCache(config=language.config)
        language(**first.language_inputs(), **cache_argument(type(language).forward, cache), use_cache=True)
        given = {**cache_argument(type(network).forward, cache), "position_ids": prompt.positions}
    if options.temperature > 0:
        words = network.get_output_embeddings().weight.shape[0]
        drawn = Drawn(network.generation_config, options, prompt.ids, words)
        given["logits_processor"] = LogitsProcessorList([drawn])
    if options.min_new_tokens:
        given["min_new_tokens"] = options.min_new_tokens
    found = network.generate(
        input_ids=prompt.ids, **given, attention_mask=torch.ones_like(prompt.ids), num_beams=1, do_sample=False,
        max_new_tokens=options.max_new_tokens, pad_token_id=model.tokenizer.pad_token_id,
    )  # fmt: skip
    ids: list[int] = found[0, prompt.ids.shape[1] :].tolist()
    return ids
