"""Generate tokens after a prompt: a loop over the model's own modules.

A step updates the last token and the ids so far in place. Therefore a step can be captured as a
CUDA graph and replayed. On a CPU, a step takes little more time than the modules.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from aot.config.schema import GenerationConfig
from aot.models.language.decode_graph import GraphSteps
from aot.models.language.kv_cache import cache_argument
from aot.models.language.lean_decoder import LeanDecoder, linear_of, why_not_lean
from aot.models.language.word_choice import WordChoice
from aot.models.language.word_rules import Past

__all__ = [
    "MOST_ROOM",
    "Decoding",
    "LanguageModel",
    "Prefilled",
    "ReadPrompts",
    "last_hidden_state",
    "last_hidden_states",
    "until_end",
]

# Slots for new tokens that are allocated together. On CUDA, attention reads empty slots too.
MOST_ROOM = 256
_ROTATIONS = 64  # positions whose rotary embeddings are computed in advance
# CUDA steps that the host launches before it waits for their tokens. A larger number saves waits,
# but wastes more steps after the end of an answer.
_BETWEEN_READS = 4


@dataclass(frozen=True)
class LanguageModel:
    """The parts of a network that generate text; its weights may change in place only.

    Attributes:
        body: the language model without its head.
        embed: the input embeddings.
        head: the output embeddings.
        settings: the network's generation_config.
        warmed: the kinds of answers (see `Decoding.kind`) of which a CUDA graph was captured.
    """

    body: Any
    embed: Any
    head: Any
    settings: Any
    warmed: set[Hashable] = field(default_factory=set)

    @classmethod
    def of(cls, network: Any, body: Any) -> LanguageModel:
        """Return the parts of a transformers network whose language model is `body`."""
        return cls(body, network.get_input_embeddings(), network.get_output_embeddings(), network.generation_config)

    @cached_property
    def lean(self) -> LeanDecoder:
        """Return the lean decoder, which is prepared once; `why_not_lean` must return None."""
        return LeanDecoder(self.body)


def last_hidden_state(body: Any, embeddings: Tensor, cache: Any, **more: Any) -> Tensor:
    """Run `body` on `embeddings` [B, R, D]; return the states [B, D] of the last row."""
    return last_hidden_states(body, embeddings, cache, 1, **more)[:, 0]


def last_hidden_states(body: Any, embeddings: Tensor, cache: Any, count: int, **more: Any) -> Tensor:
    """Run `body` on `embeddings` [B, R, D]; return the states [B, count, D] of the last rows."""
    found = body(inputs_embeds=embeddings, **more, **cache_argument(type(body).forward, cache), use_cache=True)
    states: Tensor = found.last_hidden_state[:, -count:]
    return states


@dataclass(frozen=True, slots=True)
class Prefilled:
    """The result of prefill for one prompt.

    Attributes:
        cache: keys and values.
        last: [1, D], the states of the last row.
        layer_tokens: the number of visual tokens to which each layer attended; empty if every layer
            attended to all visual tokens of the prompt.
    """

    cache: Any
    last: Tensor
    layer_tokens: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ReadPrompts:
    """The result of prefill for a batch of B prompts.

    Attributes:
        cache: keys and values.
        last: [B, D], the states of the last rows.
        past: the ids of the prompts.
        position: [B, 1] or [3, B, 1], the position of the next token.
        seen: bool [B, rows + max_new_tokens], false for padding; None if there is no padding.
    """

    cache: Any
    last: Tensor
    past: Past
    position: Tensor
    seen: Tensor | None = None


class Decoding:
    """Generate for a batch; each iteration yields equally many new ids for every sequence.

    The constructor queues the choice of the first token. The loop ends after `max_new_tokens`; the
    caller must stop at end tokens. `notices` are sentences for the user about how the tokens are
    generated.
    """

    @torch.inference_mode()
    def __init__(self, model: LanguageModel, read: ReadPrompts, options: GenerationConfig) -> None:
        self.cache, self.seen = read.cache, read.seen
        self.notices: tuple[str, ...] = ()
        self._model, self._past = model, read.past
        self._options = options
        self.position = read.position
        self._word = read.past.ids[:, -1].clone()  # steps write into it
        self._head = linear_of(model.head)
        logits = self._head(read.last)
        self._choice = WordChoice(model.settings, options, logits.shape[-1], self.device)
        self._choice.prepare()
        # Steps on CUDA read several tokens from the past at a time.
        self._is_past_read = self._choice.reads_past or self.device.type == "cuda"
        self._choose(logits)

    def __iter__(self) -> Iterator[list[list[int]]]:
        # 1. The first token. On CUDA the host prepares the steps while the device reads the prompt.
        # On a CPU, preparing them first would only delay the token.
        steps = self._pick_steps() if self.device.type == "cuda" else None
        yield self._recent(1)
        # 2. The second token alone, then several tokens per wait.
        steps, done, most = steps or self._pick_steps(), 1, self._options.max_new_tokens
        while done < most:
            count = min(_BETWEEN_READS if done > 1 and self.device.type == "cuda" else 1, most - done)
            yield self._go_on(steps, count)
            done += count

    @property
    def device(self) -> torch.device:
        """Return the device on which tokens are chosen."""
        return self._word.device

    @property
    def warmed(self) -> set[Hashable]:
        """Return the kinds of answers of which a CUDA graph of this model was captured."""
        return self._model.warmed

    @property
    def kind(self) -> Hashable:
        """Return what decides which operations a step has, besides the model and the lengths."""
        options = self._options
        return len(self._word), options.temperature > 0, options.min_new_tokens > 0

    @property
    def prepare(self) -> Any:
        """Return the function that the host calls before each step."""
        return self._choice.prepare

    def step(self, states_of: Callable[[Tensor], Tensor]) -> None:
        """Generate one more token of every sequence.

        Args:
            states_of: returns the language model's states [B, D] for token embeddings [B, D].
        """
        self._choose(self._head(states_of(self._model.embed(self._word))))

    @property
    def unfinished_rule(self) -> str | None:
        """Return the name of the setting whose filter failed in the last step, or None."""
        return self._choice.unfinished

    def note(self, notice: str) -> None:
        """Add the sentence `notice` for the user."""
        self.notices += (notice,)

    def _choose(self, logits: Tensor) -> None:
        # In place, because a CUDA graph reads and writes fixed addresses. The head may be on
        # another device than the embeddings.
        self._word.copy_(self._choice(logits.to(self.device), self._past))
        if self._is_past_read:
            self._past.append(self._word)

    @torch.inference_mode()
    def _go_on(self, steps: Steps, count: int) -> list[list[int]]:
        for _ in range(count):
            steps.step()
        return self._recent(count)

    def _recent(self, count: int) -> list[list[int]]:
        """Wait for the last `count` tokens of every sequence, and return them."""
        # `tolist` is the only wait for the device.
        words = self._word[:, None] if count == 1 else self._past.last(count)
        return list(words.tolist())

    def _pick_steps(self) -> Steps:
        """Return the fastest steps that give exact results for this model on this device."""
        body, on_cuda = self._model.body, self.device.type == "cuda"
        reason = why_not_lean(body, self.cache)
        if reason is None:
            return GraphSteps(self, self._model.lean) if on_cuda else LeanSteps(self, self._model.lean)
        # On a CPU the difference in speed is small, so it needs no notice.
        if on_cuda:
            self.note(f"the answer is written without a CUDA graph, which is slower: {reason}")
        return WholeSteps(self, body)


class Steps(Protocol):
    """A way to run decode steps."""

    def step(self) -> None:
        """Generate one more token of every sequence."""


class _LaunchedSteps(ABC):
    """Decode steps whose operations the host launches one by one, without a CUDA graph."""

    def __init__(self, decoding: Decoding) -> None:
        self._decoding, self._done = decoding, 0

    def step(self) -> None:
        """Generate one more token of every sequence."""
        self._decoding.prepare()
        self._decoding.step(self._states)
        self._done += 1

    @abstractmethod
    def _states(self, embedded: Tensor) -> Tensor:
        """Return the language model's states [B, D] for the embedding [B, D] of the last token."""


