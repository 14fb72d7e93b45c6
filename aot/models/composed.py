"""Implement what all families share: the prompt, the answers, and checks of frames and needs.

The modules of a network are called one by one; nothing in them is patched.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from aot.compression.in_llm import InnerReduction
from aot.compression.in_tower.earlytom import FrameMerger
from aot.compression.in_tower.stc import ReferenceSchedule
from aot.compression.ops.uploads import uploaded
from aot.config.schema import GenerationConfig, ModelConfig
from aot.errors import ConfigError, UnsupportedError
from aot.models.base import ModelIdentity, Progress, Turn
from aot.models.language.answer import LeftAnswers, StreamedAnswer, read_prompt
from aot.models.language.conversation import LATER_TURN, Conversation, text_after_video
from aot.models.language.decoding import LanguageModel, Prefilled
from aot.models.language.forcing import ForcedAnswer, force_on
from aot.models.language.prompt import NEWLINE, TEXT, Run, VideoPrompt, check_length, positions_in_whole, text_ids
from aot.models.language.prompt_attention import use_prompt_attention
from aot.models.language.question_words import embed_words
from aot.models.language.reading import Reading, ReadingAnew
from aot.models.language.word_choice import ignored_settings
from aot.models.loading.checkpoints import read_json
from aot.models.loading.compiled import compile_parts
from aot.models.vision.encoding import TowerPass, run_tower, run_tower_in_stages
from aot.models.vision.frame_merging_tower import FrameStages, left_of
from aot.models.vision.frame_scores import ByTextTower, ByWords
from aot.models.vision.preprocessing import HALF, pixel_statistics
from aot.models.vision.reusing_tower import FrameBatch
from aot.models.vision.saliency import attention_modules, kernel_name, make_recordable, resolve_layer
from aot.runtime.devices import input_device
from aot.types import CompressedTokens, FrameMerging, Needs, VideoFrames, VideoInfo, VisualTokens

__all__ = ["ComposedModel"]


class ComposedModel(ABC):
    """Base class of the families. Each family defines how to encode frames and lay out a prompt.

    Attributes:
        temporal_patch: the number of sampled frames that the tower encodes together, as one frame.
        token_space: name suffixes of the weights that define the space of visual tokens.
        merges_inside: whether the tower can merge tokens.
        reuses_frames: whether frames can reuse the tower's work on other frames, or be merged.
        text_positions: whether visual tokens are numbered 0, 1, 2, ... with the text, by default.
        pixel_defaults: mean and standard deviation of the tower's input channels, for checkpoints
            whose files do not state them.
    """

    temporal_patch = 1
    token_space: ClassVar[tuple[str, ...]] = ()
    merges_inside: ClassVar[bool] = False
    reuses_frames: ClassVar[bool] = False
    text_positions: ClassVar[bool] = True
    pixel_defaults = HALF

    def __init__(self, network: Any, tokenizer: Any, config: ModelConfig, identity: ModelIdentity) -> None:
        self.network = network
        self.tokenizer = tokenizer
        self.config = config
        self.identity = identity
        # Uploaded once: every batch of frames is normalized with them.
        statistics = pixel_statistics(config, *self.pixel_defaults)
        self.mean, self.std = (values.to(self.device) for values in statistics)
        if self.device.type == "cuda":
            use_prompt_attention(self.language)
        self._batch_frames = config.encode_batch_frames
        # Shared by all answers of this model: only one answer at a time may use the network.
        self._left = LeftAnswers()
        self.notices = _notices(config)
        if config.compile:
            make_recordable(self.tower)  # before, because a change of the attention's name compiles anew
            failure = compile_parts(self.tower, self.language)
            self.notices += (failure,) if failure else ()

    @classmethod
    @abstractmethod
    def load(cls, config: ModelConfig, description: dict[str, Any]) -> ComposedModel:
        """Load network and tokenizer; `description` is the checkpoint's config.json.

        Raises:
            ConfigError: If a setting belongs to another family.
            ModelError: If the checkpoint cannot be used.
        """

    @classmethod
    def known_grid(cls, config: ModelConfig, description: Mapping[str, Any]) -> tuple[int, int] | None:
        """Return a frame's token grid (rows, cols); None if config.json does not fix the grid."""
        return None

    @property
    @abstractmethod
    def tower(self) -> Any:
        """Return the vision tower."""

    @property
    def device(self) -> torch.device:
        """Return the device that encodes frames; other parts of the network may be elsewhere."""
        return input_device(self.tower)

    @property
    def language(self) -> Any:
        """Return the language model without its head."""
        return self.network.model.language_model

    @cached_property
    def _writer(self) -> LanguageModel:
        """Return the parts of the network that all answers of this model use."""
        return LanguageModel.of(self.network, self.language)

    @property
    @abstractmethod
    def video_token(self) -> int:
        """Return the id of the placeholder for a visual token in the prompt."""

    @abstractmethod
    def encode(self, frames: VideoFrames, needs: Needs, on_frame: Progress | None = None) -> VisualTokens:
        """Encode `frames` to visual tokens: run tower and projector in batches.

        `on_frame` receives the numbers of sampled frames (done, total).

        Raises:
            UnsupportedError: If the model cannot provide something in `needs`.
            NumericsError: If the features contain NaN or infinite values.
        """

    @abstractmethod
    def frame_size(self, source: VideoInfo, frames: int) -> tuple[int, int]:
        """Return the size (rows, cols) in pixels that `frames` frames of `source` must have."""

    @abstractmethod
    def _template(self) -> tuple[str, str]:
        """Return the texts before and after the video; the second text contains {question}."""

    def _later_turn(self) -> str:
        """Return the text of an earlier {answer} and the next {question} in a conversation."""
        return LATER_TURN

    def _runs(self, tokens: CompressedTokens) -> Sequence[Run]:
        """Return the layout of the video in the prompt: kept tokens, newlines and text."""
        return [Run("", range(len(tokens.features)))]

    def _newline(self) -> Tensor | None:
        """Return the learned newline [D]; None if the family has no learned newline."""
        return None

    @property
    def positions(self) -> str:
        """Return "packed" (positions 0 .. P - 1) or "original" (as if no token were dropped)."""
        return "packed" if self.config.positions == "auto" else self.config.positions

    def _positions(
        self, texts: Sequence[Sequence[int]], runs: Sequence[Run], tokens: CompressedTokens
    ) -> tuple[Tensor, int] | None:
        """Return the positions [1, P] or [3, 1, P] of P prompt rows, and the position after them.

        None means the positions 0 .. P - 1. `texts` holds the token ids of each run's text.
        """
        if self.positions == "packed":
            return None
        positions, following = positions_in_whole(texts, runs)
        return uploaded(torch.tensor([positions]), input_device(self.network.get_input_embeddings())), following

    @property
    def language_layers(self) -> int:
        """Return the number of the language model's layers."""
        return int(self.network.config.text_config.num_hidden_layers)

    def drop_language_layers(self) -> None:
        """Free the memory of the language model's layers; prompts can be made, but no answers."""
        self.language.layers = torch.nn.ModuleList()
        self.network.lm_head = torch.nn.Identity()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @property
    def placement(self) -> dict[str, Any]:
        """Return where and how the model runs, as plain values for reports."""
        return {
            "device": str(self.device),
            "dtype": str(self.network.dtype).removeprefix("torch."),
            "attention": kernel_name(self.tower),
            "vision_blocks": len(attention_modules(self.tower)),
            "positions": self.positions,
        }

    def saliency_blocks(self, layers: tuple[int, ...]) -> tuple[int, ...]:
        """Return the tower block's index for each of `layers`; -1 means the last block."""
        depth = len(attention_modules(self.tower))
        return tuple(resolve_layer(layer, depth) for layer in layers)

    def check_needs(self, needs: Needs) -> None:
        """Check that the model can provide `needs`.

        Raises:
            UnsupportedError: If the model cannot.
        """
        self.check_support(needs, self.identity.name)

    @classmethod
    def check_support(cls, needs: Needs, name: str) -> None:
        """Check that the family can provide `needs`, before the model `name` is loaded.

        Raises:
            UnsupportedError: If the family cannot.
        """
        if needs.merging is not None and not cls.merges_inside:
            raise UnsupportedError(
                "methods that merge inside the vision tower need that of LLaVA-OneVision or LLaVA-Video (SigLIP); "
                f"use another --method for {name}"
            )
        if (needs.reuse or needs.frame_merging) and not cls.reuses_frames:
            chosen = "stc" if needs.reuse else "earlytom"
            raise UnsupportedError(
                f"--tower {chosen} needs a vision tower in which all patches of a frame attend to each other, and that "
                f"of {name} attends within windows; use --tower full"
            )

    def unknown_words(self, text: str) -> list[str]:
        """Return the parts of `text` without a token; empty if the tokenizer encodes every byte."""
        # Only fast tokenizers report where in the text a token comes from.
        unknown = self.tokenizer.unk_token_id
        if unknown is None or not self.tokenizer.is_fast:
            return []
        found = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        spans = zip(found["input_ids"], found["offset_mapping"], strict=True)
        return [text[first:stop] for token, (first, stop) in spans if token == unknown]

    def check_frames(self, frames: VideoFrames) -> None:
        """Check the size of frames.

        Raises:
            ConfigError: If the vision tower does not accept frames of this size.
        """
        rows, cols = frames.pixels.shape[2:]
        wanted = self.frame_size(frames.source, len(frames.pixels))
        if not self._reads((rows, cols), wanted):
            raise ConfigError(
                f"the frames have {rows} x {cols} pixels (rows x columns), but {self.identity.name} reads "
                f"{wanted[0]} x {wanted[1]}; decode them with size={wanted}"
            )

    def _reads(self, size: tuple[int, int], wanted: tuple[int, int]) -> bool:
        """Return whether the tower accepts frames of `size`; `wanted` is from `frame_size`."""
        return size == wanted

    def normalize(self, pixels: Tensor) -> Tensor:
        """Normalize uint8 pixels [F, 3, H, W], on the tower's device and in the network's dtype."""
        # The upload comes first, because uint8 has a quarter of the bytes of float32.
        values = uploaded(pixels, self.device).float()
        return values.div_(255).sub_(self.mean).div_(self.std).to(self.network.dtype)

    def _remember(self, frames: int) -> str:
        """Limit all later batches to `frames` frames; return a notice for the user."""
        # Another thread may have set a lower limit.
        self._batch_frames = min(frames, self._batch_frames or frames)
        return f"out of memory; continuing with {frames} frames per batch (see --encode-batch)"

    def _run_tower(
        self, frames: VideoFrames, needs: Needs, batch: int, on_frame: Progress | None
    ) -> tuple[TowerPass, list[str]]:
        """Run the tower over all frames; return its output and notices about smaller batches.

        A batch has up to `batch` groups of `temporal_patch` frames.
        """
        total, together = len(frames.pixels), self.temporal_patch
        notices: list[str] = []

        def remember(size: int) -> None:
            notices.append(self._remember(size * together))

        if needs.frame_merging is not None:
            return self._run_merging_frames(frames, needs, needs.frame_merging, batch, remember, on_frame), notices
        references = None
        if needs.reuse is not None:
            references = frames.references or ReferenceSchedule(needs.reuse, together).add(frames.pixels)

        def run(first: int, stop: int) -> TowerPass:
            group = FrameBatch.of(references.of, first, stop) if references else None
            # Without frames to save work on, the tower runs as it is.
            if references is None or group is None or not group.reference_of:
                return self._tower_pass(frames.pixels[first * together : stop * together], needs)
            found = self._tower_pass(group.pixels(frames.pixels, references, together), needs, group)
            return found.frames(group.position)

        whole = run_tower(
            -(-total // together),
            batch,
            run,
            remember,
            on_frame and (lambda done, _: on_frame(min(done * together, total), total)),
            # A batch that starts with a reference need not encode one again.
            [frame for frame, reference in enumerate(references.of) if frame == reference] if references else (),
        )
        return whole, notices

    def _run_merging_frames(
        self,
        frames: VideoFrames,
        needs: Needs,
        merging: FrameMerging,
        batch: int,
        on_fewer: Callable[[int], None],
        on_frame: Progress | None,
    ) -> TowerPass:
        """Run the tower over all frames, which are merged in it; see `_run_tower`."""
        total = len(frames.pixels)
        depth = len(attention_modules(self.tower))
        # Blocks whose output is a feature cannot be followed by merges that come too late for it.
        wanted = {resolve_layer(layer, depth) for layer in merging.layers}
        blocks = sorted(block for block in wanted if block < self._feature_blocks(depth))

        def run(size: int) -> TowerPass:
            merger = FrameMerger(merging, blocks, -(-total // self.temporal_patch), self._class_tokens)
            return replace(self._tower_pass(frames.pixels, needs, FrameStages(merger, size)), merger=merger)

        return run_tower_in_stages(total, batch, run, on_fewer, on_frame)

    @property
    def _class_tokens(self) -> int:
        """Return the number of class tokens at the start of each frame in the tower."""
        return 0

    def _feature_blocks(self, depth: int) -> int:
        """Return the number of the tower's `depth` blocks that run before its features are read.

        Raises:
            UnsupportedError: If features of several blocks are read.
        """
        return depth

    def _left_of(self, batch: object, layer: int, values: Tensor) -> Tensor:
        """Return `values` [T, ...] of the frames that block `layer` has read, for those left."""
        return left_of(batch, self.saliency_blocks((layer,))[0], values)

    @abstractmethod
    def _tower_pass(self, pixels: Tensor, needs: Needs, batch: FrameBatch | FrameStages | None = None) -> TowerPass:
        """Run the tower and the projector over one batch of frames, uint8 [f, 3, H, W].

        `batch` says which frames reuse the work on others, or how frames are merged; None if they
        pass the tower as they are.
        """

    @torch.inference_mode()
    def frame_scorer(self, questions: Sequence[str]) -> ByTextTower | ByWords | None:
        """Return a scorer by the words of `questions`; None if no question has a usable word."""
        # Both are inputs of the language model, so its layers need not run.
        words = embed_words(self.tokenizer, self._embed, questions)
        return None if words is None else ByWords(words, "the question's own words")

    def _embed(self, ids: list[int]) -> Tensor:
        """Return the language model's input embeddings [I, D] of I token `ids`."""
        table = self.network.get_input_embeddings()
        embedded: Tensor = table(uploaded(torch.tensor(ids), input_device(table)))
        return embedded

    @torch.no_grad()
    def embed_questions(self, questions: Sequence[str]) -> Tensor:
        """Return the language model's input embeddings [M, D] of the M tokens of all questions."""
        return self._embed([token for text in questions for token in text_ids(self.tokenizer, text)])

    def prompt(self, tokens: CompressedTokens, question: str, turns: Sequence[Turn] = ()) -> VideoPrompt:
        """Return the whole prompt: template, video, earlier turns and question.

        If features of `tokens` require a gradient, so do the embeddings of the prompt.

        Raises:
            ConfigError: If the prompt is longer than the model's context, or the question is empty
                or contains a control word of the model.
        """
        prefix = self._prefix(tokens)
        suffix = uploaded(torch.tensor([self._suffix(prefix, question, turns)]), prefix.ids.device)
        return prefix.followed_by(suffix, self.network.get_input_embeddings()(suffix))

    def _prefix(self, tokens: CompressedTokens) -> VideoPrompt:
        """Return the prompt up to the end of the video, which is the same for every question."""
        # 1. The system prompt joins the first run, as a tokenizer may merge text across the border.
        before, _ = self._template()
        runs = list(self._runs(tokens))
        runs[0] = replace(runs[0], text=before + runs[0].text)
        texts = [text_ids(self.tokenizer, run.text) for run in runs]
        # 2. For each prompt row, on the host: the kept token (or TEXT or NEWLINE), and the id.
        rows, words = [], []
        for text, run in zip(texts, runs, strict=True):
            rows += [*[TEXT] * len(text), *run.rows]
            words += [*text, *[self.video_token] * len(run.rows)]
        # 3. The same on the device, with embeddings and positions.
        device = input_device(self.network.get_input_embeddings())
        token, ids = (uploaded(torch.tensor(numbers), device) for numbers in (rows, [words]))
        found = self._positions(texts, runs, tokens)
        positions, following = found if found else (None, len(rows))
        return VideoPrompt(ids, self._embedded(ids, rows, tokens), token, tokens, len(rows), positions, following)

    def _embedded(self, ids: Tensor, rows: Sequence[int], tokens: CompressedTokens) -> Tensor:
        """Return the embeddings [1, P, D] of P prompt rows with token ids `ids` [1, P].

        `rows` holds for each row the index of a kept token, or `TEXT` or `NEWLINE`. The list
        is on the host, so nothing is read back from the device.
        """
        embed, device = self.network.get_input_embeddings(), ids.device

        def sent(numbers: list[int]) -> Tensor:
            return uploaded(torch.tensor(numbers, dtype=torch.int64), device)

        # 1. Text. Ids of visual rows may lie outside the embedding table, so they become 0.
        text = sent([row == TEXT for row in rows]).bool()
        embedded: Tensor = embed(ids.where(text, 0))
        # 2. Kept tokens.
        features = tokens.features.to(embedded.device, embedded.dtype)
        visual = [index for index, row in enumerate(rows) if row >= 0]
        embedded[0, sent(visual)] = features[sent([rows[index] for index in visual])]
        # 3. Newlines.
        newline = self._newline()
        if newline is not None:
            ends = [index for index, row in enumerate(rows) if row == NEWLINE]
            embedded[0, sent(ends)] = newline.to(embedded.device, embedded.dtype)
        return embedded

    def _suffix(self, prefix: VideoPrompt, question: str, turns: Sequence[Turn] = ()) -> list[int]:
        """Return the ids of the text after the video, with `question`; for errors see `prompt`."""
        after = text_after_video(self.tokenizer, self._template()[1], self._later_turn(), turns, question)
        ids = text_ids(self.tokenizer, after)
        check_length(prefix, len(ids), self.network.config.text_config.max_position_embeddings, later=bool(turns))
        return ids

    @torch.inference_mode()
    def generate(
        self, tokens: CompressedTokens, question: str, options: GenerationConfig, inner: InnerReduction | None = None
    ) -> StreamedAnswer:
        """Start to answer a question; the text is generated while the answer is iterated.

        Raises:
            ConfigError: See `prompt`.
            UnsupportedError: If `inner` cannot act inside this language model.
        """
        # 1. Without a reduction the whole prompt passes through all layers.
        prompt = self.prompt(tokens, question)
        read, layer_tokens = partial(read_prompt, self._writer, prompt), self._in_layers(tokens)
        # 2. With a reduction, layers are called one by one; token counts are known afterwards.
        if inner is not None:
            read, layer_tokens = partial(self._reduced(inner), prompt), ()
        return StreamedAnswer(self._writer, self.tokenizer, prompt, options, read, self._left, layer_tokens)

    @torch.inference_mode()
    def read(self, tokens: CompressedTokens, inner: InnerReduction | None = None) -> Reading | ReadingAnew:
        """Prepare to answer several questions about one video."""
        # A reduction may depend on the question; then every question reads the video anew.
        if inner is not None:
            return ReadingAnew(
                lambda text, options: self.generate(tokens, text, options, inner), partial(self._force, tokens, inner)
            )
        # Otherwise all questions share the keys and values of the prompt up to the video's end.
        prefix = self._prefix(tokens)
        return Reading(
            self._writer, self.tokenizer, prefix, partial(self._suffix, prefix), self._left, self._in_layers(tokens)
        )

    @torch.inference_mode()
    def _force(
        self,
        tokens: CompressedTokens,
        inner: InnerReduction,
        question: str,
        answer: Sequence[int],
        options: GenerationConfig,
    ) -> ForcedAnswer:
        """Return what the model predicts along a given answer, with a reduction inside it."""
        prompt = self.prompt(tokens, question)
        self._left.wait()
        read = self._reduced(inner)(prompt, len(answer))
        return force_on(self._writer, prompt, answer, read, options)

    @torch.inference_mode()
    def converse(
        self, tokens: CompressedTokens, options: GenerationConfig, inner: InnerReduction | None = None
    ) -> Conversation:
        """Begin a conversation about one video; for errors see `generate`."""
        prefix, reduced = self._prefix(tokens), self._reduced(inner) if inner else None
        suffix_of, layer_tokens = partial(self._suffix, prefix), () if inner else self._in_layers(tokens)
        return Conversation(self._writer, self.tokenizer, prefix, suffix_of, options, self._left, layer_tokens, reduced)

    def _reduced(self, inner: InnerReduction) -> Callable[[VideoPrompt, int], Prefilled]:
        """Return prefill with the reduction `inner`, for a prompt and a number of cache slots."""
        from aot.models.language.decoders import check_decoder
        from aot.models.language.prefill import prefill

        check_decoder(self.language)
        return lambda prompt, room: prefill(self.language, prompt, inner, room)

    def _in_layers(self, tokens: CompressedTokens) -> tuple[int, ...]:
        """Return the number of visual tokens in each layer, which is the number of kept tokens."""
        return (len(tokens.features),) * self.language_layers


def _notices(config: ModelConfig) -> tuple[str, ...]:
    """Return a notice about unsupported generation settings of the checkpoint; empty if none."""
    ignored = ignored_settings(read_json(config, "generation_config.json"))
    if not ignored:
        return ()
    return (f"these settings of the model's generation_config.json have no effect: {', '.join(ignored)}",)
