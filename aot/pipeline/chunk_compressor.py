"""Compress a video in chunks, so that the whole video meets its budget exactly."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from torch import Tensor

from aot.compression.contract import check_encoded, check_tokens
from aot.compression.in_tower.earlytom import restored
from aot.compression.methods import Method
from aot.compression.ops.clips import joined_clips
from aot.compression.ops.grid import pooled_grid
from aot.compression.ops.read_later import Fact, FactsReadLater
from aot.compression.ops.source_weights import of_chunks, of_kept
from aot.compression.ops.uploads import uploaded
from aot.config.schema import Config
from aot.errors import BudgetError
from aot.plugins import blamed, called, is_plugged_in
from aot.runtime.memory import explained_memory
from aot.runtime.stages import StageClock
from aot.types import CompressedTokens, TokenBudget, UnreadCheck, VisualTokens

__all__ = ["ChunkCompressor"]


class ChunkCompressor:
    """Compress chunks; after each chunk, the kept tokens of all frames so far meet the ratio.

    Args:
        method: the method.
        config: the settings of the method, without a reduction inside the language model.
        clock: measures the stage "compress".
        traced: whether to record the `sources` of tokens; the clock does not measure this.
        question: [M, D], `VisualTokens.question` for a method that reads it.
    """

    def __init__(
        self,
        method: Method,
        config: Config,
        clock: StageClock,
        *,
        traced: bool = False,
        question: Tensor | None = None,
    ) -> None:
        self._method, self._config, self._clock, self._traced = method, config, clock, traced
        self._question = question
        self._frames, self._budget = 0, 0
        self._parts: list[CompressedTokens] = []

    def add(self, visual: VisualTokens) -> None:
        """Compress `visual`, the next chunk, without gradients.

        Raises:
            ConfigError, NumericsError, MemoryLimitError: See `aot.errors`.
            MethodError: If the method fails or breaks its contract.
        """
        if self._question is not None:
            visual = replace(visual, question=uploaded(self._question, visual.features.device))
        # 1. The budget of the chunk: that of all frames so far minus that of earlier chunks.
        merged = visual.merged_frames
        self._frames += len(visual.timestamps_s if merged is None else merged.timestamps_s)
        per_frame = math.prod(pooled_grid(visual.grid, visual.pool))
        total = len(visual.timestamps_s) * per_frame
        budget = self._config.token_budget(self._frames, per_frame)
        due, self._budget = budget - self._budget, budget
        # Where the tower has merged frames, there can be fewer tokens than the budget.
        due = min(due, total)
        # 2. Compress. Whether `visual` is finite is read after the answer has begun.
        allowed = TokenBudget(due, self._config.ratio)
        with self._clock.stage("compress"):
            found = self._compress(visual, allowed)
        if self._traced:
            # Compress again, so that the measured time does not include tracing.
            found = self._compress(replace(visual, traced=True), allowed)
        # 3. Check the contract of the method.
        self._refuse_excess(found, total)
        tokens = check_tokens(self._method, found, visual, *self._allowed(due, total))
        # 4. Keep the tokens, their deepstack features and, if traced, their sources.
        deepstack = visual.deepstack
        if deepstack is not None:
            deepstack = deepstack.flatten(1, 2)[:, tokens.cell.to(deepstack.device)]
        sources = of_kept(tokens) if self._traced else None
        tokens = replace(tokens, duration_s=visual.duration_s, deepstack=deepstack, sources=sources)
        self._parts.append(tokens if merged is None else restored(tokens, merged))

    def _compress(self, visual: VisualTokens, allowed: TokenBudget) -> CompressedTokens:
        try:
            with blamed(self._method), explained_memory(), torch.no_grad():
                return self._method.compress(visual, allowed)
        except Exception:
            check_encoded(visual.finite)  # NaN may be the cause
            raise

    def _allowed(self, due: int, total: int) -> tuple[int, int]:
        """Return the fewest and the most tokens to keep of `total`; the budget is `due`."""
        if not self._config.compresses:
            return total, total
        if not self._config.has_budget:
            return 1, total
        return (due if self._method.card.exact else 1), due

    def _refuse_excess(self, kept: CompressedTokens, total: int) -> None:
        """Raise a BudgetError if a built-in method that runs without a budget exceeds `total`."""
        promised = self._config.has_budget or is_plugged_in(self._method)
        if self._config.compresses and not promised and len(kept.features) > total:
            raise BudgetError(
                f"{called(self._method)} as published keeps {len(kept.features)} tokens of {total}; "
                "use a lower --ratio, or exact budgets"
            )

    def tokens(self) -> CompressedTokens:
        """Return the kept tokens of all chunks; frames and clips are numbered consecutively."""
        return _join(self._parts)


def _join(parts: Sequence[CompressedTokens]) -> CompressedTokens:
    if len(parts) == 1:
        return parts[0]
    deepstack = [part.deepstack for part in parts if part.deepstack is not None]
    unread = [part.unread for part in parts if part.unread is not None]
    firsts = [0, *accumulate(len(part.timestamps_s) for part in parts[:-1])]
    return CompressedTokens(
        features=torch.cat([part.features for part in parts]),
        frame=torch.cat([part.frame + first for part, first in zip(parts, firsts, strict=True)]),
        row=torch.cat([part.row for part in parts]),
        col=torch.cat([part.col for part in parts]),
        role=torch.cat([part.role for part in parts]),
        mass=torch.cat([part.mass for part in parts]),
        grid=parts[0].grid,
        timestamps_s=tuple(time for part in parts for time in part.timestamps_s),
        clips=joined_clips([part.clips for part in parts], firsts),
        facts=FactsReadLater(lambda: _join_facts([part.facts for part in parts])),
        duration_s=parts[0].duration_s,
        deepstack=torch.cat(deepstack, 1) if deepstack else None,
        sources=of_chunks(parts),
        unread=_UnreadChecks(unread) if unread else None,
    )


@dataclass(frozen=True, slots=True)
class _UnreadChecks:
    """The unread checks of several chunks."""

    of_chunks: Sequence[UnreadCheck]

    def read(self) -> None:
        """Wait for the checks; raise the error of the first chunk whose values are wrong."""
        for check in self.of_chunks:
            check.read()


def _join_facts(facts: Sequence[Mapping[str, Fact]]) -> dict[str, Fact]:
    """Return one value per fact: the common value of all chunks, or "minimum to maximum"."""
    joined: dict[str, Fact] = {}
    for name in facts[0]:
        values = [each[name] for each in facts]
        agree = all(value == values[0] for value in values)
        known = [value for value in values if value is not None]
        joined[name] = values[0] if agree else f"{min(known)} to {max(known)}"
    return joined
