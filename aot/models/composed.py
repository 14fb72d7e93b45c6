"""What families share: everything after the encoder. A model's own parts are called one by one, and never patched."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from aot.compression.in_llm import InnerReduction
from aot.compression.ops.uploads import uploaded
from aot.config.schema import GenerationConfig, ModelConfig
from aot.errors import ConfigError, UnsupportedError
from aot.models.base import ModelIdentity, Progress
from aot.models.language.answer import LeftAnswers, StreamedAnswer, read_prompt
from aot.models.language.decoding import LanguageModel
from aot.models.language.prompt import NEWLINE, TEXT, Run, VideoPrompt, check_question, positions_in_whole, text_ids
from aot.models.language.question_words import embed_words
from aot.models.language.reading import Reading, ReadingAnew
from aot.models.language.word_choice import ignored_settings
from aot.models.loading.checkpoints import read_json
from aot.models.vision.encoding import TowerPass, run_tower
from aot.models.vision.frame_scores import ByTextTower, ByWords
from aot.models.vision.preprocessing import HALF, pixel_statistics
from aot.models.vision.saliency import attention_modules, kernel_name, resolve_layer
from aot.runtime.devices import input_device
from aot.types import CompressedTokens, Needs, VideoFrames, VideoInfo, VisualTokens

__all__ = ["ComposedModel"]


class ComposedModel(ABC):
    """A family says how frames are encoded and how the prompt is laid out around what is kept.

    temporal_patch: so many sampled frames become one of the tower's. token_space: ends of the names of the weights that
    define what a visual token means. pixel_defaults: mean and standard deviation of the
    channels that the tower was trained with, where a checkpoint's files do not say. merges_inside: whether tokens can
    merge on their way through the tower.
    """

    temporal_patch = 1
    token_space: ClassVar[tuple[str, ...]] = ()
    merges_inside: ClassVar[bool] = False
    pixel_defaults = HALF

    def __init__(self, network: Any, tokenizer: Any, config: ModelConfig, identity: ModelIdentity) -> None:
        self.network = network
        self.tokenizer = tokenizer
        self.config = config
        self.identity = identity
        statistics = pixel_statistics(config, *self.pixel_defaults)
        self.mean, self.std = (values.to(self.device) for values in statistics)
        self._batch_frames = config.encode_batch_frames
        self._left = LeftAnswers()
        self.notices = _notices(config)

    @classmethod
    @abstractmethod
    def load(cls, config: ModelConfig, description: dict[str, Any]) -> ComposedModel:
        """Load network and tokenizer; `description` is the checkpoint's config.json.

        Raises:
            ConfigError: a setting is for another family.
            ModelError: the checkpoint cannot be used.
        """

    @classmethod
    def known_grid(cls, config: ModelConfig, description: Mapping[str, Any]) -> tuple[int, int] | None:
        """Return the visual tokens (rows, cols) of a frame as far as config.json alone tells; None where it does not,
        or where they depend on the video.
        """
        return None

    @property
    @abstractmethod
    def tower(self) -> Any:
        """The vision tower."""

    @property
    def device(self) -> torch.device:
        """Where frames are encoded; a network that is spread over devices has more."""
        return input_device(self.tower)

    @property
    def language(self) -> Any:
        """The language model without its head."""
        return self.network.model.language_model

    @property
    @abstractmethod
    def video_token(self) -> int:
        """Return the id of the video's placeholder in a prompt."""

    @abstractmethod
    def encode(self, frames: VideoFrames, needs: Needs, on_frame: Progress | None = None) -> VisualTokens:
        """Run tower and projector over the frames, a few at a time; on_frame counts those that are done.

        Raises:
            UnsupportedError: something of `needs` cannot be had from this model.
            NumericsError: the features hold NaN or infinite values.
        """

    @abstractmethod
    def frame_size(self, source: VideoInfo, frames: int) -> tuple[int, int]:
        """(rows, cols) in pixels that `frames` frames of a video must have."""

    @abstractmethod
    def _template(self) -> tuple[str, str]:
        """Return the prompt before the video, and after it with {question}."""

    def _runs(self, tokens: CompressedTokens) -> Sequence[Run]:
        """The video as it stands in the prompt."""
        return [Run("", range(len(tokens.features)))]

    def _newline(self) -> Tensor | None:
        """The learned newline [D], of families that have one."""
        return None

    @property
    def positions(self) -> str:
        """ "packed": 0 .. P - 1 of what is kept; "original": those that the rows have in the whole video."""
        return "packed" if self.config.positions == "auto" else self.config.positions

    def _positions(
        self, texts: Sequence[Sequence[int]], runs: Sequence[Run], tokens: CompressedTokens
    ) -> tuple[Tensor, int] | None:
        """Positions, [1, P] or [3, 1, P], and the next one, where they are not 0 .. P - 1; texts: ids of the runs."""
        if self.positions == "packed":
            return None
        positions, following = positions_in_whole(texts, runs)
        return uploaded(torch.tensor([positions]), input_device(self.network.get_input_embeddings())), following

    @property
    def language_layers(self) -> int:
        return int(self.network.config.text_config.num_hidden_layers)

    @property
    def placement(self) -> dict[str, Any]:
        return {
            "device": str(self.device),
            "dtype": str(self.network.dtype).removeprefix("torch."),
            "attention": kernel_name(self.tower),
            "vision_blocks": len(attention_modules(self.tower)),
            "positions": self.positions,
        }

    def saliency_blocks(self, layers: tuple[int, ...]) -> tuple[int, ...]:
        """The block each layer number refers to in this tower."""
        depth = len(attention_modules(self.tower))
        return tuple(resolve_layer(layer, depth) for layer in layers)

    def check_needs(self, needs: Needs) -> None:
        """
        Raises:
            UnsupportedError: something of it cannot be had from this model.
        """
        self.check_support(needs, self.identity.name)

    @classmethod
    def check_support(cls, needs: Needs, name: str) -> None:
        """Check the needs of a method before the model called `name` is loaded.

        Raises:
            UnsupportedError: something of it cannot be had from this family.
        """
        if needs.merging is not None and not cls.merges_inside:
            raise UnsupportedError(
                "methods that merge inside the vision tower work with SigLIP's, in LLaVA-OneVision and LLaVA-Video; "
                f"use another --method for {name}"
            )

    def unknown_words(self, text: str) -> list[str]:
        """Words that the tokenizer has no token for; none where it knows every byte."""
        unknown = self.tokenizer.unk_token_id
        if unknown is None or not self.tokenizer.is_fast:
            return []
        found = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        places = zip(found["input_ids"], found["offset_mapping"], strict=True)
        return [text[first:stop] for token, (first, stop) in places if token == unknown]

    def check_frames(self, frames: VideoFrames) -> None:
        """
        Raises:
            ConfigError: the frames are of a size that the vision tower does not read.
        """
        rows, cols = frames.pixels.shape[2:]
        wanted = self.frame_size(frames.source, len(frames.pixels))
        if not self._reads((rows, cols), wanted):
            raise ConfigError(
                f"the frames have {rows} x {cols} pixels (rows x columns), and {self.identity.name} reads "
                f"{wanted[0]} x {wanted[1]}; decode them with size={wanted}"
            )

    def _reads(self, size: tuple[int, int], wanted: tuple[int, int]) -> bool:
        """Whether the tower takes frames of `size`; `wanted` is what it takes of this video by itself."""
        return size == wanted

    def normalise(self, pixels: Tensor) -> Tensor:
        """uint8 [F, 3, H, W] to the tower's input, on its device and in its dtype; bytes are what crosses the bus."""
        values = uploaded(pixels, self.device).float()
        return values.div_(255).sub_(self.mean).div_(self.std).to(self.network.dtype)

    def _remember(self, frames: int) -> str:
        """Encode so many at once from now on; a sentence that says so."""
        self._batch_frames = min(frames, self._batch_frames or frames)  # another thread may have come down further
        return f"out of memory; going on with {frames} frames encoded at once (see --encode-batch)"

    def _run_tower(
        self, frames: VideoFrames, needs: Needs, batch: int, on_frame: Progress | None
    ) -> tuple[TowerPass, list[str]]:
        """Return the joined tower passes of all frames, and notices about smaller batches.

        A batch has up to `batch` groups of `temporal_patch` frames. `on_frame` counts frames.
        """
        total, together = len(frames.pixels), self.temporal_patch
        notices: list[str] = []
        whole = run_tower(
            -(-total // together),
            batch,
            lambda first, stop: self._tower_pass(frames.pixels[first * together : stop * together], needs),
            lambda size: notices.append(self._remember(size * together)),
            on_frame and (lambda done, _: on_frame(min(done * together, total), total)),
        )
        return whole, notices

    @abstractmethod
    def _tower_pass(self, pixels: Tensor, needs: Needs) -> TowerPass:
        """Run the tower and the projector over one batch of frames, uint8 [f, 3, H, W]."""

    @torch.inference_mode()
    def frame_scorer(self, questions: Sequence[str]) -> ByTextTower | ByWords | None:
        """By the language model's input embeddings of the questions' words."""
        words = embed_words(self.tokenizer, self._embed, questions)
        return None if words is None else ByWords(words, "the question's own words")

    def _embed(self, ids: list[int]) -> Tensor:
        """[I] to [I, D]"""
        table = self.network.get_input_embeddings()
        embedded: Tensor = table(torch.tensor(ids, device=input_device(table)))
        return embedded

    @torch.no_grad()  # ordinary tensors, which may be trained with
    def prompt(self, tokens: CompressedTokens, question: str) -> VideoPrompt:
        """The whole prompt.

        Raises:
            ConfigError: the prompt is longer than the model's context, or the question cannot be asked.
        """
        prefix = self._prefix(tokens)
        suffix = uploaded(torch.tensor([self._suffix(question, prefix)]), prefix.ids.device)
        return prefix.followed_by(suffix, self.network.get_input_embeddings()(suffix))

    def _prefix(self, tokens: CompressedTokens) -> VideoPrompt:
        """Everything up to and with the video, which is the same for every question."""
        before, _ = self._template()
        runs = list(self._runs(tokens))
        runs[0] = replace(runs[0], text=before + runs[0].text)
        texts = [text_ids(self.tokenizer, run.text) for run in runs]
        rows, words = [], []
        for text, run in zip(texts, runs, strict=True):
            rows += [*[TEXT] * len(text), *run.rows]
            words += [*text, *[self.video_token] * len(run.rows)]
        device = input_device(self.network.get_input_embeddings())
        token, ids = (uploaded(torch.tensor(numbers), device) for numbers in (rows, [words]))
        found = self._positions(texts, runs, tokens)
        positions, following = found if found else (None, len(rows))
        return VideoPrompt(ids, self._embedded(ids, rows, tokens), token, tokens, len(rows), positions, following)

    def _embedded(self, ids: Tensor, rows: Sequence[int], tokens: CompressedTokens) -> Tensor:
        """[1, P, D]; the host knows which rows are whose, so that nothing is read back."""
        embed, device = self.network.get_input_embeddings(), ids.device

        def sent(numbers: list[int]) -> Tensor:
            return uploaded(torch.tensor(numbers, dtype=torch.int64), device)

        text = sent([row == TEXT for row in rows]).bool()
        embedded: Tensor = embed(ids.where(text, 0))
        features = tokens.features.to(embedded.device, embedded.dtype)
        visual = [place for place, row in enumerate(rows) if row >= 0]
        embedded[0, sent(visual)] = features[sent([rows[place] for place in visual])]
        newline = self._newline()
        if newline is not None:
            ends = [place for place, row in enumerate(rows) if row == NEWLINE]
            embedded[0, sent(ends)] = newline.to(embedded.device, embedded.dtype)
        return embedded

    def _suffix(self, question: str, prefix: VideoPrompt) -> list[int]:
        """Ids of the text that follows the video."""
        after = self._template()[1].replace("{question}", check_question(self.tokenizer, question))
        ids = text_ids(self.tokenizer, after)
        limit, length = self.network.config.text_config.max_position_embeddings, prefix.video_end + len(ids)
        if length > limit:
            raise ConfigError(
                f"the prompt has {length} tokens but the model reads at most {limit}; "
                "use a lower --ratio or fewer --frames"
            )
        if prefix.next_position + len(ids) > limit:
            raise ConfigError(
                f"with model.positions original the prompt ends at position {prefix.next_position + len(ids)}, but the "
                f"model has {limit}; use fewer --frames, or --set model.positions=packed"
            )
        return ids

    @torch.inference_mode()
    def generate(
        self,
        tokens: CompressedTokens,
        question: str,
        options: GenerationConfig,
        inner: InnerReduction | None = None,
    ) -> StreamedAnswer:
        """Begin an answer; its text comes as it is written.

        Raises:
            ConfigError: as `prompt`.
            UnsupportedError: nothing can be reduced inside this language model.
        """
        prompt, language = self.prompt(tokens, question), self.language
        model = LanguageModel.of(self.network, language)
        if inner is None:
            return StreamedAnswer(
                model,
                self.tokenizer,
                prompt,
                options,
                lambda room: read_prompt(language, prompt, room),
                self._left,
                self._in_layers(tokens),
            )
        from aot.models.language.decoders import check_decoder
        from aot.models.language.prefill import prefill

        check_decoder(language)
        return StreamedAnswer(
            model, self.tokenizer, prompt, options, lambda room: prefill(language, prompt, inner, room), self._left
        )

    @torch.inference_mode()
    def read(self, tokens: CompressedTokens, inner: InnerReduction | None = None) -> Reading | ReadingAnew:
        """Let the language model read the video, for several questions."""
        if inner is not None:
            return ReadingAnew(lambda text, options: self.generate(tokens, text, options, inner))
        prefix = self._prefix(tokens)
        return Reading(
            LanguageModel.of(self.network, self.language),
            self.tokenizer,
            prefix,
            lambda question: self._suffix(question, prefix),
            self._left,
            self._in_layers(tokens),
        )

    def _in_layers(self, tokens: CompressedTokens) -> tuple[int, ...]:
        return (len(tokens.features),) * self.language_layers


def _notices(config: ModelConfig) -> tuple[str, ...]:
    ignored = ignored_settings(read_json(config, "generation_config.json"))
    if not ignored:
        return ()
    return (f"the model's generation_config.json asks for what answers here do not follow: {', '.join(ignored)}",)
