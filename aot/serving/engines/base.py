"""Define the contract between a prompt and the engine that continues it."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from aot.config.schema import GenerationConfig
from aot.errors import UnsupportedError

if TYPE_CHECKING:
    from torch import Tensor

    from aot.models.language.prompt import VideoPrompt

__all__ = ["Engine", "EngineRequest", "Sampling", "begun"]

# What a checkpoint's generation_config.json may ask for, but an engine cannot do.
_NOT_IN_ENGINES = ("no_repeat_ngram_size", "bad_words_ids", "suppress_tokens", "begin_suppress_tokens")
_NOT_DRAWN = ("top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")  # the same for random tokens


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen, and when an answer ends; the names are those of vLLM.

    Values that a checkpoint leaves out switch the setting off, so that no default of a server
    applies.
    """

    max_tokens: int
    min_tokens: int
    temperature: float
    seed: int
    stop_token_ids: list[int]
    repetition_penalty: float
    top_k: int
    top_p: float
    min_p: float

    @classmethod
    def of(cls, settings: Any, options: GenerationConfig) -> Sampling:
        """Return the rules of a network's generation_config `settings` with the user's `options`.

        Raises:
            UnsupportedError: If the checkpoint asks for a rule that engines do not have.
        """
        from aot.models.language.word_rules import end_ids

        names = (*_NOT_IN_ENGINES, *(_NOT_DRAWN if options.temperature > 0 else ()))
        if lacking := [name for name in names if getattr(settings, name, None)]:
            raise UnsupportedError(
                f"the model's generation_config.json sets {lacking[0]}, which vLLM does not have; "
                "use --engine transformers"
            )

        def value(name: str, off: float) -> Any:
            found = getattr(settings, name, None)
            return off if found is None else found

        return cls(
            max_tokens=options.max_new_tokens,
            min_tokens=options.min_new_tokens,
            temperature=options.temperature,
            seed=options.seed,
            stop_token_ids=sorted(end_ids(settings)),
            repetition_penalty=float(value("repetition_penalty", 1.0)),
            top_k=int(value("top_k", 0)),
            top_p=float(value("top_p", 1.0)),
            min_p=float(value("min_p", 0.0)),
        )


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """A prompt to continue.

    Attributes:
        embeddings: [P, D] on the CPU: text, visual tokens and newlines.
        ids: the ids of the P rows, for rules that read the prompt.
        sampling: how to continue.
    """

    embeddings: Tensor
    ids: Sequence[int]
    sampling: Sampling

    @classmethod
    def of(cls, prompt: VideoPrompt, sampling: Sampling) -> EngineRequest:
        """Return a request with the rows of `prompt`."""
        return cls(prompt.embeddings[0].cpu(), prompt.ids[0].tolist(), sampling)


class Engine(Protocol):
    """A language model that continues prompts, several at once, from any thread."""

    def begin(self, request: EngineRequest) -> Generator[list[int], None, None]:
        """Hand a prompt over; return the ids of the answer as they come, with the end token.

        To close the generator ends the answer, also before the first id.

        Raises:
            AOTError: If the engine refuses the prompt; also raised by the generator.
        """

    def close(self) -> None:
        """End the engine."""


def begun(ids: Generator[list[int], None, None]) -> Generator[list[int], None, None]:
    """Return `ids` after its first, empty item: to close a generator acts only once it runs."""
    next(ids)
    return ids
