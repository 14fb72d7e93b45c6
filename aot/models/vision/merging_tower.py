"""Run SigLIP with token merging between and inside its blocks.

The modules of transformers are called one by one; none is patched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from aot.compression.in_tower.merging_schedules import block_counts
from aot.compression.in_tower.token_merging import MergingTokens
from aot.compression.ops.similarity import working_dtype
from aot.errors import ConfigError
from aot.runtime.devices import input_device
from aot.types import BlockMerging, MergedPatches

__all__ = ["MergedVideo", "blocks_before_features", "run_merging_tower"]


def run_merging_tower(tower: Any, pixels: Tensor, plan: Sequence[BlockMerging]) -> MergingTokens:
    """Return the tokens of `pixels` [F, 3, H, W] after the first blocks, one per step of `plan`.

    Without merges, the states equal the hidden states of the stock tower before its final norm.
    """
    # `aot.models.vision.tower` says why the states are made contiguous.
    tokens = MergingTokens.of(tower.embeddings(pixels).contiguous())
    for block, step in zip(tower.encoder.layers[: len(plan)], plan, strict=True):
        tokens = _run_block(block, tokens, step)
    return tokens


def blocks_before_features(config: Any) -> int:
    """Return the number of blocks that run before LLaVA-OneVision's features are read.

    Raises:
        ConfigError: the features combine several blocks or leave out a token (not supported).
    """
    layer, depth = config.vision_feature_layer, config.vision_config.num_hidden_layers
    if not isinstance(layer, int) or config.vision_feature_select_strategy == "default":
        raise ConfigError("this model's features are not all tokens of one block; use a method that merges after it")
    # Hidden state 0 is the embeddings, and hidden state k the output of block k - 1.
    return int(layer % (depth + 1))


def _run_block(block: Any, tokens: MergingTokens, step: BlockMerging) -> MergingTokens:
    """Run one block; tokens merge before attention, and between attention and MLP."""
    tokens = tokens.to(input_device(block))
    # 1. Sequences of several frames become one.
    if step.join > 1:
        tokens = tokens.joined(step.join)
    # 2. Merges by the similarity of the block's input, and attention.
    tokens = tokens.merge(tokens.states, step.before, by_similarity=step.by_similarity)
    attended, keys = _attend(block.self_attn, block.layer_norm1(tokens.states), tokens)
    tokens = tokens.with_states(tokens.states + attended)
    # 3. Merges by the similarity of keys, and the MLP.
    tokens = tokens.merge(keys, step.after, by_similarity=step.by_similarity)
    return tokens.with_states(tokens.states + block.mlp(block.layer_norm2(tokens.states)))


def _attend(attention: Any, states: Tensor, tokens: MergingTokens) -> tuple[Tensor, Tensor]:
    """Return the attention output [B, T, D], and the keys [B, T, d] averaged over heads.

    A token merged from k patches counts as k keys (proportional attention, ToMe).
    """
    heads = (*states.shape[:2], -1, attention.head_dim)
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    query, key, value = (project(states).view(heads).transpose(1, 2) for project in projections)
    # Adding log k to a logit multiplies the token's weight by k.
    bias = None if tokens.are_patches else tokens.sizes.log()[:, None, None].to(query.dtype)
    found = functional.scaled_dot_product_attention(query, key, value, bias, scale=attention.scale)
    return attention.out_proj(found.transpose(1, 2).flatten(2)), key.mean(1)


@dataclass(frozen=True, slots=True)
class MergedVideo:
    """Clips encoded by a merging tower; each list has one entry per batch of clips.

    Attributes:
        features: [T, D], the tokens of the batch.
        owner: [F, N], for each patch the index of its token in the features of all batches.
        anchor: [T], for each token the index of its anchor (see `MergedPatches`) in all batches.
        embeddings: [F, D], the mean over each frame's patches, where a patch has the feature of its
            token.
        worked: the number of tokens that entered an MLP, averaged over blocks.
    """

    features: list[Tensor] = field(default_factory=list)
    owner: list[Tensor] = field(default_factory=list)
    anchor: list[Tensor] = field(default_factory=list)
    embeddings: list[Tensor] = field(default_factory=list)
    worked: list[int] = field(default_factory=list)

    def add(self, tokens: MergingTokens, projected: Tensor, plan: Sequence[BlockMerging], patches: int) -> None:
        """Add C clips of equal length: features `projected` [C, T, D], N = `patches` per frame."""
        tokens = tokens.to(projected.device)
        # 1. The clips as one sequence, whose indices continue those of earlier batches.
        whole = tokens.joined(len(projected))
        before = sum(len(features) for features in self.features)
        frames = sum(len(owner) for owner in self.owner)
        # 2. Features and their patches.
        self.embeddings.append(_frame_means(tokens.owner.view(len(projected), -1, patches), projected))
        self.owner.append(whole.owner.view(-1, patches) + before)
        self.anchor.append(whole.anchor[0] + frames * patches)
        self.features.append(projected.flatten(0, 1))
        # 3. The work of the tower, for the report.
        clip_frames = tokens.owner.shape[1] // patches
        self.worked.append(len(projected) * sum(block_counts(plan, clip_frames, patches)) // max(len(plan), 1))

    def patches(self) -> MergedPatches:
        """Return the merged patches of the whole video, joined over all batches."""
        owner = torch.cat(self.owner)
        return MergedPatches(owner, torch.cat(self.anchor), sum(self.worked) / owner.numel())


def _frame_means(owner: Tensor, projected: Tensor) -> Tensor:
    """Return the mean feature of each frame's patches, [C * f, D].

    `owner` [C, f, N] gives for each patch the index of its token in `projected` [C, T, D].
    """
    clips, frames, patches = owner.shape
    weights = torch.zeros(clips, frames, projected.shape[1], dtype=working_dtype(projected), device=owner.device)
    # A token counts once for each patch of the frame that it contains.
    weights.scatter_add_(2, owner, torch.ones_like(owner, dtype=weights.dtype))
    return (weights / patches @ projected.to(weights.dtype)).flatten(0, 1)
