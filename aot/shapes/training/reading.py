"""Run the language model over visual tokens and packed questions, and score the answers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from aot.shapes.training.packing import Branch, Packed, choose_questions, encode_branch
from aot.shapes.world import Scene

__all__ = ["PROMPTS", "accuracy_by_family", "answer_loss", "read_packed", "some_branches"]

# The text before the visual tokens: as in `TEMPLATES` of `aot.models.families.llava`.
PROMPTS = ("<|im_start|> system you are a helpful assistant . <|im_end|> <|im_start|> user", "<|im_start|> user")
_BRANCH_TOKENS = 230


def some_branches(scene: Scene, rng: np.random.Generator, seen: Sequence[bool], index: dict[str, int]) -> list[Branch]:
    """Return as many random questions about `scene` as fit.

    Args:
        scene: the scene.
        rng: the random generator.
        seen: for each thing, whether questions about it are allowed.
        index: maps words to token ids.
    """
    branches: list[Branch] = []
    room = _BRANCH_TOKENS
    for qa in choose_questions(scene, rng, seen):
        branch = encode_branch(qa, scene, index)
        if len(branch.ids) <= room:
            branches.append(branch)
            room -= len(branch.ids)
    return branches


def read_packed(network: Any, prompt: Tensor, visual: Tensor, packed: Packed) -> tuple[Tensor, ...]:
    """Return the input embeddings, then the hidden states after every layer.

    The tokens of a branch attend to the prefix and to earlier tokens of the same branch.

    Args:
        network: the shapes model.
        prompt: [T], token ids of the text before the visual tokens.
        visual: [B, K, D], the visual tokens of each video.
        packed: the questions; their position ids start after prompt, visual tokens and newline.
    """
    embed = network.get_input_embeddings()
    batch = len(visual)
    newline = network.model.image_newline.expand(batch, 1, -1)
    embeds = torch.cat([embed(prompt).expand(batch, -1, -1), visual, newline, embed(packed.ids)], 1)
    prefix = embeds.shape[1] - packed.ids.shape[1]
    segment = torch.cat([torch.zeros(batch, prefix, dtype=torch.long), packed.segment], 1)
    positions = torch.cat([torch.arange(prefix).expand(batch, -1), packed.positions], 1)
    rows = torch.arange(segment.shape[1])
    same = (segment[:, :, None] == segment[:, None, :]) | (segment[:, None, :] == 0)
    allowed = same & (rows[:, None] >= rows[None, :])
    mask = torch.zeros(allowed.shape).masked_fill_(~allowed, torch.finfo(torch.float32).min)[:, None]
    return network.model.language_model(  # type: ignore[no-any-return]
        inputs_embeds=embeds,
        attention_mask=mask,
        position_ids=positions,
        output_hidden_states=True,
        use_cache=False,
    ).hidden_states


def answer_loss(network: Any, states: Tensor, packed: Packed) -> Tensor:
    """Return the weighted cross-entropy of the answers' tokens.

    Args:
        network: the shapes model.
        states: [B, L, D], the last hidden states of the packed questions.
        packed: the packed questions.
    """
    video, row = packed.weight.nonzero(as_tuple=True)
    losses = F.cross_entropy(network.lm_head(states[video, row]), packed.ids[video, row + 1], reduction="none")
    weight = packed.weight[video, row]
    return (losses * weight).sum() / weight.sum()


@torch.no_grad()
def accuracy_by_family(network: Any, states: Tensor, packed: Packed) -> dict[str, float]:
    """Return for each family the share of answers in which every token is predicted right.

    Such an answer is the one that greedy decoding gives. For the arguments see `answer_loss`.
    """
    video, row = packed.weight.nonzero(as_tuple=True)
    wrong = network.lm_head(states[video, row]).argmax(-1) != packed.ids[video, row + 1]
    branch = packed.segment[video, row] - 1
    failed = set(zip(video[wrong].tolist(), branch[wrong].tolist(), strict=True))
    right: dict[str, list[bool]] = defaultdict(list)
    for number, families in enumerate(packed.families):
        for index, family in enumerate(families):
            right[family].append((number, index) not in failed)
    return {family: sum(values) / len(values) for family, values in right.items()}
