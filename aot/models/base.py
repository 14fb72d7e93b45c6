"""Define the contract between a family of video LLMs and the rest of the program."""

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
    """Identify the model that made tokens.

    `fingerprint` is a hash of the stored weights that define the token space, so it does not depend
    on the dtype in which the checkpoint is loaded.
    """

    name: str
    revision: str | None
    fingerprint: str

    @property
    def is_toy(self) -> bool:
        """Return whether it is the bundled model, which knows nothing of the real world."""
        return self.name == BUNDLED_MODEL


class Answer(Protocol):
    """An answer that is being generated; iterating yields its text in pieces.

    `prompt_tokens` counts everything that the language model reads, not only visual tokens.
    """

    prompt_tokens: int

    # Properties, because an implementation may compute them.
    @property
    def output_tokens(self) -> int:
        """Return how many tokens have been generated so far."""

    @property
    def first_token_at(self) -> float | None:
        """Return when the first token was on the host, by `time.perf_counter`.

        Its text may be available later, since a word can consist of several tokens.
        """

    @property
    def layer_tokens(self) -> tuple[int, ...]:
        """Return the visual tokens read by each layer of the language model; empty if unknown."""

    @property
    def notices(self) -> tuple[str, ...]:
        """Return sentences for the user about how the answer was generated."""

    def __iter__(self) -> Iterator[str]: ...


class Reading(Protocol):
    """A video that the language model has read, to answer several questions."""

    def generate(self, question: str, options: GenerationConfig) -> Answer:
        """Start to answer one question."""

    def answers(self, questions: Sequence[str], options: GenerationConfig) -> list[str]:
        """Return the answer to each question; the questions do not affect each other."""


class VideoModel(Protocol):
    """One family of video LLMs.

    `temporal_patch` is the number of sampled frames that become one of the F encoded frames.
    `notices` are sentences for the user about the checkpoint.
    """

    identity: ModelIdentity
    temporal_patch: int
    notices: tuple[str, ...]

    def frame_size(self, source: VideoInfo, frames: int) -> tuple[int, int]:
        """Return the size (rows, cols) in pixels of `frames` frames sampled from a video."""

    @property
    def language_layers(self) -> int:
        """Return the number of the language model's layers."""

    def saliency_blocks(self, layers: tuple[int, ...]) -> tuple[int, ...]:
        """Return the indices of vision blocks; negative layers count from the last block."""

    @property
    def placement(self) -> dict[str, Any]:
        """Return plain values for reports: device, dtype, attention kernel and the like."""

    def unknown_words(self, text: str) -> list[str]:
        """Return the words without a token, which the model reads as something else."""

    def check_needs(self, needs: Needs) -> None:
        """Check that the model can provide what a method needs.

        Raises:
            UnsupportedError: If it cannot.
        """

    def encode(self, frames: VideoFrames, needs: Needs, on_frame: Progress | None = None) -> VisualTokens:
        """Return the visual tokens of frames; `on_frame` receives (done, total) sampled frames."""

    def generate(
        self, tokens: CompressedTokens, question: str, options: GenerationConfig, inner: InnerReduction | None = None
    ) -> Answer:
        """Start to answer a question from kept tokens; `inner` drops more of them in its layers."""

    def read(self, tokens: CompressedTokens, inner: InnerReduction | None = None) -> Reading:
        """Read kept tokens once to answer several questions."""


class FrameScorer(Protocol):
    """Score the frames of a video, which arrives in chunks, by their relevance to questions.

    `by` names the source of the scores in words.
    """

    by: str

    def add(self, visual: VisualTokens) -> None:
        """Score the next chunk, which was encoded with its frame embeddings."""

    def scores(self) -> Tensor:
        """Return the scores [F] of all frames so far, on the CPU; higher is more relevant."""


@runtime_checkable
class ScoresFrames(Protocol):
    """An optional ability of a `VideoModel`: score frames without its language model's layers."""

    def frame_scorer(self, questions: Sequence[str]) -> FrameScorer | None:
        """Return a scorer that averages over questions; None if they name nothing to look for."""
