"""Read a given answer after a prompt (teacher forcing), and return what the model predicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from aot.config.schema import GenerationConfig
from aot.models.language.decoding import LanguageModel, Prefilled, last_hidden_states
from aot.models.language.prompt import VideoPrompt
from aot.models.language.word_choice import WordChoice
from aot.models.language.word_rules import Past

__all__ = ["ForcedAnswer", "force_after", "force_on"]


@dataclass(frozen=True, slots=True)
class ForcedAnswer:
    """What a model predicts along a given answer of A tokens, the end token included.

    Row i is the prediction after the prompt and the first i tokens of the answer.

    Attributes:
        logits: float32 [A, V], as the head gives them, without the checkpoint's generation rules.
        choices: int64 [A], the tokens that greedy decoding takes, with these rules.
    """

    logits: Tensor
    choices: Tensor


def force_after(
    model: LanguageModel, prompt: VideoPrompt, answer: Sequence[int], cache: Any, rows: int, options: GenerationConfig
) -> ForcedAnswer:
    """Read the rest of a prompt and an answer in one forward pass.

    Args:
        model: the parts of the network.
        prompt: the whole prompt.
        answer: the ids of the answer, at least one.
        cache: keys and values of the first `rows` rows of the prompt, with all visual tokens; rows
            are added to it.
        rows: the number of rows that `cache` holds, fewer than the prompt has.
        options: the settings of generation; the temperature has no effect.
    """
    said = prompt.ids.new_tensor([answer[:-1]])
    given = prompt.followed_by(said, model.embed(said)).language_inputs(rows)
    embeddings = given.pop("inputs_embeds")
    states = last_hidden_states(model.body, embeddings, cache, len(answer), **given)
    return _predicted(model, prompt, answer, states[0], options)


def force_on(
    model: LanguageModel, prompt: VideoPrompt, answer: Sequence[int], read: Prefilled, options: GenerationConfig
) -> ForcedAnswer:
    """Read an answer after `read`, the prefill of the whole prompt with an inner reduction."""
    from aot.models.language.prefill import read_on

    states = read.last
    if len(answer) > 1:
        said = prompt.ids.new_tensor([answer[:-1]])
        positions = prompt.following() + torch.arange(len(answer) - 1, device=said.device)
        more = read_on(model.body, read.cache, model.embed(said), positions)
        states = torch.cat([states, more[0].to(states.device)])
    return _predicted(model, prompt, answer, states, options)


def _predicted(
    model: LanguageModel, prompt: VideoPrompt, answer: Sequence[int], states: Tensor, options: GenerationConfig
) -> ForcedAnswer:
    """Apply the head to the states [A, D] of the rows before each token of the answer."""
    device = prompt.ids.device
    logits = model.head(states).to(device).float()
    greedy = replace(options, temperature=0.0)
    choose, past = WordChoice(model.settings, greedy, logits.shape[-1], device), Past(prompt.ids, len(answer))
    choices = []
    for row, word in zip(logits, prompt.ids.new_tensor(answer), strict=True):
        choices.append(choose(row[None], past))
        past.append(word[None])
    return ForcedAnswer(logits, torch.cat(choices))
