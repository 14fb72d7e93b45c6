"""Run a vision tower whose frames reuse the work on references; modules are called, not patched.

Every family gets a shallow copy of its tower in which each block is replaced by one that runs
`aot.compression.in_tower.stc.run_block` on the modules of the block. The original is not changed.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from aot.compression.in_tower.stc import ReuseGroup, run_block
from aot.compression.ops.uploads import uploaded
from aot.models.vision.saliency import attend, is_recorded, record
from aot.runtime.devices import input_device
from aot.types import FrameReferences

__all__ = ["FrameBatch", "internvit_parts", "qwen_parts", "siglip_parts", "with_blocks", "with_reuse"]


@dataclass(frozen=True, slots=True)
class FrameBatch:
    """Arrange a batch of frames for reuse: references first, then the other frames.

    References that precede the batch are added, so that any batch can be encoded on its own.

    Attributes:
        order: indices of the arranged frames in the chunk; -1 is `FrameReferences.earlier`.
        references: the number of references.
        reference_of: for each other frame, the index of its reference.
        position: the positions of the batch's own frames in `order`.
    """

    order: tuple[int, ...]
    references: int
    reference_of: tuple[int, ...]
    position: tuple[int, ...]

    @classmethod
    def of(cls, of: Sequence[int], first: int, stop: int) -> FrameBatch:
        """Return the batch of frames `first` .. `stop` - 1; `of` is as in `FrameReferences`."""
        references = sorted(set(of[first:stop]))
        others = [frame for frame in range(first, stop) if of[frame] != frame]
        place = {frame: number for number, frame in enumerate((*references, *others))}
        return cls(
            tuple(place),
            len(references),
            tuple(place[of[frame]] for frame in others),
            tuple(place[frame] for frame in range(first, stop)),
        )

    def pixels(self, chunk: Tensor, references: FrameReferences, together: int) -> Tensor:
        """Return the arranged frames of `chunk` [F, ...]; `together` frames count as one."""
        groups = torch.split(chunk, together)
        arranged = [references.earlier if frame < 0 else groups[frame] for frame in self.order]
        # Only the last group of a chunk can be shorter; the tower would repeat its last frame.
        return torch.cat([_filled(group, together) for group in arranged if group is not None])

    def group(self, share: float, always: int, device: torch.device) -> ReuseGroup:
        """Return the batch for the blocks of the tower."""
        reference_of = uploaded(torch.tensor(self.reference_of, dtype=torch.int64), device)
        return ReuseGroup(self.references, reference_of, share, always)


def _filled(group: Tensor, count: int) -> Tensor:
    return torch.cat([group, group[-1:].expand(count - len(group), -1, -1, -1)]) if len(group) < count else group


@dataclass(frozen=True, slots=True)
class BlockParts:
    """The functions of a block that `aot.compression.in_tower.stc.Block` describes."""

    normalize: Callable[[Tensor], Tensor]
    queries: Callable[[Tensor], Tensor]
    keys: Callable[[Tensor], Tensor]
    values: Callable[[Tensor], Tensor]
    attend: Callable[[Tensor, Tensor, Tensor], Tensor]
    project: Callable[[Tensor], Tensor]
    feed_forward: Callable[[Tensor], Tensor]
    is_recorded: bool
    record: Callable[[Tensor, Tensor], None]
    rotate: Callable[[Tensor, Tensor | None], Tensor] = lambda tokens, rows: tokens


# Makes the parts of a block from its modules, its input [F, N, D] and its other arguments.
PartsOf = Callable[[Any, Tensor, Mapping[str, Any]], BlockParts]


def with_reuse(module: Any, path: str, parts_of: PartsOf, group: ReuseGroup) -> Any:
    """Return a copy of `module` in which the blocks at `path` reuse the work on references.

    If all frames are references, return `module` itself.
    """
    if not len(group.reference_of):
        return module
    return with_blocks(module, path, lambda _, block: _ReusingBlock(block, parts_of, group))


def with_blocks(module: Any, path: str, instead: Callable[[int, Any], nn.Module]) -> Any:
    """Return a copy of `module` with `instead(number, block)` for each of the blocks at `path`.

    All other submodules are shared. The copy has no hooks: accelerate's move inputs between
    devices, which the new blocks do themselves.
    """
    copied = copy.copy(module)
    name, _, rest = path.partition(".")
    inner = getattr(module, name)
    replaced = (
        with_blocks(inner, rest, instead)
        if rest
        else nn.ModuleList(instead(number, block) for number, block in enumerate(inner))
    )
    own = {"_modules": {**module._modules, name: replaced}}
    copied.__dict__.update(own, _forward_hooks=OrderedDict(), _forward_pre_hooks=OrderedDict())
    copied.__dict__.pop("forward", None)
    return copied


class _ReusingBlock(nn.Module):
    """A block of the tower; its input [F, N, D] or [F * N, D] has the frames of `group`."""

    def __init__(self, block: Any, parts_of: PartsOf, group: ReuseGroup) -> None:
        super().__init__()
        self._parts_of, self._group = partial(parts_of, block), group
        self._device = input_device(block)

    def forward(self, states: Tensor, **context: Any) -> Tensor:
        group = self._group
        frames = group.references + len(group.reference_of)
        # Rows are written in place; stock embeddings may have channels first in memory.
        states = states.to(self._device).contiguous()
        by_frame = states.view(frames, -1, states.shape[-1])
        group = ReuseGroup(group.references, group.reference_of.to(self._device), group.share, group.always)
        return run_block(self._parts_of(by_frame, context), by_frame, group).view_as(states)


def siglip_parts(block: Any, states: Tensor, context: Mapping[str, Any]) -> BlockParts:
    """Return the parts of a block of SigLIP or CLIP."""
    attention = block.self_attn
    heads = _Heads(attention, attention.head_dim, attention.scale)
    return BlockParts(
        block.layer_norm1,
        attention.q_proj,
        attention.k_proj,
        attention.v_proj,
        heads.attend,
        attention.out_proj,
        lambda states: block.mlp(block.layer_norm2(states)),
        is_recorded(attention),
        heads.record,
    )


def internvit_parts(block: Any, states: Tensor, context: Mapping[str, Any]) -> BlockParts:
    """Return the parts of a block of InternViT; the changes of a block include its layer scale.

    Keys are compared after their norm, if the tower has one.
    """
    attention = block.attention
    heads = _Heads(attention, attention.head_dim, attention.scale)
    return BlockParts(
        block.layernorm_before,
        lambda states: attention.q_norm(attention.q_proj(states)),
        lambda states: attention.k_norm(attention.k_proj(states)),
        attention.v_proj,
        heads.attend,
        lambda attended: block.lambda_1 * attention.projection_layer(attended),
        lambda states: block.lambda_2 * block.mlp(block.layernorm_after(states)),
        is_recorded(attention),
        heads.record,
    )


def qwen_parts(block: Any, states: Tensor, context: Mapping[str, Any]) -> BlockParts:
    """Return the parts of a block of Qwen3-VL's tower, with rotary position embeddings.

    Keys are compared before rotation, which does not change the similarity of keys at one position.
    """
    attention, tokens = block.attn, states.shape[1]
    heads = _Heads(attention, attention.head_dim, attention.scaling)
    # All frames have the same positions.
    rotation = _Rotation(*(values[:tokens].float() for values in context["position_embeddings"]))
    query, key, value = (
        partial(nn.functional.linear, weight=weight, bias=bias)
        for weight, bias in zip(attention.qkv.weight.chunk(3), attention.qkv.bias.chunk(3), strict=True)
    )
    return BlockParts(
        block.norm1,
        query,
        key,
        value,
        heads.attend,
        attention.proj,
        lambda states: block.mlp(block.norm2(states)),
        is_recorded(attention),
        heads.record,
        rotation,
    )


@dataclass(frozen=True, slots=True)
class _Rotation:
    """Rotary embeddings [N, d] of the positions of a frame."""

    cosines: Tensor
    sines: Tensor

    def __call__(self, tokens: Tensor, rows: Tensor | None) -> Tensor:
        """Rotate `tokens` [F, N, D], or [M, D] at the rows [M] of all F * N tokens."""
        cosines, sines = self.cosines, self.sines
        if rows is not None:
            positions = rows % len(cosines)
            cosines, sines = cosines.index_select(0, positions), sines.index_select(0, positions)
        heads = tokens.view(*tokens.shape[:-1], -1, cosines.shape[-1]).float()
        first, second = heads.chunk(2, -1)
        turned = torch.cat([-second, first], -1)
        rotated = heads * cosines.unsqueeze(-2) + turned * sines.unsqueeze(-2)
        return rotated.to(tokens.dtype).flatten(-2)


@dataclass(frozen=True, slots=True)
class _Heads:
    """Split tokens [F, n, D] into heads, attend with the tower's kernel, and record."""

    attention: Any
    width: int
    scaling: float

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return the attention output [F, n, D] before its projection."""
        found = attend(self.attention, self._split(query), self._split(key), self._split(value), self.scaling)
        return found.reshape(query.shape)

    def record(self, query: Tensor, key: Tensor) -> None:
        """Record complete queries and keys [F, N, D]."""
        record(self.attention, self._split(query), self._split(key), self.scaling)

    def _split(self, tokens: Tensor) -> Tensor:
        return tokens.view(*tokens.shape[:-1], -1, self.width).transpose(1, 2)
