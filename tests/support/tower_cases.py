"""Small towers of all families, each with a straight program for its blocks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModel

from aot.config.schema import ModelConfig
from aot.models import load_model
from aot.models.families.llava import Llava
from aot.models.families.qwen_frames import packed
from aot.types import FrameReuse, Needs, VideoFrames
from tests.support.model_inputs import frames_for
from tests.support.qwen_inputs import frames_of
from tests.support.reuse_oracle import Oracle, clip_like, internvit, qwen3
from tests.support.tiny_internvl import make_internvl

__all__ = ["CLOSE", "COUNT", "FAMILIES", "Case", "loaded", "tower_case"]

Change = Callable[[VideoFrames], VideoFrames]
COUNT = 9
CLOSE = {"atol": 2e-5, "rtol": 2e-4}
FAMILIES = ["llava", "clip", "internvl", "internvl-norm", "qwen3", "qwen3-moe"]


@dataclass(frozen=True)
class Case:
    """A model, frames for it, the oracle of its tower, and the stock modules after the tower.

    `saliency_of` averages a block's attention received over the patches of each token.
    """

    model: Any
    frames: VideoFrames
    oracle: Oracle
    features_of: Callable[[Tensor], Tensor]
    saliency_of: Callable[[Tensor], Tensor]

    @property
    def units(self) -> int:
        """Return the number of encoded frames (pairs)."""
        return len(self.oracle.embedded)

    def encode(self, reuse: FrameReuse | None, needs: Needs | None = None, batch: int = 64) -> Any:
        return self.encode_with(replace(needs or Needs(), reuse=reuse), batch)

    def encode_with(self, needs: Needs, batch: int = 64) -> Any:
        model = type(self.model)(
            self.model.network, self.model.tokenizer, replace(self.model.config, encode_batch_frames=batch),
            self.model.identity,
        )  # fmt: skip
        return model.encode(self.frames, needs)


@torch.no_grad()
def tower_case(
    name: str, request: pytest.FixtureRequest, folders: pytest.TempPathFactory, change: Change = lambda frames: frames
) -> Case:
    """Return the case of the family `name`, one of `FAMILIES`, with frames of noise after `change`."""
    if name in ("llava", "clip"):
        return _llava(request.getfixturevalue("small_model"), change, with_clip=name == "clip")
    if name.startswith("internvl"):
        folder = make_internvl(folders.mktemp("internvl"), qk_norm=name == "internvl-norm")
        return _internvl(loaded(folder), change)
    return _qwen3(loaded(request.getfixturevalue(f"{name.replace('-', '_')}_folder")), change)


def loaded(folder: Path) -> Any:
    """Return the model in `folder`."""
    return load_model(ModelConfig(name=str(folder), device="cpu", dtype="float32"))


def _llava(model: Llava, change: Change, *, with_clip: bool) -> Case:
    """With CLIP, the tower of the model is exchanged in a copy of it."""
    tail: Callable[[Tensor], Tensor] = model.network.model.multi_modal_projector
    frames = change(frames_for(model, COUNT))
    if not with_clip:
        return Case(model, frames, clip_like(model, frames.pixels), tail, lambda values: values)
    torch.manual_seed(0)
    sizes = model.network.config.vision_config
    clip: Any = CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=sizes.hidden_size, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4,
            image_size=sizes.image_size, patch_size=sizes.patch_size, initializer_range=0.2, initializer_factor=4.0,
        )
    )  # fmt: skip

    class WithClip(Llava):
        tower = clip.eval().requires_grad_(False)

        def _tower_features(self, tower: Any, pixels: Tensor, least_blocks: int) -> Tensor:
            return super()._tower_features(tower, pixels, least_blocks)[:, 1:]

    own = WithClip(model.network, model.tokenizer, model.config, model.identity)
    return Case(own, frames, clip_like(own, frames.pixels, 1), lambda hidden: tail(hidden[:, 1:]), lambda v: v)


def _internvl(model: Any, change: Change) -> Case:
    frames, network = change(frames_for(model, COUNT)), model.network.model

    def features(hidden: Tensor) -> Tensor:
        hidden = network.vision_tower.layernorm(hidden)[:, 1:]
        side = round(hidden.shape[1] ** 0.5)
        squares = network.pixel_shuffle(hidden.view(len(hidden), side, side, -1), model.network.config.downsample_ratio)
        return network.multi_modal_projector(squares.flatten(1, 2))

    return Case(model, frames, internvit(model, frames.pixels), features, model._of_tokens)


def _qwen3(model: Any, change: Change) -> Case:
    # Nine frames: the last is paired with itself.
    frames, vision = change(frames_of((24, 40), COUNT)), model.tower.config
    rows = packed(model.normalize(frames.pixels), 2, vision.patch_size, vision.spatial_merge_size)
    grid = model._grid(frames.pixels)
    sides = torch.tensor([[5, grid[0] * vision.spatial_merge_size, grid[1] * vision.spatial_merge_size]])

    def features(hidden: Tensor) -> Tensor:
        return model.tower.merger(hidden.flatten(0, 1)).view(len(hidden), grid[0] * grid[1], -1)

    return Case(model, frames, qwen3(model, rows, sides), features, lambda values: model._of_tokens([values], grid))