class LeanSteps(_LaunchedSteps):
    """Steps through a lean decoder, in which attention reads only slots that hold rows."""

    def __init__(self, decoding: Decoding, through: LeanDecoder) -> None:
        super().__init__(decoding)
        self._through = through

    def _states(self, embedded: Tensor) -> Tensor:
        # One call of the rotary module serves many steps.
        number = self._done % _ROTATIONS
        if number == 0:
            self._rotations = self._through.rotations(self._decoding.position + self._done, embedded, _ROTATIONS)
        layers, seen = self._decoding.cache.layers, self._decoding.seen
        mask = None if seen is None else seen[:, None, None, : layers[0].held + 1]
        return self._through(embedded, self._rotations.at(number), layers, [mask] * len(layers))


class WholeSteps(_LaunchedSteps):
    """Steps that call the whole language model, for models that `LeanDecoder` does not support."""

    def __init__(self, decoding: Decoding, body: Any) -> None:
        super().__init__(decoding)
        self._body = body

    def _states(self, embedded: Tensor) -> Tensor:
        # The mask covers the rows that are held, and the one that this step adds.
        seen, cache = self._decoding.seen, self._decoding.cache
        if seen is not None:
            seen = seen[:, : cache.get_seq_length() + 1]
        # Positions are explicit, because a cache with dropped rows is shorter than the prompt.
        position = self._decoding.position + self._done
        return last_hidden_state(self._body, embedded[:, None], cache, position_ids=position, attention_mask=seen)


def until_end(ids: list[int], ends: frozenset[int]) -> list[int]:
    """Return `ids` up to and including the first id in `ends`."""
    for number, word in enumerate(ids):
        if word in ends:
            return ids[: number + 1]
    return ids
