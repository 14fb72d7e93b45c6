"""LLaVA-OneVision and LLaVA-Video: SigLIP, a projector, pooling, and learned newlines.

One class of transformers loads both, but always uses LLaVA-OneVision's geometry. `LlavaGeometry`
holds the geometry that a checkpoint was trained with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from aot.compression.contract import check_encoded
from aot.compression.ops.grid import pooled_grid
from aot.config.schema import ModelConfig
from aot.errors import UnsupportedError
from aot.models.base import ModelIdentity, Progress
from aot.models.composed import ComposedModel
from aot.models.families.llava_geometry import LlavaGeometry, time_instruction
from aot.models.language.prompt import Run
from aot.models.loading.checkpoints import identify, load_network, load_tokenizer
from aot.models.vision.encoding import WITHOUT_HEAD, TowerPass
from aot.models.vision.frame_merging_tower import FrameStages, with_frame_merging
from aot.models.vision.frame_scores import ByTextTower, ByWords
from aot.models.vision.merging_tower import MergedVideo, blocks_before_features, run_merging_tower
from aot.models.vision.microbatch import batch_size_for, micro_batches
from aot.models.vision.reusing_tower import FrameBatch, siglip_parts, with_reuse
from aot.models.vision.saliency import recorded_attention
from aot.models.vision.siglip_head import SiglipHead
from aot.models.vision.siglip_text import SiglipText
from aot.models.vision.tower import hidden_states
from aot.types import CompressedTokens, EncoderMerging, Needs, Pooling, VideoFrames, VideoInfo, VisualTokens

__all__ = ["TEMPLATES", "Llava"]

# Text before and after the video: "native" as in LLaVA's training, "hf" as in the chat template on
# the hub.
TEMPLATES = {
    "native": (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n",
        "\n{question}<|im_end|>\n<|im_start|>assistant\n",
    ),
    "hf": ("<|im_start|>user ", "\n{question}<|im_end|><|im_start|>assistant\n"),
}


# An earlier answer and the question after it, by the chat template on the hub.
_LATER_TURN_HF = "<|im_start|>assistant \n{answer}<|im_end|><|im_start|>user \n{question}<|im_end|>"


class Llava(ComposedModel):
    """LLaVA-OneVision 0.5B, 7B and 72B, and LLaVA-Video 7B and 72B."""

    merges_inside = True
    reuses_frames = True
    token_space = ("multi_modal_projector.linear_2.weight", "image_newline")

    def __init__(
        self,
        network: Any,
        tokenizer: Any,
        config: ModelConfig,
        identity: ModelIdentity,
        geometry: LlavaGeometry | None = None,
    ) -> None:
        super().__init__(network, tokenizer, config, identity)
        self.geometry = (geometry or LlavaGeometry()).asked_for(config)
        self._siglip_head: SiglipHead | None = None
        self._loading_head = Lock()

    @classmethod
    def load(cls, config: ModelConfig, description: dict[str, Any]) -> Llava:
        """Load network and tokenizer, with the geometry that the checkpoint was trained with."""
        from transformers import LlavaOnevisionForConditionalGeneration

        network = load_network(config, LlavaOnevisionForConditionalGeneration)
        identity = identify(config, description, cls.token_space)
        return cls(network, load_tokenizer(config), config, identity, LlavaGeometry.of(config, description))

    @classmethod
    def known_grid(cls, config: ModelConfig, description: Mapping[str, Any]) -> tuple[int, int] | None:
        """Return the token grid (rows, cols) after pooling; None if config.json lacks a size."""
        vision = description.get("vision_config")
        size, patch = (vision.get("image_size"), vision.get("patch_size")) if isinstance(vision, dict) else (0, 0)
        if not (isinstance(size, int) and isinstance(patch, int) and size >= patch > 0):
            return None
        side = size // patch
        return pooled_grid((side, side), LlavaGeometry.of(config, description).asked_for(config).pool)

    @property
    def tower(self) -> Any:
        """Return the vision tower."""
        return self.network.model.vision_tower

    @property
    def video_token(self) -> int:
        """Return the id of the video token."""
        return int(self.network.config.video_token_index)

    @property
    def pool(self) -> Pooling:
        """Return the pooling between the projector and the language model."""
        return self.geometry.pool

    @property
    def grid(self) -> tuple[int, int]:
        """Return a frame's patch grid (rows, cols) before pooling, e.g. (27, 27)."""
        vision = self.network.config.vision_config
        side = vision.image_size // vision.patch_size
        return side, side

    @property
    def image_size(self) -> tuple[int, int]:
        """Return the frame size (rows, cols) in pixels that the tower was trained with."""
        size = self.network.config.vision_config.image_size
        return size, size

    def frame_size(self, source: VideoInfo, frames: int) -> tuple[int, int]:
        """Return `image_size` for every video."""
        return self.image_size

    @property
    def tokens_per_frame(self) -> int:
        """Return n, the number of tokens of one frame after pooling."""
        rows, cols = pooled_grid(self.grid, self.pool)
        return rows * cols

    @property
    def placement(self) -> dict[str, Any]:
        """Return facts about the model for reports, with pooling, newlines and token order."""
        layout = {"newline": self.geometry.newline, "token_order": self.geometry.token_order}
        return {**super().placement, "pooling": self.pool.kind, **layout}

    @torch.no_grad()  # unlike inference_mode, no_grad returns tensors that training may use
    def encode(self, frames: VideoFrames, needs: Needs, on_frame: Progress | None = None) -> VisualTokens:
        """Run tower and projector in batches; merge tokens in the tower if `needs.merging`."""
        self.check_frames(frames)
        if needs.merging is not None:
            if needs != Needs(merging=needs.merging):
                raise ValueError(f"needs: expected merging alone, got {needs}")
            return self._encode_merged(frames, needs.merging, on_frame)
        whole, notices = self._run_tower(frames, needs, self._batch_size(), on_frame)
        source = "siglip head" if self.config.siglip_head else WITHOUT_HEAD
        return whole.visual(frames, needs, grid=self.grid, pool=self.pool, source=source, notices=notices)

    def _tower_pass(self, pixels: Tensor, needs: Needs, batch: FrameBatch | FrameStages | None = None) -> TowerPass:
        """Run tower and projector, record attention and keys, and embed each frame if needed."""
        # 1. Layers to record. Without SigLIP's head the last block gives the pooling attention.
        with_head = self.config.siglip_head is not None
        layers = needs.saliency_layers
        if needs.pooling_attention and not with_head and -1 not in layers:
            layers = (*layers, -1)
        # 2. Tower and projector. Recorded blocks must run even if they come after the features.
        with recorded_attention(self.tower, layers, needs.key_layers) as recording:
            recorded = self.saliency_blocks((*layers, *needs.key_layers))
            tower = self._arranged(batch, needs)
            hidden = self._tower_features(tower, self.normalize(pixels), max(recorded, default=-1) + 1)
        features = self.network.model.multi_modal_projector(hidden)
        left = partial(self._left_of, batch)
        saliency = {layer: left(layer, torch.cat(received)) for layer, received in recording.saliency.items()}
        # 3. Frame embeddings, and a pooling attention that sums to 1 in each frame.
        embeddings = attention = None
        if needs.frame_embeddings:
            embeddings = self._head(hidden)(hidden) if with_head else features.mean(1)
        if needs.pooling_attention:
            last = None if with_head else saliency[-1]
            attention = self._head(hidden).attention(hidden) if last is None else last / last.sum(-1, keepdim=True)
        keys = {layer: left(layer, torch.cat(seen)) for layer, seen in recording.keys.items()}
        return TowerPass(features, saliency, keys, embeddings, attention)

    def _encode_merged(self, frames: VideoFrames, merging: EncoderMerging, on_frame: Progress | None) -> VisualTokens:
        """Encode frames whose tokens merge inside the tower; a clip's frames stay in one batch."""
        # 1. Clips. Tokens merge only with tokens of the same clip.
        total, patches = len(frames.pixels), self.grid[0] * self.grid[1]
        clips = merging.clips(total)
        longest = max(len(clip) for clip in clips)
        blocks = blocks_before_features(self.network.config)
        video, notices = MergedVideo(), []

        # 2. One batch of clips. Consecutive clips of equal length share a plan and a tower pass.
        def encode(first: int, stop: int) -> list[tuple[Any, ...]]:
            done = []
            for length, batch in groupby(clips[first:stop], key=len):
                run = list(batch)
                plan = merging.plan(length, patches, self.tokens_per_frame, blocks)
                pixels = self.normalize(frames.pixels[run[0].first : run[-1].stop])
                tokens = run_merging_tower(self.network.model.vision_tower, pixels, plan)
                done.append((tokens, self.network.model.multi_modal_projector(tokens.states), plan))
            return done

        def remember(size: int) -> None:
            notices.append(self._remember(size * longest))

        # 3. All batches. Token indices refer to the whole video.
        for _, done in micro_batches(len(clips), max(1, self._batch_size() // longest), encode, remember):
            for tokens, projected, plan in done:
                video.add(tokens, projected, plan, patches)
            if on_frame:
                on_frame(sum(len(owner) for owner in video.owner), total)
        # 4. Check, and join the clips.
        check_encoded(torch.stack([torch.isfinite(features).all() for features in video.features]).all())
        return VisualTokens(
            features=torch.cat(video.features),
            grid=self.grid,
            pool=self.pool,
            timestamps_s=frames.timestamps_s,
            saliency={},
            frame_embeddings=torch.cat(video.embeddings),
            embedding_source=WITHOUT_HEAD,
            notices=tuple(notices),
            video_name=Path(frames.source.path).name,
            duration_s=frames.source.duration_s,
            merged=video.patches(),
        )

    def _batch_size(self) -> int:
        """Return the number of frames per batch for which the activations fit into memory."""
        if self._batch_frames is not None:
            return self._batch_frames
        vision = self.network.config.vision_config
        # Widths of the residual, norm, queries, keys, values, attention output and both sides of
        # the MLP, and one softmax in float32.
        hidden = 7 * vision.hidden_size + 2 * vision.intermediate_size
        widths = hidden + self.network.config.text_config.hidden_size
        patches = self.grid[0] * self.grid[1]
        softmax = 4 * vision.num_attention_heads * patches**2
        return batch_size_for(self.device, patches * widths * self.network.dtype.itemsize + softmax)

    @property
    def _class_tokens(self) -> int:
        # CLIP has a class token, SigLIP has none.
        return int(hasattr(self.tower.embeddings, "class_embedding"))

    def _feature_blocks(self, depth: int) -> int:
        layer = self.network.config.vision_feature_layer
        if not isinstance(layer, int):
            raise UnsupportedError("--tower earlytom needs features of one block of the tower; use --tower full")
        return range(depth + 1)[layer]

    def _arranged(self, batch: FrameBatch | FrameStages | None, needs: Needs) -> Any:
        """Return the tower, whose frames reuse work or are merged as `batch` says."""
        if isinstance(batch, FrameStages):
            return with_frame_merging(self.tower, "encoder.layers", batch)
        if batch is None or needs.reuse is None:
            return self.tower
        group = batch.group(needs.reuse.share, self._class_tokens, self.device)
        return with_reuse(self.tower, "encoder.layers", siglip_parts, group)

    def _tower_features(self, tower: Any, pixels: Tensor, least_blocks: int) -> Tensor:
        """Return the hidden states [F, N, D_v] that the stock model gives to its projector.

        At least `least_blocks` blocks run, because attention may be recorded in them.
        """
        layers = self.network.config.vision_feature_layer
        wanted = [layers] if isinstance(layers, int) else list(layers)
        states = hidden_states(tower, pixels, wanted, least_blocks)
        selected = torch.cat(states, dim=-1) if len(states) > 1 else states[0]
        # "default" leaves out the CLS token.
        return selected[:, 1:] if self.network.config.vision_feature_select_strategy == "default" else selected

    def _head(self, hidden: Tensor) -> SiglipHead:
        """Return SigLIP's pooling head; the first call loads it to the device of `hidden`."""
        # Two threads that share the model must not load it twice.
        with self._loading_head:
            if self._siglip_head is None:
                self._siglip_head = SiglipHead.load(self.config, hidden.shape[-1], hidden)
            return self._siglip_head

    @torch.inference_mode()
    def frame_scorer(self, questions: Sequence[str]) -> ByTextTower | ByWords | None:
        """Return a scorer with SigLIP's text tower if available, else with the questions' words."""
        words = super().frame_scorer(questions)
        if not self.config.siglip_head:
            return words
        text = SiglipText.load(self.config, self.mean.to(self.network.dtype))
        if text is not None:
            return ByTextTower(text(questions), text.name)
        if words is not None:
            words.by += f" ({self.config.siglip_head} has no text tower with a tokenizer.json)"
        return words

    def _template(self) -> tuple[str, str]:
        return TEMPLATES[self.config.template]

    def _later_turn(self) -> str:
        return _LATER_TURN_HF if self.config.template == "hf" else super()._later_turn()

    def _newline(self) -> Tensor:
        newline: Tensor = self.network.model.image_newline
        return newline

    def _runs(self, tokens: CompressedTokens) -> Sequence[Run]:
        video = self.geometry.run(tokens, indexed=self.positions != "packed")
        return [video, Run("\n" + time_instruction(tokens), [])] if self.config.time_instruction else [video]
