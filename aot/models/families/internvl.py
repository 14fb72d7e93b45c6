"""InternVL in transformers' layout: InternViT with a CLS token, pixel shuffle, a projector, and text around each frame.

A frame is a picture of one tile. Pixel shuffle puts the patches of a 2 x 2 square side by side into one token; the
tokens stay row by row, so that a token's place is the picture's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from aot.config.schema import ModelConfig
from aot.errors import ModelError
from aot.models.base import ModelIdentity, Progress
from aot.models.composed import ComposedModel
from aot.models.families.llava_geometry import refuse_llava_settings
from aot.models.language.prompt import Run, by_frame
from aot.models.loading.checkpoints import identify, load_network, load_tokenizer
from aot.models.vision.encoding import TowerPass, run_tower
from aot.models.vision.microbatch import batch_size_for
from aot.models.vision.preprocessing import IMAGENET
from aot.models.vision.saliency import recorded_attention
from aot.types import CompressedTokens, Needs, Pooling, VideoFrames, VideoInfo, VisualTokens

__all__ = ["InternVL"]

_BEFORE, _BEHIND = "<|im_start|>user\n", "\n{question}<|im_end|>\n<|im_start|>assistant\n"


class InternVL(ComposedModel):
    """InternVL3 and 3.5, and 2.5 where it was converted; the language model is a Qwen2, a Qwen3 or a Llama.

    The prompt is what the chat template of the checkpoints' processor gives, without a system turn; both templates of
    the configuration are this one.
    """

    pixel_defaults = IMAGENET
    token_space = ("multi_modal_projector.linear_2.weight",)

    def __init__(self, network: Any, tokenizer: Any, config: ModelConfig, identity: ModelIdentity) -> None:
        super().__init__(network, tokenizer, config, identity)
        self._stride = round(1 / network.config.downsample_ratio)
        rows, cols = self._patches
        if rows != cols or rows % self._stride:
            raise ModelError(
                f"{config.name} has pictures of {rows} x {cols} patches, which are no square of whole tokens; "
                "use a checkpoint for square pictures"
            )

    @classmethod
    def load(cls, config: ModelConfig, description: dict[str, Any]) -> InternVL:
        """Load network and tokenizer; `description` is the checkpoint's config.json.

        Raises:
            ConfigError: a setting is for LLaVA only.
        """
        from transformers import InternVLForConditionalGeneration

        refuse_llava_settings(config, "InternVL")
        network = load_network(config, InternVLForConditionalGeneration)
        identity = identify(config, description, cls.token_space)
        return cls(network, load_tokenizer(config), config, identity)

    @classmethod
    def known_grid(cls, config: ModelConfig, description: Mapping[str, Any]) -> tuple[int, int] | None:
        vision, ratio = description.get("vision_config"), description.get("downsample_ratio", 0.5)
        try:
            pictures, patches = (vision[name] for name in ("image_size", "patch_size"))  # type: ignore[index]
            rows, cols = (int(picture // patch * ratio) for picture, patch in zip(pictures, patches, strict=True))
        except (TypeError, ValueError, KeyError, ZeroDivisionError):  # left out, or damaged: loading will tell
            return None
        return (rows, cols) if rows > 0 and cols > 0 else None

    @property
    def tower(self) -> Any:
        return self.network.model.vision_tower

    @property
    def video_token(self) -> int:
        return int(self.network.config.image_token_id)

    @property
    def image_size(self) -> tuple[int, int]:
        rows, cols = self.network.config.vision_config.image_size
        return rows, cols

    @property
    def _patches(self) -> tuple[int, int]:
        """Per side (rows, cols), before pixel shuffle."""
        patch_rows, patch_cols = self.network.config.vision_config.patch_size
        return self.image_size[0] // patch_rows, self.image_size[1] // patch_cols

    @property
    def grid(self) -> tuple[int, int]:
        """Tokens per side (rows, cols), e.g. (16, 16)."""
        rows, cols = self._patches
        return rows // self._stride, cols // self._stride

    @property
    def tokens_per_frame(self) -> int:
        return self.grid[0] * self.grid[1]

    def frame_size(self, source: VideoInfo, frames: int) -> tuple[int, int]:
        return self.image_size

    @torch.no_grad()  # ordinary tensors, which may be trained with
    def encode(self, frames: VideoFrames, needs: Needs, on_frame: Progress | None = None) -> VisualTokens:
        """Run tower and projector over the frames, a few at a time.

        Raises:
            ConfigError: as `check_frames`.
            UnsupportedError: tokens are to merge inside the tower.
            NumericsError: the features hold NaN or infinite values.
        """
        self.check_needs(needs)
        self.check_frames(frames)
        notices: list[str] = []
        whole = run_tower(
            len(frames.pixels),
            self._batch_size(needs),
            lambda first, stop: self._tower_pass(frames.pixels[first:stop], needs),
            lambda size: notices.append(self._remember(size)),
            on_frame,
        )
        return whole.visual(frames, needs, grid=self.grid, pool=Pooling("none"), notices=notices)

    def _tower_pass(self, pixels: Tensor, needs: Needs) -> TowerPass:
        layers = needs.saliency_layers
        if needs.pooling_attention and -1 not in layers:
            layers = (*layers, -1)
        with recorded_attention(self.tower, layers, needs.key_layers) as recording:
            features = self.network.model.get_image_features(self.normalise(pixels)).pooler_output
        saliency = {layer: self._of_tokens(torch.cat(received)) for layer, received in recording.saliency.items()}
        attention = saliency[-1] / saliency[-1].sum(-1, keepdim=True) if needs.pooling_attention else None
        return TowerPass(
            features,
            saliency,
            {layer: self._of_tokens(torch.cat(seen)) for layer, seen in recording.keys.items()},
            features.mean(1) if needs.frame_embeddings else None,
            attention,
        )

    def _of_tokens(self, values: Tensor) -> Tensor:
        """Means over each token's patches: [f, 1 + N, ...] with the CLS token first to [f, n, ...]."""
        (rows, cols), side = self.grid, self._stride
        squares = values[:, 1:].reshape(len(values), rows, side, cols, side, *values.shape[2:])
        return squares.mean((2, 4)).flatten(1, 2)

    def _batch_size(self, needs: Needs) -> int:
        if self._batch_frames is not None:
            return self._batch_frames
        vision = self.network.config.vision_config
        rows, cols = self._patches
        # Residual, norm, queries, keys, values and what they attend to, both sides of an MLP, the shuffled patches.
        widths = 8 * vision.hidden_size + 2 * vision.intermediate_size
        records = bool(needs.saliency_layers) or needs.pooling_attention
        recorded = vision.num_attention_heads * (rows * cols + 1) * 4 if records else 0
        per_patch = widths * self.network.dtype.itemsize + recorded
        return batch_size_for(self.device, (rows * cols + 1) * per_patch)

    def _template(self) -> tuple[str, str]:
        opening = self.tokenizer.decode(self.tokenizer("")["input_ids"])  # of Llama's, which begin every text with it
        return opening + _BEFORE, _BEHIND

    def _runs(self, tokens: CompressedTokens) -> Sequence[Run]:
        """Every frame under its number, with what it keeps in reading order; also those that keep nothing."""
        cell, span = (tokens.place % self.tokens_per_frame).tolist(), self.tokens_per_frame
        runs = []
        for frame, kept in enumerate(by_frame(tokens)):
            closing = "</img>\n" if frame else ""
            text = f"{closing}Frame{frame + 1}: <img>"
            runs.append(Run(text, kept, [cell[token] for token in kept], span))
        return [*runs, Run("</img>", ())]
