"""InternVL in transformers' layout: InternViT, pixel shuffle, a projector, text around each frame.

Each frame is one image tile. Pixel shuffle concatenates the patches of a 2 x 2 square into one
token. Tokens stay in raster order, so that a token's index gives its row and column.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from aot.config.schema import ModelConfig
from aot.errors import ModelError, UnsupportedError
from aot.models.base import ModelIdentity, Progress
from aot.models.composed import ComposedModel
from aot.models.families.llava_geometry import refuse_llava_settings
from aot.models.language.prompt import Run, by_frame
from aot.models.loading.checkpoints import identify, load_network, load_tokenizer
from aot.models.vision.encoding import TowerPass
from aot.models.vision.frame_merging_tower import FrameStages, with_frame_merging
from aot.models.vision.microbatch import batch_size_for
from aot.models.vision.preprocessing import IMAGENET
from aot.models.vision.reusing_tower import FrameBatch, internvit_parts, with_reuse
from aot.models.vision.saliency import recorded_attention
from aot.types import CompressedTokens, Needs, Pooling, VideoFrames, VideoInfo, VisualTokens

__all__ = ["InternVL"]

_BEFORE, _AFTER = "<|im_start|>user\n", "\n{question}<|im_end|>\n<|im_start|>assistant\n"


class InternVL(ComposedModel):
    """InternVL3, InternVL3.5, and converted checkpoints of InternVL2.5.

    The language model is a Qwen2, a Qwen3 or a Llama. The prompt follows the checkpoints' chat
    template without a system turn, for both values of `model.template`.
    """

    reuses_frames = True
    pixel_defaults = IMAGENET
    token_space = ("multi_modal_projector.linear_2.weight",)

    def __init__(self, network: Any, tokenizer: Any, config: ModelConfig, identity: ModelIdentity) -> None:
        super().__init__(network, tokenizer, config, identity)
        self._stride = round(1 / network.config.downsample_ratio)
        rows, cols = self._patches
        if rows != cols or rows % self._stride:
            raise ModelError(
                f"{config.name} reads images of {rows} x {cols} patches, which do not form a square of whole tokens; "
                "use a checkpoint for square images"
            )

    @classmethod
    def load(cls, config: ModelConfig, description: dict[str, Any]) -> InternVL:
        """Load network and tokenizer; settings that only LLaVA has are refused."""
        from transformers import InternVLForConditionalGeneration

        refuse_llava_settings(config, "InternVL")
        network = load_network(config, InternVLForConditionalGeneration)
        identity = identify(config, description, cls.token_space)
        return cls(network, load_tokenizer(config), config, identity)

    @classmethod
    def known_grid(cls, config: ModelConfig, description: Mapping[str, Any]) -> tuple[int, int] | None:
        """Return a frame's token grid (rows, cols); None if config.json lacks a size."""
        vision, ratio = description.get("vision_config"), description.get("downsample_ratio", 0.5)
        try:
            sizes, patches = (vision[name] for name in ("image_size", "patch_size"))  # type: ignore[index]
            rows, cols = (int(size // patch * ratio) for size, patch in zip(sizes, patches, strict=True))
        except (TypeError, ValueError, KeyError, ZeroDivisionError):
            # A size is missing or invalid; loading the checkpoint raises the error.
            return None
        return (rows, cols) if rows > 0 and cols > 0 else None

    @property
    def tower(self) -> Any:
        """Return InternViT."""
        return self.network.model.vision_tower

    @property
    def video_token(self) -> int:
        """Return the id of the image token, which InternVL uses for video frames as well."""
        return int(self.network.config.image_token_id)

    @property
    def image_size(self) -> tuple[int, int]:
        """Return the frame size (rows, cols) in pixels that the tower was trained with."""
        rows, cols = self.network.config.vision_config.image_size
        return rows, cols

    @property
    def _patches(self) -> tuple[int, int]:
        """Return a frame's patch grid (rows, cols), before pixel shuffle."""
        patch_rows, patch_cols = self.network.config.vision_config.patch_size
        return self.image_size[0] // patch_rows, self.image_size[1] // patch_cols

    @property
    def grid(self) -> tuple[int, int]:
        """Return a frame's token grid (rows, cols), e.g. (16, 16)."""
        rows, cols = self._patches
        return rows // self._stride, cols // self._stride

    @property
    def tokens_per_frame(self) -> int:
        """Return n, the number of tokens of one frame."""
        return self.grid[0] * self.grid[1]

    def frame_size(self, source: VideoInfo, frames: int) -> tuple[int, int]:
        """Return `image_size` for every video."""
        return self.image_size

    @torch.no_grad()  # unlike inference_mode, no_grad returns tensors that training may use
    def encode(self, frames: VideoFrames, needs: Needs, on_frame: Progress | None = None) -> VisualTokens:
        """Run tower and projector over the frames, in batches."""
        self.check_needs(needs)
        self.check_frames(frames)
        whole, notices = self._run_tower(frames, needs, self._batch_size(needs), on_frame)
        return whole.visual(frames, needs, grid=self.grid, pool=Pooling("none"), notices=notices)

    def _tower_pass(self, pixels: Tensor, needs: Needs, batch: FrameBatch | FrameStages | None = None) -> TowerPass:
        """Run tower and projector; average attention and keys over the patches of each token."""
        # 1. Layers to record. Without a pooling head, the last block gives the pooling attention.
        layers = needs.saliency_layers
        if needs.pooling_attention and -1 not in layers:
            layers = (*layers, -1)
        # 2. Tower, pixel shuffle and projector, by the stock model's own method.
        with recorded_attention(self.tower, layers, needs.key_layers) as recording:
            features = self._arranged(batch, needs).get_image_features(self.normalize(pixels)).pooler_output
        # 3. From patches to tokens. A frame's pooling attention sums to 1.
        tokens = {layer: self._of_tokens(torch.cat(received)) for layer, received in recording.saliency.items()}
        saliency = {layer: self._left_of(batch, layer, values) for layer, values in tokens.items()}
        attention = saliency[-1] / saliency[-1].sum(-1, keepdim=True) if needs.pooling_attention else None
        return TowerPass(
            features,
            saliency,
            {
                layer: self._left_of(batch, layer, self._of_tokens(torch.cat(seen)))
                for layer, seen in recording.keys.items()
            },
            features.mean(1) if needs.frame_embeddings else None,
            attention,
        )

    @property
    def _class_tokens(self) -> int:
        return 1

    def _arranged(self, batch: FrameBatch | FrameStages | None, needs: Needs) -> Any:
        """Return the model, in whose tower frames reuse work or are merged as `batch` says."""
        if batch is None:
            return self.network.model
        if self.network.config.vision_feature_layer != -1:
            name = "stc" if needs.reuse else "earlytom"
            raise UnsupportedError(f"--tower {name} needs features of the tower's last block; use --tower full")
        if isinstance(batch, FrameStages):
            return with_frame_merging(self.network.model, "vision_tower.encoder.layer", batch)
        assert needs.reuse is not None
        group = batch.group(needs.reuse.share, 1, self.device)
        return with_reuse(self.network.model, "vision_tower.encoder.layer", internvit_parts, group)

    def _of_tokens(self, values: Tensor) -> Tensor:
        """Average `values` [f, 1 + N, ...] (CLS first) over each token's patches: [f, n, ...]."""
        (rows, cols), side = self.grid, self._stride
        squares = values[:, 1:].reshape(len(values), rows, side, cols, side, *values.shape[2:])
        return squares.mean((2, 4)).flatten(1, 2)

    def _batch_size(self, needs: Needs) -> int:
        """Return the number of frames per batch for which the activations fit into memory."""
        if self._batch_frames is not None:
            return self._batch_frames
        vision = self.network.config.vision_config
        rows, cols = self._patches
        # Widths of the residual, norm, queries, keys, values, attention output, both sides of the
        # MLP, and the shuffled patches.
        widths = 8 * vision.hidden_size + 2 * vision.intermediate_size
        # Recording attention takes a float32 row of N + 1 weights per head and patch.
        records = bool(needs.saliency_layers) or needs.pooling_attention
        recorded = vision.num_attention_heads * (rows * cols + 1) * 4 if records else 0
        per_patch = widths * self.network.dtype.itemsize + recorded
        return batch_size_for(self.device, (rows * cols + 1) * per_patch)

    def _template(self) -> tuple[str, str]:
        # Llama's tokenizer begins every text with a special token; Qwen's adds none.
        opening = self.tokenizer.decode(self.tokenizer("")["input_ids"])
        return opening + _BEFORE, _AFTER

    def _runs(self, tokens: CompressedTokens) -> Sequence[Run]:
        """Return one run per frame: a text with the frame number, then the frame's kept tokens."""
        cell, span = (tokens.cell % self.tokens_per_frame).tolist(), self.tokens_per_frame
        runs = []
        for frame, kept in enumerate(by_frame(tokens)):
            closing = "</img>\n" if frame else ""
            text = f"{closing}Frame{frame + 1}: <img>"
            runs.append(Run(text, kept, [cell[token] for token in kept], span))
        return [*runs, Run("</img>", ())]
