"""Writing behind a prompt, word by word: the model's own modules, called in a loop of our own.

Everything that a step changes (the word, its position, what was written) is a tensor that is changed in place. So off
CUDA a step is little more than the modules' own work, and on CUDA it can be captured once and replayed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from aot.config import GenerationConfig
from aot.models.decode_graph import GraphSteps
from aot.models.kv_cache import cache_argument
from aot.models.lean_decoder import LeanDecoder, why_not_lean
from aot.models.word_choice import WordChoice
from aot.models.word_rules import Past

__all__ = ["MOST_ROOM", "Decoding", "LanguageModel", "Prefilled", "ReadPrompts", "states_behind", "until_end"]

MOST_ROOM = 256  # slots for new tokens at a time: memory, and work of attention on slots that are empty
_TURNS = 64  # positions whose rotary turns are computed in advance
_BETWEEN_READS = 4  # steps on CUDA that the host launches before it waits to see their words


@dataclass(frozen=True, slots=True)
class LanguageModel:
    """The parts of a network that write. body: without its head; settings: its generation_config."""

    body: Any
    embed: Any
    head: Any
    settings: Any

    @classmethod
    def of(cls, network: Any, body: Any) -> LanguageModel:
        return cls(body, network.get_input_embeddings(), network.get_output_embeddings(), network.generation_config)


def states_behind(body: Any, embeddings: Tensor, cache: Any, **more: Any) -> Tensor:
    """Embeddings [B, R, D] to the states [B, D] from which the word behind the last is told."""
    found = body(inputs_embeds=embeddings, **more, **cache_argument(type(body).forward, cache), use_cache=True)
    states: Tensor = found.last_hidden_state[:, -1]
    return states


@dataclass(frozen=True, slots=True)
class Prefilled:
    """What a language model made of a prompt: keys and values in `cache`, and the states [1, D] of its end.

    layer_tokens: how many visual tokens were in each layer's attention, if the reading tells.
    """

    cache: Any
    last: Tensor
    layer_tokens: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ReadPrompts:
    """Prompts of a batch that were read, ready to be written behind.

    last: [B, D] states of their ends. past: their ids. position: that of the next word, [B, 1] or [3, B, 1].
    seen: [B, rows + most that is written] bool, which rows are no padding, if some are.
    """

    cache: Any
    last: Tensor
    past: Past
    position: Tensor
    seen: Tensor | None = None


class Decoding:
    """Iterate for what is written: of each of the batch the next ids, equally many.

    It goes on up to `max_new_tokens`; end tokens are for the caller to see. notices: what a user should know of how.
    """

    def __init__(self, model: LanguageModel, read: ReadPrompts, options: GenerationConfig) -> None:
        self.cache, self.seen = read.cache, read.seen
        self.notices: tuple[str, ...] = ()
        self._model, self._last, self._past = model, read.last, read.past
        self._options = options
        self.position = read.position
        self._word = read.past.ids[:, -1].clone()

    def __iter__(self) -> Iterator[list[list[int]]]:
        self._begin()
        steps = self._pick_steps() if self.device.type == "cuda" else None  # while the device reads the prompt
        yield self._recent(1)
        steps, done, most = steps or self._pick_steps(), 1, self._options.max_new_tokens
        while done < most:
            count = min(_BETWEEN_READS if done > 1 and self.device.type == "cuda" else 1, most - done)
            yield self._go_on(steps, count)
            done += count

    @property
    def device(self) -> torch.device:
        return self._word.device

    @property
    def prepare(self) -> Any:
        """What the host does before each step."""
        return self._choice.prepare

    def step(self, states_of: Callable[[Tensor], Tensor]) -> None:
        """Write one more word.

        Args:
            states_of: returns the language model's states [B, D] for the embedding [B, D] of the last word.
        """
        self._choose(self._model.head(states_of(self._model.embed(self._word))))

    @property
    def unfinished_rule(self) -> str | None:
        """The setting of the checkpoint whose rule raised an error, if one did."""
        return self._choice.unfinished

    def note(self, notice: str) -> None:
        self.notices += (notice,)

    @torch.inference_mode()
    def _begin(self) -> None:
        logits = self._model.head(self._last)
        self._choice = WordChoice(self._model.settings, self._options, logits.shape[-1], self.device)
        self._choice.prepare()
        self._choose(logits)

    def _choose(self, logits: Tensor) -> None:
        self._word.copy_(self._choice(logits.to(self.device), self._past))
        self._past.append(self._word)

    @torch.inference_mode()
    def _go_on(self, steps: Steps, count: int) -> list[list[int]]:
        for _ in range(count):
            steps.step()
        return self._recent(count)

    def _recent(self, count: int) -> list[list[int]]:
        """Wait for the last words."""
        words = self._word[:, None] if count == 1 else self._past.last(count)
        return list(words.tolist())

    def _pick_steps(self) -> Steps:
        body, on_cuda = self._model.body, self.device.type == "cuda"
        reason = why_not_lean(body, self.cache)
        if reason is None:
            lean = LeanDecoder(body)
            return GraphSteps(self, lean) if on_cuda else LeanSteps(self, lean)
        if on_cuda:
            self.note(f"the answer is written without a CUDA graph, which is slower: {reason}")
        return WholeSteps(self, body)


class Steps(Protocol):
    """Each writes one more word of every sequence."""

    def step(self) -> None: ...


class LeanSteps:
    """Steps whose operations the host launches; attention sees the slots that are held."""

    def __init__(self, decoding: Decoding, through: LeanDecoder) -> None:
        self._decoding, self._through = decoding, through
        self._done = 0

    def step(self) -> None:
        self._decoding.prepare()
        self._decoding.step(self._states)
        self._done += 1

    def _states(self, embedded: Tensor) -> Tensor:
        number = self._done % _TURNS
        if number == 0:
            self._turns = self._through.turns(self._decoding.position + self._done, embedded, _TURNS)
        layers, seen = self._decoding.cache.layers, self._decoding.seen
        mask = None if seen is None else seen[:, None, None, : layers[0].held + 1]
        return self._through(embedded, self._turns.at(number), layers, [mask] * len(layers))


class WholeSteps:
    """Steps that call the language model as it is."""

    def __init__(self, decoding: Decoding, body: Any) -> None:
        self._decoding, self._body = decoding, body
        self._done = 0

    def step(self) -> None:
        self._decoding.prepare()
        self._decoding.step(self._states)
        self._done += 1

    def _states(self, embedded: Tensor) -> Tensor:
        seen, cache = self._decoding.seen, self._decoding.cache
        if seen is not None:
            seen = seen[:, : cache.get_seq_length() + 1]
        position = self._decoding.position + self._done
        return states_behind(self._body, embedded[:, None], cache, position_ids=position, attention_mask=seen)


def until_end(ids: list[int], ends: frozenset[int]) -> list[int]:
    """Return the ids up to and with the first that ends an answer."""
    for number, word in enumerate(ids):
        if word in ends:
            return ids[: number + 1]
    return ids
