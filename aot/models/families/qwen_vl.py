"""Qwen2.5-VL and Qwen3-VL: two sampled frames become one of the tower's, its patches are merged 2 x 2 into tokens that
are not pooled any more, frames keep their shape, and positions are in time, height and width.

So F counts pairs of sampled frames, and N = n tokens; what methods are given of a token is of its 2 x 2 patches:

    saliency         the mean of the attention that they receive (its mean over heads, summed over queries) in a block
    keys             the mean of their keys in a block, rotated by their places as the tower attends with them
    frame embedding  the mean of the frame's features
    pooling attention  the attention received in the last block, of sum 1 in a frame: the tower has no pooling head

All patches of a pair attend to each other in every block of Qwen3-VL. In Qwen2.5-VL they do in some; in the others they
attend in windows, where what a patch receives says nothing about patches of other windows, so that the nearest block
with full attention takes the place of one with windows.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from aot.config.schema import ModelConfig
from aot.errors import ConfigError
from aot.models.base import ModelIdentity, Progress
from aot.models.composed import ComposedModel
from aot.models.families.llava_geometry import refuse_llava_settings
from aot.models.families.qwen_frames import FrameSizes, inverse, packed
from aot.models.families.qwen_positions import WholePrompt, seconds_per_frame
from aot.models.language.prompt import Run
from aot.models.loading.checkpoints import identify, load_network, load_tokenizer
from aot.models.vision.encoding import TowerPass, run_tower
from aot.models.vision.microbatch import batch_size_for
from aot.models.vision.preprocessing import video_settings
from aot.models.vision.saliency import attention_modules, recorded_attention, resolve_layer
from aot.runtime.devices import input_device
from aot.types import CompressedTokens, Needs, Pooling, VideoFrames, VideoInfo, VisualTokens

__all__ = ["QwenVL"]


class QwenVL(ComposedModel):
    """What both families share. networks: transformers' classes by `model_type`. sizes: of frames, where the files of
    the checkpoint do not say.
    """

    networks: ClassVar[dict[str, str]]
    sizes: ClassVar[FrameSizes]

    def __init__(self, network: Any, tokenizer: Any, config: ModelConfig, identity: ModelIdentity) -> None:
        super().__init__(network, tokenizer, config, identity)
        self.temporal_patch = int(self.tower.config.temporal_patch_size)
        sizes = replace(self.sizes, factor=self.tower.config.patch_size * self.tower.config.spatial_merge_size)
        self._sizes = FrameSizes.of(video_settings(config), sizes)

    @classmethod
    def load(cls, config: ModelConfig, description: dict[str, Any]) -> QwenVL:
        """Load network and tokenizer; `description` is the checkpoint's config.json.

        Raises:
            ConfigError: a setting is for other families.
            ModelError: the checkpoint cannot be used.
        """
        import transformers

        refuse_llava_settings(config, "Qwen-VL")
        if config.positions == "packed":
            raise ConfigError(
                "model.positions packed is not for Qwen-VL, which reads where in time and space a token is from its "
                "position; leave it out"
            )
        network = load_network(config, getattr(transformers, cls.networks[description["model_type"]]))
        return cls(network, load_tokenizer(config), config, identify(config, description, cls.token_space))

    @property
    def tower(self) -> Any:
        return self.network.model.visual

    @property
    def video_token(self) -> int:
        return int(self.network.config.video_token_id)

    @property
    def placement(self) -> dict[str, Any]:
        return {**super().placement, "temporal_patch": self.temporal_patch}

    @property
    def positions(self) -> str:
        return "original"

    def frame_size(self, source: VideoInfo, frames: int) -> tuple[int, int]:
        """
        Raises:
            ConfigError: `model.frame_pixels` is less than a token has.
        """
        return self._sizes.of_frame(source.height, source.width, frames, self.config.frame_pixels)

    def _reads(self, size: tuple[int, int], wanted: tuple[int, int]) -> bool:
        return all(side > 0 and side % self._sizes.factor == 0 for side in size)

    def saliency_blocks(self, layers: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(map(self._block, layers))

    @torch.no_grad()  # ordinary tensors, which may be trained with
    def encode(self, frames: VideoFrames, needs: Needs, on_frame: Progress | None = None) -> VisualTokens:
        """Run the tower over the frames, a few pairs at a time. An odd last frame is paired with itself.

        Raises:
            ConfigError: as `check_frames`.
            UnsupportedError: tokens are to merge inside the tower.
            NumericsError: the features hold NaN or infinite values.
        """
        self.check_needs(needs)
        self.check_frames(frames)
        count, together, grid = len(frames.pixels), self.temporal_patch, self._grid(frames.pixels)
        notices: list[str] = []
        whole = run_tower(
            -(-count // together),
            self._batch_size(grid),
            lambda first, stop: self._tower_pass(frames.pixels[first * together : stop * together], grid, needs),
            lambda size: notices.append(self._remember(size * together)),
            on_frame and (lambda done, total: on_frame(min(done * together, count), count)),
        )
        times_s = self._pair_times(frames.timestamps_s)
        return whole.visual(frames, needs, grid=grid, pool=Pooling("none"), timestamps_s=times_s, notices=notices)

    def _tower_pass(self, pixels: Tensor, grid: tuple[int, int], needs: Needs) -> TowerPass:
        vision = self.tower.config
        rows = packed(self.normalise(pixels), self.temporal_patch, vision.patch_size, vision.spatial_merge_size)
        pairs, merge = -(-len(pixels) // self.temporal_patch), vision.spatial_merge_size
        sides = torch.tensor([[pairs, grid[0] * merge, grid[1] * merge]], device=rows.device)
        salient = {layer: self._block(layer) for layer in needs.saliency_layers}
        keyed = {layer: self._block(layer) for layer in needs.key_layers}
        last = (self._block(-1),) if needs.pooling_attention else ()
        with recorded_attention(self.tower, (*salient.values(), *last), tuple(keyed.values())) as recording:
            found = self.tower(rows, grid_thw=sides)
        of_tokens = partial(self._of_tokens, grid=grid)
        received = {block: of_tokens(values) for block, values in recording.saliency.items()}
        features = found.pooler_output.view(pairs, grid[0] * grid[1], -1)
        deepstack = getattr(found, "deepstack_features", None)
        return TowerPass(
            features,
            {layer: received[block] for layer, block in salient.items()},
            {layer: of_tokens(recording.keys[block]) for layer, block in keyed.items()},
            features.mean(1) if needs.frame_embeddings else None,
            received[last[0]] / received[last[0]].sum(-1, keepdim=True) if last else None,
            torch.stack([level.view_as(features) for level in deepstack]) if deepstack else None,
        )

    def _of_tokens(self, recorded: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
        """What was recorded of the patches of each pair, [1, N, ...], to that of its tokens: [T, n, ...]."""
        patches = torch.cat(list(recorded))
        tokens = patches.view(len(patches), grid[0] * grid[1], -1, *patches.shape[2:]).mean(2)
        order = self._attended_order(grid)
        return tokens if order is None else tokens[:, inverse(order).to(tokens.device)]

    def _grid(self, pixels: Tensor) -> tuple[int, int]:
        return pixels.shape[2] // self._sizes.factor, pixels.shape[3] // self._sizes.factor

    def _block(self, layer: int) -> int:
        """The block in which to look for `layer`: of two that are as near, the deeper one."""
        wanted = resolve_layer(layer, len(attention_modules(self.tower)))
        return min(self._full_attention(), key=lambda block: (abs(block - wanted), -block))

    def _full_attention(self) -> Sequence[int]:
        """Blocks in which all patches of a pair attend to each other."""
        return range(len(attention_modules(self.tower)))

    def _attended_order(self, grid: tuple[int, int]) -> Tensor | None:
        """In which order the tower holds the tokens of a pair, where it is not raster order."""
        return None

    def _batch_size(self, grid: tuple[int, int]) -> int:
        """How many pairs at once."""
        if self._batch_frames is not None:
            return max(self._batch_frames // self.temporal_patch, 1)
        vision = self.tower.config
        # Pixels as they are made and packed; queries, keys, values, both of the first rotated in 32 bits, residual and
        # norm; three of an MLP's widths. A token's features are four patches'.
        pixels = 3 * vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        widths = pixels + 12 * vision.hidden_size + 3 * vision.intermediate_size + 2 * vision.out_hidden_size
        patches = grid[0] * grid[1] * vision.spatial_merge_size**2
        return batch_size_for(self.device, patches * widths * self.network.dtype.itemsize)

    @abstractmethod
    def _pair_times(self, times_s: Sequence[float]) -> tuple[float, ...]:
        """When a pair of frames is shown, as the model is told."""

    def _positions(
        self, texts: Sequence[Sequence[int]], runs: Sequence[Run], tokens: CompressedTokens
    ) -> tuple[Tensor, int]:
        whole = WholePrompt.around(texts, runs, tokens, self.video_token)
        (rows, cols), merge = tokens.grid, self.tower.config.spatial_merge_size
        positions, _ = self.network.model.get_rope_index(
            input_ids=whole.ids,
            mm_token_type_ids=whole.kinds,
            video_grid_thw=torch.tensor([[len(tokens.timestamps_s), rows * merge, cols * merge]]),
            second_per_grid_ts=torch.tensor([seconds_per_frame(tokens.timestamps_s)]),
        )
        of_kept, following = whole.of_kept(positions)
        return of_kept.to(input_device(self.network.get_input_embeddings())), following
