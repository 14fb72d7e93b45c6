"""Run one answer from decoded frames, with our pipeline or stock transformers."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch

from aot.bench.decoded import DecodedVideo
from aot.bench.operations import StageWorks
from aot.bench.stock import StockModel
from aot.config.schema import Config
from aot.models.base import VideoModel
from aot.models.language.answer import StreamedAnswer
from aot.pipeline.replies import write_reply
from aot.pipeline.run import Pipeline
from aot.runtime.memory import explained_memory
from aot.runtime.stages import StageClock, synchronize

__all__ = ["Arm", "OurArm", "Run", "StockArm", "TokenCounts"]


@dataclass(frozen=True, slots=True)
class Run:
    """Times of one run, which starts with decoded frames (stock: with normalized pixels and ids).

    Attributes:
        encode_ms, compress_ms: times of the stages; events on CUDA.
        prefill_ms: the rest until the first token, so the times of the stages add up.
        first_token_ms: until the first token is on the host.
        tokens_per_s: of the tokens after the first; 0 for a single token.
        answer_ms: until the last token.
    """

    encode_ms: float
    compress_ms: float
    prefill_ms: float
    first_token_ms: float
    tokens_per_s: float
    answer_ms: float

    @classmethod
    def of(cls, encode_ms: float, compress_ms: float, first_token_ms: float, answer_ms: float, tokens: int) -> Run:
        """Return the times of an answer with `tokens` tokens."""
        after_ms = answer_ms - first_token_ms
        per_s = (tokens - 1) / after_ms * 1e3 if tokens > 1 else 0.0
        return cls(encode_ms, compress_ms, first_token_ms - encode_ms - compress_ms, first_token_ms, per_s, answer_ms)


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """Numbers of encoded frames, and of visual, kept, prompt and output tokens."""

    frames: int
    visual: int
    kept: int
    prompt: int
    output: int


class Arm(Protocol):
    """One of the ways to answer that are compared."""

    @property
    def name(self) -> str:
        """Return a short name."""

    def run(self) -> tuple[Run, TokenCounts]:
        """Answer once, and return times and counts."""

    def count(self, works: StageWorks) -> None:
        """Answer once, without times, and tell `works` where "encode", ..., "tokens" begin."""


class OurArm:
    """Answer with the pipeline of `aot ask`."""

    def __init__(self, model: VideoModel, config: Config, video: DecodedVideo, question: str) -> None:
        self._model, self._config, self._video, self._question = model, config, video, question
        self.name = config.label

    def run(self) -> tuple[Run, TokenCounts]:
        """Answer once, and return times and counts."""
        device = torch.device(self._model.placement["device"])
        start_s = _now_s(device)
        pipeline = Pipeline(self._model, self._config, question=self._question)
        compressed = pipeline.compress(self._video)
        # The device may still compress: the host must not wait for it here.
        before_ms = (time.perf_counter() - start_s) * 1e3
        reply = write_reply(
            lambda: pipeline.answer(compressed.tokens, self._question), on_begun=lambda: compressed.report
        )
        answer_ms, report = (_now_s(device) - start_s) * 1e3, compressed.report
        first_ms = before_ms + (reply.answer_ms if reply.first_token_ms is None else reply.first_token_ms)
        encode_ms, compress_ms = (report.stage_ms[name] for name in ("encode", "compress"))
        counts = TokenCounts(
            len(report.frames), report.visual_tokens, report.kept_tokens, reply.prompt_tokens, reply.output_tokens
        )
        return Run.of(encode_ms, compress_ms, first_ms, answer_ms, reply.output_tokens), counts

    def count(self, works: StageWorks) -> None:
        """Answer once in this thread, and tell `works` where the stages begin."""
        pipeline = Pipeline(self._model, self._config, clock=partial(_Marks, works), question=self._question)
        tokens = pipeline.compress(self._video).tokens
        answer = pipeline.answer(tokens, self._question)
        assert isinstance(answer, StreamedAnswer)
        pieces = answer.pieces()
        next(pieces)  # the first token is queued
        works.begin("")
        next(pieces)  # it is on the host
        works.begin("tokens")
        deque(pieces, maxlen=0)


class _Marks(StageClock):
    """Tell `works` where the stages begin; what follows a stage belongs to the prefill."""

    def __init__(self, works: StageWorks, device: torch.device) -> None:
        super().__init__(device)
        self._works = works

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure the time of the `with` block, and count its work for the stage `name`."""
        self._works.begin(name)
        with super().stage(name):
            yield
        self._works.begin("prefill")


class StockArm:
    """Answer with the checkpoint's own class of transformers, all tokens and its own `generate`."""

    name = "stock"

    def __init__(self, stock: StockModel, visual_tokens: int, frames: int) -> None:
        self._stock, self._visual_tokens, self._frames = stock, visual_tokens, frames

    def run(self) -> tuple[Run, TokenCounts]:
        """Answer once, and return times and counts.

        Raises:
            MemoryLimitError: If the device has too little memory.
        """
        with explained_memory():
            answer = self._stock.answer()
        written, visual = len(answer.ids), self._visual_tokens
        run = Run.of(answer.encode_ms, 0.0, answer.first_token_ms, answer.answer_ms, written)
        return run, TokenCounts(self._frames, visual, visual, self._stock.prompt_tokens, written)

    def count(self, works: StageWorks) -> None:
        """Answer once, and tell `works` where the stages begin."""
        self._stock.answer(works)


def _now_s(device: torch.device) -> float:
    """Wait until the device is idle, then return the current time in seconds."""
    synchronize(device)
    return time.perf_counter()
