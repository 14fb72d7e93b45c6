"""SigLIP with tokens that merge on the way: transformers' own modules, block by block, composed and never patched."""

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
    """Return the hidden states after as many blocks as `plan` has, of pixels [F, 3, H, W].

    Without merges they are the stock tower's, before its final normalisation.
    """
    tokens = MergingTokens.of(tower.embeddings(pixels).contiguous())  # see `aot.models.vision.tower`
    for block, step in zip(tower.encoder.layers[: len(plan)], plan, strict=True):
        tokens = _run_block(block, tokens, step)
    return tokens


def blocks_before_features(config: Any) -> int:
    """How many blocks of a LLaVA-OneVision's tower its features come after.

    Raises:
        ConfigError: its features are of several blocks, or leave out a token, which merged tokens cannot.
    """
    layer, depth = config.vision_feature_layer, config.vision_config.num_hidden_layers
    if not isinstance(layer, int) or config.vision_feature_select_strategy == "default":
        raise ConfigError("this model's features are not all tokens of one block; take a method that merges after it")
    return int(layer % (depth + 1))


def _run_block(block: Any, tokens: MergingTokens, step: BlockMerging) -> MergingTokens:
    tokens = tokens.to(input_device(block))
    if step.join > 1:
        tokens = tokens.joined(step.join)
    tokens = tokens.merge(tokens.states, step.before, by_similarity=step.by_similarity)
    attended, keys = _attend(block.self_attn, block.layer_norm1(tokens.states), tokens)
    tokens = tokens.with_states(tokens.states + attended)
    tokens = tokens.merge(keys, step.after, by_similarity=step.by_similarity)
    return tokens.with_states(tokens.states + block.mlp(block.layer_norm2(tokens.states)))


def _attend(attention: Any, states: Tensor, tokens: MergingTokens) -> tuple[Tensor, Tensor]:
    """What attention adds [B, T, D], a token of size k weighing as much as k; and the mean of the heads' keys."""
    heads = (*states.shape[:2], -1, attention.head_dim)
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    query, key, value = (project(states).view(heads).transpose(1, 2) for project in projections)
    bias = None if tokens.are_patches else tokens.sizes.log()[:, None, None].to(query.dtype)
    found = functional.scaled_dot_product_attention(query, key, value, bias, scale=attention.scale)
    return attention.out_proj(found.transpose(1, 2).flatten(2)), key.mean(1)


@dataclass(frozen=True, slots=True)
class MergedVideo:
    """Clips that a merging tower has encoded, one batch after the other.

    features: [T, D] each. owner: [F, N] each, into all features so far; anchor: [T] each, into all patches so far.
    embeddings: the mean of every frame's patches, each as the token it is part of, [F, D] each.
    """

    features: list[Tensor] = field(default_factory=list)
    owner: list[Tensor] = field(default_factory=list)
    anchor: list[Tensor] = field(default_factory=list)
    embeddings: list[Tensor] = field(default_factory=list)
    worked: list[int] = field(default_factory=list)

    def add(self, tokens: MergingTokens, projected: Tensor, plan: Sequence[BlockMerging], patches: int) -> None:
        """Tokens of equally long clips, their projected states [C, T, D], and what every block did to each clip."""
        tokens = tokens.to(projected.device)
        whole = tokens.joined(len(projected))
        before = sum(len(features) for features in self.features)
        frames = sum(len(owner) for owner in self.owner)
        self.embeddings.append(_frame_means(tokens.owner.view(len(projected), -1, patches), projected))
        self.owner.append(whole.owner.view(-1, patches) + before)
        self.anchor.append(whole.anchor[0] + frames * patches)
        self.features.append(projected.flatten(0, 1))
        clip_frames = tokens.owner.shape[1] // patches
        self.worked.append(len(projected) * sum(block_counts(plan, clip_frames, patches)) // max(len(plan), 1))

    def patches(self) -> MergedPatches:
        owner = torch.cat(self.owner)
        return MergedPatches(owner, torch.cat(self.anchor), sum(self.worked) / owner.numel())


def _frame_means(owner: Tensor, projected: Tensor) -> Tensor:
    """owner [C, f, N] and tokens [C, T, D] to [C * f, D]."""
    clips, frames, patches = owner.shape
    weights = torch.zeros(clips, frames, projected.shape[1], dtype=working_dtype(projected), device=owner.device)
    weights.scatter_add_(2, owner, torch.ones_like(owner, dtype=weights.dtype))
    return (weights / patches @ projected.to(weights.dtype)).flatten(0, 1)
