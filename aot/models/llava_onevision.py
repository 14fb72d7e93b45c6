"""LLaVA-OneVision through transformers, composed from its parts and never patched.

Vision tower, projector, the model's own bilinear pooling (as data), one newline token at the end.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from aot.config import GenerationConfig, ModelConfig
from aot.core.grid import pooled_grid
from aot.errors import ConfigError, ModelError, NumericsError
from aot.models.base import ModelIdentity, Progress
from aot.models.loading import explained, fingerprint, hub_arguments, load_network, read_json
from aot.models.prompt import split_prompt
from aot.models.saliency import attention_modules, recorded_saliency, resolve_layer
from aot.models.siglip_head import SiglipHead
from aot.types import CompressedTokens, Needs, Pooling, VideoFrames, VisualTokens

__all__ = ["LlavaOnevision"]


class LlavaOnevision:
    """LLaVA-OneVision 0.5B, 7B and 72B in the transformers layout (section 2 of the model's card)."""

    pool = Pooling("bilinear", 2)

    def __init__(self, network: Any, tokenizer: Any, config: ModelConfig, identity: ModelIdentity) -> None:
        self.network = network
        self.tokenizer = tokenizer
        self.config = config
        self.identity = identity
        preprocessing = _preprocessing(config)
        self.mean, self.std = (_channels(preprocessing[name]) for name in ("image_mean", "image_std"))
        self._siglip_head: SiglipHead | None = None

    @classmethod
    def load(cls, config: ModelConfig, description: dict[str, Any]) -> LlavaOnevision:
        """Load network and tokenizer; `description` is the checkpoint's config.json."""
        from transformers import AutoTokenizer, LlavaOnevisionForConditionalGeneration

        network = load_network(config, LlavaOnevisionForConditionalGeneration)
        with explained(config):
            tokenizer = AutoTokenizer.from_pretrained(config.name, **hub_arguments(config))
        projector = network.model.multi_modal_projector
        identity = ModelIdentity(
            name=str(config.name),
            revision=description.get("_commit_hash"),
            fingerprint=fingerprint(projector.linear_2.weight, network.model.image_newline),
        )
        return cls(network, tokenizer, config, identity)

    @property
    def grid(self) -> tuple[int, int]:
        """Patches per side (rows, cols) before pooling, e.g. (27, 27)."""
        vision = self.network.config.vision_config
        side = vision.image_size // vision.patch_size
        return side, side

    @property
    def image_size(self) -> tuple[int, int]:
        size = self.network.config.vision_config.image_size
        return size, size

    @property
    def tokens_per_frame(self) -> int:
        rows, cols = pooled_grid(self.grid, self.pool)
        return rows * cols

    @property
    def placement(self) -> dict[str, Any]:
        tower = self.network.model.vision_tower
        return {
            "device": str(self.network.device),
            "dtype": str(self.network.dtype).removeprefix("torch."),
            "attention": tower.config._attn_implementation,
            "vision_blocks": len(attention_modules(tower)),
        }

    @torch.inference_mode()
    def encode(self, frames: VideoFrames, needs: Needs, on_frame: Progress | None = None) -> VisualTokens:
        """Run tower and projector over the frames, a few at a time.

        Raises:
            NumericsError: the features hold NaN or infinite values.
        """
        total = len(frames.pixels)
        features: list[Tensor] = []
        embeddings: list[Tensor] = []
        with recorded_saliency(self.network.model.vision_tower, needs.saliency_layers) as saliency:
            for first in range(0, total, self.config.encode_batch_frames):
                batch = frames.pixels[first : first + self.config.encode_batch_frames]
                hidden = self._tower_features(self.normalise(batch))
                features.append(self.network.model.multi_modal_projector(hidden))
                if needs.frame_embeddings:
                    embeddings.append(self._frame_embedding(hidden, features[-1]))
                if on_frame:
                    on_frame(first + len(batch), total)
        joined = torch.cat(features)
        if not torch.isfinite(joined).all():
            raise NumericsError(
                "the vision tower produced NaN or infinite features; try --dtype bfloat16 or --dtype float32, "
                "and check the model's files if it stays"
            )
        source = "siglip head" if self.config.siglip_head else "mean of the frame's features"
        return VisualTokens(
            features=joined,
            grid=self.grid,
            pool=self.pool,
            timestamps_s=frames.timestamps_s,
            saliency={layer: torch.cat(batches) for layer, batches in saliency.items()},
            frame_embeddings=torch.cat(embeddings) if embeddings else None,
            embedding_source=source if embeddings else None,
        )

    def saliency_blocks(self, layers: tuple[int, ...]) -> tuple[int, ...]:
        """The block each layer number refers to in this tower."""
        depth = len(attention_modules(self.network.model.vision_tower))
        return tuple(resolve_layer(layer, depth) for layer in layers)

    def normalise(self, pixels: Tensor) -> Tensor:
        """uint8 [F, 3, H, W] to the tower's input, on its device and in its dtype."""
        values = (pixels.to(self.network.device).float() / 255 - self.mean.to(self.network.device)) / self.std.to(
            self.network.device
        )
        return values.to(self.network.dtype)

    def _tower_features(self, pixels: Tensor) -> Tensor:
        """Hidden states of the configured layer(s) [F, N, D_v], as the stock model selects them."""
        layers = self.network.config.vision_feature_layer
        wanted = [layers] if isinstance(layers, int) else list(layers)
        states = self.network.model.vision_tower(pixels, output_hidden_states=True).hidden_states
        selected = torch.cat([states[layer] for layer in wanted], dim=-1)
        return selected[:, 1:] if self.network.config.vision_feature_select_strategy == "default" else selected

    def _frame_embedding(self, hidden: Tensor, features: Tensor) -> Tensor:
        if not self.config.siglip_head:
            return features.mean(1)
        if self._siglip_head is None:
            self._siglip_head = SiglipHead.load(self.config, hidden.shape[-1], hidden)
        return self._siglip_head(hidden)

    def prompt(self, tokens: CompressedTokens, question: str) -> Tensor:
        """Input embeddings [1, L, D]: text, kept tokens, newline, text.

        Raises:
            ConfigError: the prompt is longer than the model's context.
        """
        before, after = split_prompt(
            self.tokenizer, self.config.template, question, self.network.config.video_token_index
        )
        visual = tokens.features.to(self.network.device, self.network.dtype)
        newline = [self.network.model.image_newline[None]] if self.config.newline == "one_token" else []
        parts = [self._embed(before), visual, *newline, self._embed(after)]
        embeddings = torch.cat(parts)[None]
        limit = self.network.config.text_config.max_position_embeddings
        if embeddings.shape[1] > limit:
            raise ConfigError(
                f"the prompt has {embeddings.shape[1]} tokens but the model reads at most {limit}; "
                "use a lower --ratio or fewer --frames"
            )
        return embeddings

    def _embed(self, ids: list[int]) -> Tensor:
        embedded: Tensor = self.network.get_input_embeddings()(torch.tensor(ids, device=self.network.device))
        return embedded

    @torch.inference_mode()
    def generate(self, tokens: CompressedTokens, question: str, options: GenerationConfig) -> _Answer:
        """Begin an answer; its text comes as it is written."""
        return _Answer(self.network, self.tokenizer, self.prompt(tokens, question), options)


class _Answer:
    """Runs `generate` in a thread and yields its text. Leaving the loop early stops the thread."""

    def __init__(self, network: nn.Module, tokenizer: Any, prompt: Tensor, options: GenerationConfig) -> None:
        self.network, self.tokenizer, self.prompt, self.options = network, tokenizer, prompt, options
        self.prompt_tokens = prompt.shape[1]
        self._stop = threading.Event()
        self._steps = 0

    @property
    def output_tokens(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[str]:
        from transformers import TextIteratorStreamer

        streamer = TextIteratorStreamer(self.tokenizer, skip_special_tokens=True)
        failure: list[BaseException] = []
        thread = threading.Thread(target=self._run, args=(streamer, failure), daemon=True)
        thread.start()
        try:
            yield from (piece for piece in streamer if piece)
        finally:
            self._stop.set()
            thread.join()
        if failure:
            raise failure[0]

    def _run(self, streamer: Any, failure: list[BaseException]) -> None:
        try:
            self._generate(streamer)
        except BaseException as error:  # handed to the reading thread, which raises it
            failure.append(error)
            streamer.end()

    @torch.inference_mode()
    def _generate(self, streamer: Any) -> None:
        from transformers import StoppingCriteriaList

        torch.manual_seed(self.options.seed)
        sampling: dict[str, Any] = {"do_sample": self.options.temperature > 0}
        if sampling["do_sample"]:
            sampling["temperature"] = self.options.temperature
        self.network.generate(  # type: ignore[operator]
            inputs_embeds=self.prompt,
            attention_mask=torch.ones(self.prompt.shape[:2], dtype=torch.long, device=self.prompt.device),
            max_new_tokens=self.options.max_new_tokens,
            streamer=streamer,
            stopping_criteria=StoppingCriteriaList([self._after_step]),
            pad_token_id=self.tokenizer.pad_token_id,
            **sampling,
        )

    def _after_step(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        self._steps += 1
        return torch.full((input_ids.shape[0],), self._stop.is_set(), device=input_ids.device)


def _preprocessing(config: ModelConfig) -> dict[str, Any]:
    """Mean and standard deviation from the checkpoint's files; SigLIP's 0.5 where they say nothing."""
    defaults = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    for filename in ("processor_config.json", "video_preprocessor_config.json", "preprocessor_config.json"):
        found = read_json(config, filename)
        found = found.get("video_processor") or found
        if "image_mean" in found and "image_std" in found:
            return {name: found[name] for name in defaults}
    return defaults


def _channels(values: Any) -> Tensor:
    if not isinstance(values, list) or len(values) != 3:
        raise ModelError(f"the preprocessor's mean and deviation must be three numbers, got {values!r}")
    return torch.tensor(values, dtype=torch.float32)[None, :, None, None]
