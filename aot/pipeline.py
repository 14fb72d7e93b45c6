"""The two sentences of the program: compress a video, answer a question about it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch

from aot.config import Config, SamplingConfig
from aot.core.clips import neighbour_similarity
from aot.errors import NumericsError, TokensFileError
from aot.memory import explained_memory
from aot.methods import build_method
from aot.models.base import Answer, VideoModel
from aot.report import FrameRetention, RetentionReport, frame_retention, versions
from aot.types import CompressedTokens, Needs, VideoFrames, VisualTokens
from aot.video import decode

__all__ = [
    "Compression",
    "StageClock",
    "answer",
    "check_same_model",
    "compress_tokens",
    "compress_video",
    "encode_video",
]


class StageProgress(Protocol):
    """Told how far each stage is: "decode", "encode", "compress"."""

    def __call__(self, stage: str, done: int, total: int) -> None: ...


def _silent(stage: str, done: int, total: int) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Compression:
    """Kept tokens and the report on how they came to be."""

    tokens: CompressedTokens
    report: RetentionReport


def compress_video(
    path: str | Path, model: VideoModel, config: Config, on_progress: StageProgress = _silent
) -> Compression:
    """Decode, encode and compress one video.

    Raises:
        VideoError, ConfigError, NumericsError, MemoryLimitError: see `aot.errors`.
    """
    clock = StageClock(torch.device(model.placement["device"]))
    frames, visual = encode_video(path, model, config.sampling, build_method(config).needs, clock, on_progress)
    on_progress("compress", 0, 1)
    tokens = compress_tokens(visual, model, config, clock)
    on_progress("compress", 1, 1)
    return Compression(tokens, _report(tokens, visual, frames, model, config, clock))


def encode_video(
    path: str | Path,
    model: VideoModel,
    sampling: SamplingConfig,
    needs: Needs,
    clock: StageClock,
    on_progress: StageProgress = _silent,
) -> tuple[VideoFrames, VisualTokens]:
    """The sampled frames of one video, and its tokens before compression with all that `needs` names.

    Raises:
        VideoError, NumericsError, MemoryLimitError: see `aot.errors`.
    """
    with explained_memory():
        with clock.stage("decode"):
            on_frame = partial(on_progress, "decode")
            frames = decode(path, sampling, size=model.image_size, on_frame=on_frame)
        with clock.stage("encode"):
            visual = model.encode(frames, needs, on_frame=partial(on_progress, "encode"))
    return frames, visual


def compress_tokens(visual: VisualTokens, model: VideoModel, config: Config, clock: StageClock) -> CompressedTokens:
    """What the method of `config` keeps of a video.

    Raises:
        ConfigError, NumericsError, MemoryLimitError: see `aot.errors`.
    """
    budget = config.token_budget(len(visual.features), model.tokens_per_frame)
    with explained_memory(), clock.stage("compress"):
        tokens = build_method(config).compress(visual, budget)
    if not torch.isfinite(tokens.features).all():
        raise NumericsError("compression overflowed; the model's features are too large for float32, check its files")
    return tokens


def answer(model: VideoModel, tokens: CompressedTokens, question: str, config: Config) -> Answer:
    """Begin an answer; iterate over it for its text."""
    with explained_memory():
        return model.generate(tokens, question, config.generation)


def check_same_model(report: Mapping[str, Any], model: VideoModel) -> None:
    """Tokens only mean something to the model whose projector made them.

    Raises:
        TokensFileError: `report` (of a tokens file) names another model.
    """
    made_by = report["model"]
    if made_by.get("fingerprint") != model.identity.fingerprint:
        raise TokensFileError(
            f"these tokens were made by {made_by.get('name')} (revision {made_by.get('revision')}), which "
            f"{model.identity.name} is not; ask with that model, or compress the video again"
        )


class StageClock:
    """Times stages and remembers the peak memory of the device they run on. stage_ms: the latest of each name."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stage_ms: dict[str, float] = {}
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()
        self.stage_ms[name] = (time.perf_counter() - start) * 1e3

    def peak_bytes(self) -> dict[str, int]:
        peaks = {}
        if sys.platform != "win32":
            import resource

            unit = 1 if sys.platform == "darwin" else 1024
            peaks["host"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        if self.device.type == "cuda":
            peaks["device"] = torch.cuda.max_memory_allocated(self.device)
        return peaks


def _report(
    tokens: CompressedTokens,
    visual: VisualTokens,
    frames: VideoFrames,
    model: VideoModel,
    config: Config,
    clock: StageClock,
) -> RetentionReport:
    embeddings = visual.features.mean(1) if visual.frame_embeddings is None else visual.frame_embeddings
    rows = frame_retention(tokens, model.tokens_per_frame, neighbour_similarity(embeddings).tolist())
    total = len(frames.pixels) * model.tokens_per_frame
    kept = len(tokens.features)
    identity = model.identity
    return RetentionReport(
        visual_tokens=total,
        budget_tokens=config.token_budget(len(rows), model.tokens_per_frame) if config.is_exact else None,
        kept_tokens=kept,
        retention=kept / total,
        frames=rows,
        stage_ms=clock.stage_ms,
        peak_bytes=clock.peak_bytes(),
        facts=dict(tokens.facts),
        model={
            "name": identity.name,
            "revision": identity.revision,
            "fingerprint": identity.fingerprint,
            "width": tokens.features.shape[1],
            **model.placement,
            "saliency_blocks": list(model.saliency_blocks(tuple(visual.saliency))),
        },
        video=asdict(frames.source),
        config=config.to_dict(),
        versions=versions(),
        notices=(*frames.notices, *_retention_notices(config, rows)),
    )


def _retention_notices(config: Config, rows: Sequence[FrameRetention]) -> Iterator[str]:
    empty = sum(not row.kept for row in rows)
    if empty:
        yield f"{empty} of {len(rows)} frames keep no token of their own; a higher --ratio changes that"
    if config.compresses and not config.is_exact and config.aot.anchors.count:
        yield "with budget paper the anchors and the content decide how much is kept, not the ratio"
