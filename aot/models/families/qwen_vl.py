"""Qwen2.5-VL and Qwen3-VL: frames in pairs, no pooling, native aspect ratio, 3D position ids.

The tower encodes two sampled frames together and merges their patches 2 x 2 into tokens. So F
is the number of frame pairs, and N = n: to a method, each token is one patch. A method receives
these values; values per token are computed from the token's 2 x 2 patches:

    saliency           the mean attention received in a block (mean over heads, sum over queries)
    keys               the mean key in a block, with the tower's rotary position embedding
    frame embedding    the mean of the frame's features
    pooling attention  attention received in the last block, with sum 1 per frame; the tower has no
                       pooling head

In Qwen3-VL all patches of a pair attend to each other in every block. Most blocks of Qwen2.5-VL
attend within windows, and attention received cannot be compared between windows. Instead of such a
block, the nearest block with full attention is used.
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
from aot.models.families.qwen_layout import tower_layout
from aot.models.families.qwen_positions import WholePrompt, seconds_per_frame
from aot.models.language.prompt import Run
from aot.models.loading.checkpoints import identify, load_network, load_tokenizer
from aot.models.vision.encoding import TowerPass
from aot.models.vision.frame_merging_tower import FrameStages, left_of, with_frame_merging
from aot.models.vision.microbatch import batch_size_for
from aot.models.vision.preprocessing import video_settings
from aot.models.vision.reusing_tower import FrameBatch, qwen_parts, with_reuse
from aot.models.vision.saliency import attention_modules, recorded_attention, resolve_layer
from aot.runtime.devices import input_device
from aot.types import CompressedTokens, Needs, Pooling, VideoFrames, VideoInfo, VisualTokens

__all__ = ["QwenVL"]


class QwenVL(ComposedModel):
    """Common base of Qwen2.5-VL and Qwen3-VL.

    Attributes:
        networks: names of transformers' classes by `model_type`.
        sizes: limits of frame sizes, used if the checkpoint's files state none.
    """

    text_positions = False
    networks: ClassVar[dict[str, str]]
    sizes: ClassVar[FrameSizes]

    def __init__(self, network: Any, tokenizer: Any, config: ModelConfig, identity: ModelIdentity) -> None:
        super().__init__(network, tokenizer, config, identity)
        self.temporal_patch = int(self.tower.config.temporal_patch_size)
        sizes = replace(self.sizes, factor=self.tower.config.patch_size * self.tower.config.spatial_merge_size)
        self._sizes = FrameSizes.of(video_settings(config), sizes)

    @classmethod
    def load(cls, config: ModelConfig, description: dict[str, Any]) -> QwenVL:
        """Load network and tokenizer; settings of other families are refused."""
        import transformers

        refuse_llava_settings(config, "Qwen-VL")
        if config.positions == "packed":
            raise ConfigError(
                "model.positions packed does not work with Qwen-VL, whose position ids hold the time, row and column "
                "of each token; leave it out"
            )
        network = load_network(config, getattr(transformers, cls.networks[description["model_type"]]))
        return cls(network, load_tokenizer(config), config, identify(config, description, cls.token_space))

    @property
    def tower(self) -> Any:
        """Return the vision tower, which ends with the merger of patches."""
        return self.network.model.visual

    @property
    def video_token(self) -> int:
        """Return the id of the video token."""
        return int(self.network.config.video_token_id)

    @property
    def placement(self) -> dict[str, Any]:
        """Return facts about the model for reports, with the number of frames per pair."""
        return {**super().placement, "temporal_patch": self.temporal_patch}

    @property
    def positions(self) -> str:
        """Return "original": each row always has its position in the whole video."""
        return "original"

    def frame_size(self, source: VideoInfo, frames: int) -> tuple[int, int]:
        """Return a size (rows, cols) in pixels with nearly the aspect ratio of `source`."""
        return self._sizes.of_frame(source.height, source.width, frames, self.config.frame_pixels)

    def _reads(self, size: tuple[int, int], wanted: tuple[int, int]) -> bool:
        return all(side > 0 and side % self._sizes.factor == 0 for side in size)

    def saliency_blocks(self, layers: tuple[int, ...]) -> tuple[int, ...]:
        """Return for each of `layers` the index of the nearest block with full attention."""
        return tuple(map(self._block, layers))

    @torch.no_grad()  # unlike inference_mode, no_grad returns tensors that training may use
    def encode(self, frames: VideoFrames, needs: Needs, on_frame: Progress | None = None) -> VisualTokens:
        """Run the tower over batches of frame pairs; an odd last frame is paired with itself."""
        self.check_needs(needs)
        self.check_frames(frames)
        grid = self._grid(frames.pixels)
        whole, notices = self._run_tower(frames, needs, self._batch_size(grid), on_frame)
        times_s = self._pair_times(frames.timestamps_s)
        return whole.visual(frames, needs, grid=grid, pool=Pooling("none"), timestamps_s=times_s, notices=notices)

    def _tower_pass(self, pixels: Tensor, needs: Needs, batch: FrameBatch | FrameStages | None = None) -> TowerPass:
        """Run the tower; average attention and keys over the patches of each token."""
        # 1. Rows of patches, and the number of patches in time, height and width.
        vision, grid = self.tower.config, self._grid(pixels)
        rows = packed(self.normalize(pixels), self.temporal_patch, vision.patch_size, vision.spatial_merge_size)
        pairs, merge = -(-len(pixels) // self.temporal_patch), vision.spatial_merge_size
        layout = tower_layout(self.tower, (pairs, grid[0] * merge, grid[1] * merge), rows.device)
        # 2. Blocks to record. Two layers may share the nearest block with full attention.
        salient = {layer: self._block(layer) for layer in needs.saliency_layers}
        keyed = {layer: self._block(layer) for layer in needs.key_layers}
        last = (self._block(-1),) if needs.pooling_attention else ()
        with recorded_attention(self.tower, (*salient.values(), *last), tuple(keyed.values())) as recording:
            tower = self.tower
            if isinstance(batch, FrameStages):
                tower = with_frame_merging(tower, "blocks", batch)
            elif batch is not None and needs.reuse is not None:
                tower = with_reuse(tower, "blocks", qwen_parts, batch.group(needs.reuse.share, 0, self.device))
            found = tower(rows, **layout)
        # 3. From patches to tokens.
        of_tokens = partial(self._of_tokens, grid=grid)
        left = partial(left_of, batch)
        received = {block: left(block, of_tokens(values)) for block, values in recording.saliency.items()}
        features = found.pooler_output.view(-1, grid[0] * grid[1], found.pooler_output.shape[-1])
        deepstack = getattr(found, "deepstack_features", None)
        levels = zip(self.tower.deepstack_visual_indexes, deepstack, strict=True) if deepstack else ()
        return TowerPass(
            features,
            {layer: received[block] for layer, block in salient.items()},
            {layer: left(block, of_tokens(recording.keys[block])) for layer, block in keyed.items()},
            features.mean(1) if needs.frame_embeddings else None,
            received[last[0]] / received[last[0]].sum(-1, keepdim=True) if last else None,
            # A level was read after the merge that follows its block.
            torch.stack([left(block + 1, level.view(-1, *features.shape[1:])) for block, level in levels])
            if deepstack
            else None,
        )

    def _of_tokens(self, recorded: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
        """Average `recorded` over the patches of each token; return [T, n, ...] for T frame pairs.

        `recorded` holds tensors [pairs, patches, ...] in the tower's order; the result is in raster
        order.
        """
        patches = torch.cat(list(recorded))
        tokens = patches.view(len(patches), grid[0] * grid[1], -1, *patches.shape[2:]).mean(2)
        order = self._attended_order(grid)
        return tokens if order is None else tokens[:, inverse(order).to(tokens.device)]

    def _grid(self, pixels: Tensor) -> tuple[int, int]:
        """Return a frame's token grid (rows, cols)."""
        return pixels.shape[2] // self._sizes.factor, pixels.shape[3] // self._sizes.factor

    def _block(self, layer: int) -> int:
        """Return the full-attention block nearest to `layer`; of two equally near, the deeper."""
        wanted = resolve_layer(layer, len(attention_modules(self.tower)))
        return min(self._full_attention(), key=lambda block: (abs(block - wanted), -block))

    def _full_attention(self) -> Sequence[int]:
        """Return the indices of the blocks in which all patches of a pair attend to each other."""
        return range(len(attention_modules(self.tower)))

    def _attended_order(self, grid: tuple[int, int]) -> Tensor | None:
        """Return a pair's tokens (raster indices) in the tower's order; None for raster order."""
        return None

    def _batch_size(self, grid: tuple[int, int]) -> int:
        """Return the number of frame pairs per batch for which the activations fit into memory."""
        if self._batch_frames is not None:
            return max(self._batch_frames // self.temporal_patch, 1)
        vision = self.tower.config
        # Pixels before and after packing; queries, keys, values, rotated queries and keys in
        # float32, residual and norm; three widths of the MLP. A token has four patches.
        pixels = 3 * vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        widths = pixels + 12 * vision.hidden_size + 3 * vision.intermediate_size + 2 * vision.out_hidden_size
        patches = grid[0] * grid[1] * vision.spatial_merge_size**2
        return batch_size_for(self.device, patches * widths * self.network.dtype.itemsize)

    @abstractmethod
    def _pair_times(self, times_s: Sequence[float]) -> tuple[float, ...]:
        """Return the time in seconds of each pair of frames, by the model's own rule."""

    def _positions(
        self, texts: Sequence[Sequence[int]], runs: Sequence[Run], tokens: CompressedTokens
    ) -> tuple[Tensor, int]:
        """Return the kept rows' M-RoPE position ids [3, 1, P], and the position after the video."""
        # 1. Positions of the prompt with all tokens of the video, by the model's own rule.
        whole = WholePrompt.around(texts, runs, tokens, self.video_token)
        (rows, cols), merge = tokens.grid, self.tower.config.spatial_merge_size
        positions, _ = self.network.model.get_rope_index(
            input_ids=whole.ids,
            mm_token_type_ids=whole.kinds,
            video_grid_thw=torch.tensor([[len(tokens.timestamps_s), rows * merge, cols * merge]]),
            second_per_grid_ts=torch.tensor([seconds_per_frame(tokens.timestamps_s)]),
        )
        # 2. The positions of the kept rows.
        of_kept, following = whole.of_kept(positions)
        return of_kept.to(input_device(self.network.get_input_embeddings())), following
