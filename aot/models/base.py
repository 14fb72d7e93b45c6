"""Define the contract between a family of video LLMs and the rest of the program."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from aot.config.schema import BUNDLED_MODEL, GenerationConfig
from aot.types import CompressedTokens, Needs, VideoFrames, VideoInfo, VisualTokens

if TYPE_CHECKING:
    from torch import Tensor

    from aot.compression.in_llm import InnerReduction  # imports torch
    from aot.models.language.forcing import ForcedAnswer

__all__ = [
    "Answer",
    "Answerer",
    "Conversation",
    "FrameScorer",
    "ModelIdentity",
    "ModelReading",
    "Progress",
    "Reading",
    "ScoresFrames",
    "Turn",
    "VideoModel",
]

Progress = Callable[[int, int], None]  # (done, total)


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Identify the model that encoded tokens.

    `fingerprint` is a hash of the stored weights that define the space of visual tokens. The hash
    does not depend on the dtype in which the checkpoint is loaded.
    """

    name: str
    revision: str | None
    fingerprint: str

    @property
    def is_toy(self) -> bool:
        """Return whether the model is the bundled toy, which knows nothing about the real world."""
        return self.name == BUNDLED_MODEL


class Answer(Protocol):
    """An answer that is generated while the caller iterates over its pieces of text.

    The first piece is empty. It comes when all work up to the first token is queued on the device,
    so that the caller can use the time until the token is computed.

    `prompt_tokens` is the length of the whole prompt, with text, visual tokens and newlines.
    """

    prompt_tokens: int

    # Properties, because an implementation may compute them.
    @property
    def output_tokens(self) -> int:
        """Return how many tokens have been generated so far."""

    @property
    def ids(self) -> Sequence[int]:
        """Return the ids of the tokens generated so far, up to and including the end token."""

    @property
    def first_token_at(self) -> float | None:
        """Return the `time.perf_counter()` at which the first token reached the host, or None.

        The first text may come later, because a word can consist of several tokens.
        """

    @property
    def layer_tokens(self) -> tuple[int, ...]:
        """Return the number of visual tokens in each language model layer; empty if unknown."""

    @property
    def notices(self) -> tuple[str, ...]:
        """Return sentences for the user about how the answer was generated."""

    def __iter__(self) -> Generator[str, None, None]: ...


class Reading(Protocol):
    """One video about which the language model answers several questions."""

    def generate(self, question: str, options: GenerationConfig) -> Answer:
        """Start to answer one question."""

    def answers(self, questions: Sequence[str], options: GenerationConfig) -> list[str]:
        """Return the answer to each question; the questions do not affect each other."""


class ModelReading(Reading, Protocol):
    """One video that the language model of a `VideoModel` has read."""

    def force(
        self, questions: Sequence[str], answers: Sequence[Sequence[int]], options: GenerationConfig
    ) -> list[ForcedAnswer]:
        """Return what the model predicts along given answers, as ids (teacher forcing)."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A question of a conversation, and the answer that was given."""

    question: str
    answer: str


class Conversation(Protocol):
    """Questions about one video, each of which may refer to the earlier questions and answers.

    `turns` are the earlier questions and answers, which the prompt of the next question contains.
    An answer adds its turn when it ends, or when the caller leaves it after its first text. The
    caller may change the list.
    """

    turns: list[Turn]

    def ask(self, question: str) -> Answer:
        """Start to answer the next question; a conversation answers one question at a time."""


class Answerer(Protocol):
    """Answers questions about kept tokens: a `VideoModel`, or an engine with its language model."""

    def generate(
        self, tokens: CompressedTokens, question: str, options: GenerationConfig, inner: InnerReduction | None = None
    ) -> Answer:
        """Start to answer `question` about `tokens`; `inner` drops some of them inside the LLM."""

    def read(self, tokens: CompressedTokens, inner: InnerReduction | None = None) -> Reading:
        """Prepare to answer several questions about `tokens`; for `inner` see `generate`."""

    def converse(
        self, tokens: CompressedTokens, options: GenerationConfig, inner: InnerReduction | None = None
    ) -> Conversation:
        """Begin a conversation about `tokens`; with `inner`, each answer reads the whole prompt."""


class VideoModel(Answerer, Protocol):
    """A loaded video LLM.

    `temporal_patch` is the number of sampled frames that are encoded together and count as one
    frame afterwards. `notices` are sentences for the user about the checkpoint.
    """

    identity: ModelIdentity
    temporal_patch: int
    notices: tuple[str, ...]

    def read(self, tokens: CompressedTokens, inner: InnerReduction | None = None) -> ModelReading:
        """Prepare to answer several questions about `tokens`; for `inner` see `generate`."""

    def frame_size(self, source: VideoInfo, frames: int) -> tuple[int, int]:
        """Return the size (rows, cols) in pixels that `frames` frames of `source` must have."""

    @property
    def language_layers(self) -> int:
        """Return the number of the language model's layers."""

    def saliency_blocks(self, layers: tuple[int, ...]) -> tuple[int, ...]:
        """Return the vision block's index for each of `layers`; -1 means the last block."""

    @property
    def placement(self) -> dict[str, Any]:
        """Return device, dtype, attention kernel and similar facts, as plain values for reports."""

    def unknown_words(self, text: str) -> list[str]:
        """Return the parts of `text` for which the tokenizer has no token."""

    def embed_questions(self, questions: Sequence[str]) -> Tensor:
        """Return the language model's input embeddings [M, D] of the M tokens of all questions."""

    def check_needs(self, needs: Needs) -> None:
        """Check that the model can provide `needs`.

        Raises:
            UnsupportedError: If the model cannot.
        """

    def encode(self, frames: VideoFrames, needs: Needs, on_frame: Progress | None = None) -> VisualTokens:
        """Encode `frames` to visual tokens; `on_frame` receives the frame counts (done, total)."""


class FrameScorer(Protocol):
    """Score frames by their relevance to questions; the frames arrive in chunks.

    `by` is the source of the scores in plain words, for reports.
    """

    by: str

    def add(self, visual: VisualTokens) -> None:
        """Score the next chunk of frames; `visual` must include frame embeddings."""

    def scores(self) -> Tensor:
        """Return the scores [F] of all frames so far, on the CPU; higher is more relevant."""


@runtime_checkable
class ScoresFrames(Protocol):
    """An optional ability of a `VideoModel`: score frames without running the language model."""

    def frame_scorer(self, questions: Sequence[str]) -> FrameScorer | None:
        """Return a scorer for the mean over `questions`; None if no question has a usable word."""
