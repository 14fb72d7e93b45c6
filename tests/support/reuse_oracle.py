"""Reuse in the vision tower as published: frame by frame, borrowed attention and MLP one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.models.qwen3_vl.modeling_qwen3_vl import apply_rotary_pos_emb_vision

__all__ = ["Oracle", "clip_like", "internvit", "qwen3"]

Project = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class _Block:
    """The functions of one block, for one frame [N, D]."""

    norm: Project
    query: Project
    key: Project
    value: Project
    out: Project
    feed: Project
    heads: int
    cosines: Tensor | None = None
    sines: Tensor | None = None

    def weights(self, query: Tensor, key: Tensor, rows: Tensor) -> Tensor:
        """Return the attention [H, k, N] of the queries at `rows`."""
        q, k = (each.view(len(each), self.heads, -1) for each in (query, key))
        if self.cosines is not None and self.sines is not None:
            q, _ = apply_rotary_pos_emb_vision(q, q, self.cosines[rows], self.sines[rows])
            k, _ = apply_rotary_pos_emb_vision(k, k, self.cosines, self.sines)
        q, k = q.transpose(0, 1), k.transpose(0, 1)
        return torch.softmax(q @ k.mT * q.shape[-1] ** -0.5, -1)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, rows: Tensor) -> Tensor:
        found = self.weights(query, key, rows) @ value.view(len(value), self.heads, -1).transpose(0, 1)
        return self.out(found.transpose(0, 1).flatten(1))


@dataclass(frozen=True)
class Oracle:
    """A tower as a list of blocks, with what the stock tower puts into them and makes of them.

    Attributes:
        blocks: of the tower.
        embedded: [F, N, D], the input of the first block.
        always: class tokens, which are always computed.
    """

    blocks: Sequence[_Block]
    embedded: Tensor
    always: int

    def run(self, of: Sequence[int], share: float) -> tuple[Tensor, list[Tensor]]:
        """Return the states [F, N, D] after the last block, and each block's saliency [F, N].

        `of` has the reference of each frame.
        """
        states, saliency = self.embedded.clone(), list[Tensor]()
        for block in self.blocks:
            memory, received = dict[int, tuple[Tensor, ...]](), list[Tensor]()
            for frame, reference in enumerate(of):
                h = states[frame]
                rows = torch.arange(len(h))
                z = block.norm(h)
                query, key, value = block.query(z), block.key(z), block.value(z)
                received.append(block.weights(query, key, rows).sum(1).mean(0))
                if frame == reference:
                    attended = block.attend(query, key, value, rows)
                    fed = block.feed(h + attended)
                    memory[frame] = key, value, attended, fed
                else:
                    changed = self._changed(key, memory[reference][0], share)
                    borrowed, attended, fed = (each.clone() for each in memory[reference][1:])
                    borrowed[changed] = value[changed]
                    attended[changed] = block.attend(query[changed], key, borrowed, changed)
                    fed[changed] = block.feed((h + attended)[changed])
                states[frame] = h + attended + fed
            saliency.append(torch.stack(received))
        return states, saliency

    def _changed(self, key: Tensor, reference: Tensor, share: float) -> Tensor:
        similarity = functional.cosine_similarity(key, reference, dim=-1)[self.always :]
        count = max(1, int(len(similarity) * share))
        lowest = similarity.argsort(stable=True)[:count].sort().values + self.always
        return torch.cat([torch.arange(self.always), lowest])


def clip_like(model: Any, pixels: Tensor, always: int = 0) -> Oracle:
    """Return the oracle of a SigLIP tower, or with `always` = 1 of a CLIP tower, in a LLaVA."""
    tower = model.tower
    with _input_of(tower.encoder.layers[0]) as seen:
        tower(model.normalize(pixels))
    blocks = [
        _Block(
            block.layer_norm1, block.self_attn.q_proj, block.self_attn.k_proj, block.self_attn.v_proj,
            block.self_attn.out_proj, lambda h, block=block: block.mlp(block.layer_norm2(h)), block.self_attn.num_heads,
        )
        for block in tower.encoder.layers
    ]  # fmt: skip
    return Oracle(blocks, seen[0], always)


def internvit(model: Any, pixels: Tensor) -> Oracle:
    """Return the oracle of InternViT."""
    tower = model.tower
    with _input_of(tower.encoder.layer[0]) as seen:
        tower(pixel_values=model.normalize(pixels))

    def block_of(block: Any) -> _Block:
        attention = block.attention
        return _Block(
            block.layernorm_before,
            lambda z: attention.q_norm(attention.q_proj(z)),
            lambda z: attention.k_norm(attention.k_proj(z)),
            attention.v_proj,
            lambda found: block.lambda_1 * attention.projection_layer(found),
            lambda h: block.lambda_2 * block.mlp(block.layernorm_after(h)),
            attention.num_heads,
        )

    return Oracle([block_of(block) for block in tower.encoder.layer], seen[0], 1)


def qwen3(model: Any, rows: Tensor, sides: Tensor) -> Oracle:
    """Return the oracle of Qwen3-VL's tower for packed `rows` of T pairs, `sides` [1, 3]."""
    tower, pairs = model.tower, int(sides[0, 0])
    context: dict[str, Any] = {}
    handle = tower.blocks[0].register_forward_pre_hook(
        lambda module, args, kwargs: context.update(states=args[0], **kwargs), with_kwargs=True
    )
    tower(rows, grid_thw=sides)
    handle.remove()
    states = context["states"].view(pairs, -1, context["states"].shape[-1])
    cosines, sines = (values[: states.shape[1]] for values in context["position_embeddings"])

    def block_of(block: Any) -> _Block:
        def part(number: int) -> Project:
            return lambda z: block.attn.qkv(z).chunk(3, -1)[number]

        return _Block(
            block.norm1, part(0), part(1), part(2), block.attn.proj, lambda h: block.mlp(block.norm2(h)),
            block.attn.num_heads, cosines, sines,
        )  # fmt: skip

    return Oracle([block_of(block) for block in tower.blocks], states, 0)


@contextmanager
def _input_of(block: Any) -> Iterator[list[Tensor]]:
    seen: list[Tensor] = []
    handle = block.register_forward_pre_hook(lambda module, args, kwargs: seen.append(args[0]), with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()
