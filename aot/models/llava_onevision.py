"""LLaVA-OneVision through transformers, composed from its parts and never patched.

Vision tower, projector, the model's own bilinear pooling (as data), one newline token at the end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from aot.config import GenerationConfig, ModelConfig
from aot.core.grid import pooled_grid
from aot.errors import ConfigError, NumericsError
from aot.inner import InnerReduction
from aot.models.answer import StreamedAnswer
from aot.models.base import ModelIdentity, Progress
from aot.models.frame_scores import ByTextTower, ByWords
from aot.models.loading import explained, fingerprint, hub_arguments, load_network, location
from aot.models.merging_tower import MergedVideo, blocks_before_features, run_merging_tower
from aot.models.microbatch import batch_size_for, micro_batches
from aot.models.preprocessing import pixel_statistics
from aot.models.prompt import split_prompt
from aot.models.question_words import embed_words
from aot.models.reading import Reading, ReadingAnew
from aot.models.saliency import attention_modules, recorded_attention, resolve_layer
from aot.models.siglip_head import SiglipHead
from aot.models.siglip_text import SiglipText
from aot.types import CompressedTokens, EncoderMerging, Needs, Pooling, VideoFrames, VisualTokens

__all__ = ["LlavaOnevision"]

_WITHOUT_HEAD = "mean of the frame's features"


class LlavaOnevision:
    """LLaVA-OneVision 0.5B, 7B and 72B in the transformers layout."""

    pool = Pooling("bilinear", 2)

    def __init__(self, network: Any, tokenizer: Any, config: ModelConfig, identity: ModelIdentity) -> None:
        self.network = network
        self.tokenizer = tokenizer
        self.config = config
        self.identity = identity
        self.mean, self.std = (values.to(network.device) for values in pixel_statistics(config))
        self._siglip_head: SiglipHead | None = None
        self._batch_frames = config.encode_batch_frames

    @classmethod
    def load(cls, config: ModelConfig, description: dict[str, Any]) -> LlavaOnevision:
        """Load network and tokenizer; `description` is the checkpoint's config.json."""
        from transformers import AutoTokenizer, LlavaOnevisionForConditionalGeneration

        network = load_network(config, LlavaOnevisionForConditionalGeneration)
        with explained(config):
            arguments = hub_arguments(config)
            tokenizer = AutoTokenizer.from_pretrained(location(config), trust_remote_code=False, **arguments)
        identity = ModelIdentity(
            name=str(config.name),
            revision=description.get("_commit_hash"),
            fingerprint=fingerprint(config, ("multi_modal_projector.linear_2.weight", "image_newline")),
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
    def language_layers(self) -> int:
        return int(self.network.config.text_config.num_hidden_layers)

    @property
    def placement(self) -> dict[str, Any]:
        tower = self.network.model.vision_tower
        return {
            "device": str(self.network.device),
            "dtype": str(self.network.dtype).removeprefix("torch."),
            "attention": tower.config._attn_implementation,
            "vision_blocks": len(attention_modules(tower)),
        }

    def unknown_words(self, text: str) -> list[str]:
        """Words that the tokenizer has no token for; none where it knows every byte."""
        unknown = self.tokenizer.unk_token_id
        if unknown is None or not self.tokenizer.is_fast:
            return []
        found = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        places = zip(found["input_ids"], found["offset_mapping"], strict=True)
        return [text[first:stop] for token, (first, stop) in places if token == unknown]

    @torch.inference_mode()
    def encode(self, frames: VideoFrames, needs: Needs, on_frame: Progress | None = None) -> VisualTokens:
        """Run tower and projector over the frames, a few at a time.

        Raises:
            NumericsError: the features hold NaN or infinite values.
        """
        if needs.merging is not None:
            if needs != Needs(merging=needs.merging):
                raise ValueError(f"needs: expected nothing beside merging, got {needs}")
            return self._encode_merged(frames, needs.merging, on_frame)
        total = len(frames.pixels)
        notices: list[str] = []
        finite: list[Tensor] = []
        embeddings: list[Tensor] = []
        looked_at: list[Tensor] = []
        features: Tensor | None = None

        def remember(size: int) -> None:
            notices.append(self._remember(size))

        layers = needs.saliency_layers
        if needs.pooling_attention and not self.config.siglip_head and -1 not in layers:
            layers = (*layers, -1)
        with recorded_attention(self.network.model.vision_tower, layers, needs.key_layers) as recording:

            def encode(first: int, stop: int) -> tuple[Tensor, Tensor]:
                recording.forget(len(finite))  # what a failed pass left
                hidden = self._tower_features(self.normalise(frames.pixels[first:stop]))
                return hidden, self.network.model.multi_modal_projector(hidden)

            for first, (hidden, projected) in micro_batches(total, self._batch_size(), encode, remember):
                if features is None:
                    features = projected.new_empty(total, *projected.shape[1:])
                features[first : first + len(projected)] = projected
                finite.append(torch.isfinite(projected).all())
                if needs.frame_embeddings:
                    embeddings.append(self._head(hidden)(hidden) if self.config.siglip_head else projected.mean(1))
                if needs.pooling_attention and self.config.siglip_head:
                    looked_at.append(self._head(hidden).attention(hidden))
                if on_frame:
                    on_frame(first + len(projected), total)
        assert features is not None
        received = {layer: torch.cat(batches) for layer, batches in recording.saliency.items()}
        _refuse_nonsense(finite, received)
        if needs.pooling_attention:
            attention = torch.cat(looked_at) if looked_at else received[-1] / received[-1].sum(-1, keepdim=True)
        told = needs.frame_embeddings or needs.pooling_attention
        return VisualTokens(
            features=features,
            grid=self.grid,
            pool=self.pool,
            timestamps_s=frames.timestamps_s,
            saliency=received,
            keys={layer: torch.cat(batches) for layer, batches in recording.keys.items()},
            frame_embeddings=torch.cat(embeddings) if embeddings else None,
            pooling_attention=attention if needs.pooling_attention else None,
            embedding_source=("siglip head" if self.config.siglip_head else _WITHOUT_HEAD) if told else None,
            notices=tuple(notices),
        )

    def _encode_merged(self, frames: VideoFrames, merging: EncoderMerging, on_frame: Progress | None) -> VisualTokens:
        """As `encode`, with tokens that merge inside the tower; a clip's frames stay together."""
        total, patches = len(frames.pixels), self.grid[0] * self.grid[1]
        clips = merging.clips(total)
        longest = max(len(clip) for clip in clips)
        blocks = blocks_before_features(self.network.config)
        video, notices = MergedVideo(), []

        def encode(first: int, stop: int) -> list[tuple[Any, ...]]:
            done = []
            for length, batch in groupby(clips[first:stop], key=len):
                run = list(batch)
                plan = merging.plan(length, patches, self.tokens_per_frame, blocks)
                pixels = self.normalise(frames.pixels[run[0].first : run[-1].stop])
                tokens = run_merging_tower(self.network.model.vision_tower, pixels, plan)
                done.append((tokens, self.network.model.multi_modal_projector(tokens.states), plan))
            return done

        def remember(size: int) -> None:
            notices.append(self._remember(size * longest))

        for _, done in micro_batches(len(clips), max(1, self._batch_size() // longest), encode, remember):
            for tokens, projected, plan in done:
                video.add(tokens, projected, plan, patches)
            if on_frame:
                on_frame(sum(len(owner) for owner in video.owner), total)
        _refuse_nonsense([torch.isfinite(features).all() for features in video.features], {})
        return VisualTokens(
            features=torch.cat(video.features),
            grid=self.grid,
            pool=self.pool,
            timestamps_s=frames.timestamps_s,
            saliency={},
            frame_embeddings=torch.cat(video.embeddings),
            embedding_source=_WITHOUT_HEAD,
            notices=tuple(notices),
            merged=video.patches(),
        )

    def _remember(self, frames: int) -> str:
        """Encode so many at once from now on; a sentence that says so."""
        self._batch_frames = frames
        return f"out of memory; going on with {frames} frames encoded at once (see --encode-batch)"

    def _batch_size(self) -> int:
        if self._batch_frames is not None:
            return self._batch_frames
        vision = self.network.config.vision_config
        # Every block's output; queries, keys, values, residual, norm and both sides of an MLP; one softmax in float32.
        hidden = (vision.num_hidden_layers + 5) * vision.hidden_size + 2 * vision.intermediate_size
        widths = hidden + self.network.config.text_config.hidden_size
        patches = self.grid[0] * self.grid[1]
        softmax = 4 * vision.num_attention_heads * patches**2
        return batch_size_for(self.network.device, patches * widths * self.network.dtype.itemsize + softmax)

    def saliency_blocks(self, layers: tuple[int, ...]) -> tuple[int, ...]:
        """The block each layer number refers to in this tower."""
        depth = len(attention_modules(self.network.model.vision_tower))
        return tuple(resolve_layer(layer, depth) for layer in layers)

    def normalise(self, pixels: Tensor) -> Tensor:
        """uint8 [F, 3, H, W] to the tower's input, on its device and in its dtype."""
        values = pixels.to(self.network.device).float() / 255
        return ((values - self.mean) / self.std).to(self.network.dtype)

    def _tower_features(self, pixels: Tensor) -> Tensor:
        """Hidden states of the configured layer(s) [F, N, D_v], as the stock model selects them."""
        layers = self.network.config.vision_feature_layer
        wanted = [layers] if isinstance(layers, int) else list(layers)
        states = self.network.model.vision_tower(pixels, output_hidden_states=True).hidden_states
        selected = torch.cat([states[layer] for layer in wanted], dim=-1)
        return selected[:, 1:] if self.network.config.vision_feature_select_strategy == "default" else selected

    def _head(self, hidden: Tensor) -> SiglipHead:
        if self._siglip_head is None:
            self._siglip_head = SiglipHead.load(self.config, hidden.shape[-1], hidden)
        return self._siglip_head

    @torch.inference_mode()
    def frame_scorer(self, questions: Sequence[str]) -> ByTextTower | ByWords | None:
        """By SigLIP's text tower where there is one, otherwise by the language model's input embeddings.

        Raises:
            ModelError: the text tower cannot be loaded.
        """
        table = self.network.get_input_embeddings().weight
        by = "the question's own words"
        if self.config.siglip_head:
            text = SiglipText.load(self.config, table)
            if text is not None:
                return ByTextTower(text(questions), text.name)
            by += f" ({self.config.siglip_head} has no text tower with a tokenizer.json)"
        words = embed_words(self.tokenizer, table, questions)
        return None if words is None else ByWords(words, by)

    def prompt(self, tokens: CompressedTokens, question: str) -> tuple[Tensor, Tensor]:
        """Token ids [1, L], the video token standing for every kept token and the newline, and their
        embeddings [1, L, D] with the kept tokens and the newline in place.

        Raises:
            ConfigError: the prompt is longer than the model's context.
        """
        prefix_ids, prefix = self._prefix(tokens)
        suffix = torch.tensor([self._suffix(question, prefix.shape[1])], device=prefix.device)
        embedded = self.network.get_input_embeddings()(suffix)
        return torch.cat([prefix_ids, suffix], 1), torch.cat([prefix, embedded], 1)

    def _prefix(self, tokens: CompressedTokens) -> tuple[Tensor, Tensor]:
        """Ids and embeddings of everything up to and with the video, which is the same for every question."""
        video = self.network.config.video_token_index
        visual = self._visual(tokens)
        before, _ = split_prompt(self.tokenizer, self.config.template, "?", video)
        ids = torch.tensor([[*before, *[video] * len(visual)]], device=self.network.device)
        return ids, torch.cat([self.network.get_input_embeddings()(ids[:, : len(before)]), visual[None]], 1)

    def _suffix(self, question: str, prefix_length: int) -> list[int]:
        """Ids behind the video."""
        _, after = split_prompt(self.tokenizer, self.config.template, question, self.network.config.video_token_index)
        limit, length = self.network.config.text_config.max_position_embeddings, prefix_length + len(after)
        if length > limit:
            raise ConfigError(
                f"the prompt has {length} tokens but the model reads at most {limit}; "
                "use a lower --ratio or fewer --frames"
            )
        return after

    def _visual(self, tokens: CompressedTokens) -> Tensor:
        """What the language model sees of the video [K or K + 1, D]."""
        features = tokens.features.to(self.network.device, self.network.dtype)
        if self.config.newline == "none":
            return features
        return torch.cat([features, self.network.model.image_newline[None]])

    @torch.inference_mode()
    def generate(
        self,
        tokens: CompressedTokens,
        question: str,
        options: GenerationConfig,
        inner: InnerReduction | None = None,
    ) -> StreamedAnswer:
        """Begin an answer; its text comes as it is written."""
        ids, embeddings = self.prompt(tokens, question)
        if inner is None:
            return StreamedAnswer(
                self.network, self.tokenizer, ids, options, embeddings=embeddings, layer_tokens=self._in_layers(tokens)
            )
        from aot.models.prefill import VideoPrompt, prefill

        first = ids[0].tolist().index(self.network.config.video_token_index)
        prompt = VideoPrompt(embeddings, first, tokens, newline=self.config.newline != "none")
        language = self.network.model.language_model
        return StreamedAnswer(
            self.network, self.tokenizer, ids, options, prefill=lambda: prefill(language, prompt, inner)
        )

    @torch.inference_mode()
    def read(self, tokens: CompressedTokens, inner: InnerReduction | None = None) -> Reading | ReadingAnew:
        """Let the language model read the video, for several questions."""
        if inner is not None:
            return ReadingAnew(lambda text, options: self.generate(tokens, text, options, inner))
        ids, prefix = self._prefix(tokens)
        suffix_of = partial(self._suffix, prefix_length=prefix.shape[1])
        return Reading(self.network, self.tokenizer, ids, prefix, suffix_of, self._in_layers(tokens))

    def _in_layers(self, tokens: CompressedTokens) -> tuple[int, ...]:
        return (len(tokens.features),) * self.language_layers


def _refuse_nonsense(finite: Sequence[Tensor], saliency: Mapping[int, Tensor]) -> None:
    """
    Raises:
        NumericsError: a flag is false, or a saliency is not finite.
    """
    flags = [*finite, *(torch.isfinite(values).all() for values in saliency.values())]
    if not torch.stack(flags).all():
        raise NumericsError(
            "the vision tower produced NaN or infinite features; try --dtype bfloat16 or --dtype float32, "
            "and check the model's files if it stays"
        )
