"""The contract between a family of video LLMs and everything else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from aot.config.schema import BUNDLED_MODEL, GenerationConfig
from aot.types import CompressedTokens, Needs, VideoFrames, VideoInfo, VisualTokens

if TYPE_CHECKING:
    from torch import Tensor

    from aot.compression.in_llm import InnerReduction  # imports torch

__all__ = ["Answer", "FrameScorer", "ModelIdentity", "Progress", "Reading", "ScoresFrames", "VideoModel"]

Progress = Callable[[int, int], None]  # (done, total)


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Which model made some tokens. fingerprint: a hash of the weights that define its token space, as
    they are stored, so whatever dtype the checkpoint is loaded in.
    """

    name: str
    revision: str | None
    fingerprint: str

    @property
    def is_toy(self) -> bool:
        """Whether it is the bundled model, which knows nothing of the real world."""
        return self.name == BUNDLED_MODEL


class Answer(Protocol):
    """An answer while it is being written: iterate for its text, piece by piece.

    prompt_tokens counts everything the language model reads, output_tokens what it has written so far;
    first_token_at is when the first was on the host (`time.perf_counter`), which may be before its text is.
    layer_tokens: how many visual tokens each layer of the language model has read; empty while that is not known.
    notices: sentences about how it was written that a user should read.
    """

    prompt_tokens: int

    @property
    def output_tokens(self) -> int: ...

    @property
    def first_token_at(self) -> float | None: ...

    @property
    def layer_tokens(self) -> tuple[int, ...]: ...

    @property
    def notices(self) -> tuple[str, ...]: ...

    def __iter__(self) -> Iterator[str]: ...


class Reading(Protocol):
    """A video that the language model has read, for several questions."""

    def generate(self, question: str, options: GenerationConfig) -> Answer: ...

    def answers(self, questions: Sequence[str], options: GenerationConfig) -> list[str]: ...


class VideoModel(Protocol):
    """One family of video LLMs.

    temporal_patch: so many sampled frames become one of the F that are encoded. language_layers: of the language model.
    notices: sentences about the checkpoint that a user should read.
    """

    identity: ModelIdentity
    temporal_patch: int
    notices: tuple[str, ...]

    def frame_size(self, source: VideoInfo, frames: int) -> tuple[int, int]:
        """(rows, cols) in pixels that `frames` frames sampled from a video must have."""
        ...

    @property
    def language_layers(self) -> int: ...

    def saliency_blocks(self, layers: tuple[int, ...]) -> tuple[int, ...]: ...

    @property
    def placement(self) -> dict[str, Any]: ...

    def unknown_words(self, text: str) -> list[str]:
        """Words that the tokenizer has no token for, so that the model reads something else in their place."""
        ...

    def check_needs(self, needs: Needs) -> None:
        """
        Raises:
            UnsupportedError: something of it cannot be had from this model.
        """
        ...

    def encode(self, frames: VideoFrames, needs: Needs, on_frame: Progress | None = None) -> VisualTokens:
        """on_frame counts the sampled frames that are done."""
        ...

    def generate(
        self,
        tokens: CompressedTokens,
        question: str,
        options: GenerationConfig,
        inner: InnerReduction | None = None,
    ) -> Answer: ...

    def read(self, tokens: CompressedTokens, inner: InnerReduction | None = None) -> Reading: ...


class FrameScorer(Protocol):
    """How much the frames of a video that comes in pieces have to do with questions. by: what it goes by, in words."""

    by: str

    def add(self, visual: VisualTokens) -> None:
        """The next frames, encoded with their embeddings."""
        ...

    def scores(self) -> Tensor:
        """[F], of all frames that came, on the CPU; more is better."""
        ...


@runtime_checkable
class ScoresFrames(Protocol):
    """What a `VideoModel` may offer besides: to say which frames questions are about, without its language model's
    layers.
    """

    def frame_scorer(self, questions: Sequence[str]) -> FrameScorer | None:
        """Scores are means over the questions; None if they say nothing to look for."""
        ...
