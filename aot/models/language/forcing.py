"""Read a given answer after a prompt (teacher forcing), and return what the model predicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from aot.config.schema import GenerationConfig
from aot.models.language.decoding import LanguageModel, Prefilled
from aot.models.language.prompt import VideoPrompt
from aot.models.language.word_choice import WordChoice
from aot.models.language.word_rules import Past

__all__ = ["ForcedAnswer", "force_on", "predicted"]


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
    return predicted(model, prompt.ids, answer, states, options)


def predicted(
    model: LanguageModel, prompt: Tensor, answer: Sequence[int], states: Tensor, options: GenerationConfig
) -> ForcedAnswer:
    """Return the predictions along an answer of A tokens.

    Args:
        model: the parts of the network.
        prompt: int64 [1, rows], the ids of the prompt.
        answer: the ids of the answer.
        states: [A, D], the states of the rows before each token of the answer.
        options: the settings of generation; the temperature has no effect.
    """
    logits = model.head(states).to(prompt.device).float()
    greedy = replace(options, temperature=0.0)
    choose, past = WordChoice(model.settings, greedy, logits.shape[-1], prompt.device), Past(prompt, len(answer))
    choices = []
    for row, word in zip(logits, prompt.new_tensor(answer), strict=True):
        choices.append(choose(row[None], past))
        past.append(word[None])
    return ForcedAnswer(logits, torch.cat(choices))
