"""Many questions about one video at once: the video is read once, its keys and values are shared."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from aot.config import GenerationConfig
from aot.models.answer import sampling_arguments

__all__ = ["answer_together"]


def answer_together(
    network: Any,
    tokenizer: Any,
    prefix_ids: Tensor,
    prefix: Tensor,
    suffixes: Sequence[Sequence[int]],
    options: GenerationConfig,
    batch: int = 16,
) -> Iterator[str]:
    """The answer to each suffix, in order; greedily the same as each alone, but for rounding.

    prefix [1, P, D] are the embeddings of everything up to and with the video, prefix_ids [1, P] their ids, which a
    repetition penalty of the checkpoint counts; suffixes are the token ids that follow. `batch` questions share a
    forward pass.
    """
    cache = network.model.language_model(inputs_embeds=prefix, use_cache=True).past_key_values
    for first in range(0, len(suffixes), batch):
        yield from _answer(network, tokenizer, prefix_ids, cache, suffixes[first : first + batch], options)


def _answer(
    network: Any,
    tokenizer: Any,
    prefix_ids: Tensor,
    cache: Any,
    suffixes: Sequence[Sequence[int]],
    options: GenerationConfig,
) -> list[str]:
    """Shorter suffixes are padded in front, behind the shared prefix; masked padding takes no position."""
    longest = max(map(len, suffixes))
    pads = [longest - len(suffix) for suffix in suffixes]
    device = prefix_ids.device
    padded = [[tokenizer.pad_token_id] * pad + list(suffix) for pad, suffix in zip(pads, suffixes, strict=True)]
    ids = torch.cat([prefix_ids.expand(len(suffixes), -1), torch.tensor(padded, device=device)], 1)
    mask = torch.ones_like(ids)
    for row, pad in enumerate(pads):
        mask[row, prefix_ids.shape[1] : prefix_ids.shape[1] + pad] = 0
    shared = copy.deepcopy(cache)
    shared.batch_repeat_interleave(len(suffixes))
    written = network.generate(
        input_ids=ids,
        attention_mask=mask,
        past_key_values=shared,
        max_new_tokens=options.max_new_tokens,
        num_beams=1,
        pad_token_id=tokenizer.pad_token_id,
        **sampling_arguments(options),
    )
    return list(tokenizer.batch_decode(written[:, ids.shape[1] :], skip_special_tokens=True))
