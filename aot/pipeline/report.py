"""Report on a compression: kept tokens, costs and notices."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from aot.compression.all_settings import with_all_settings
from aot.compression.ops.read_later import Download
from aot.config.schema import Config
from aot.models.base import VideoModel
from aot.pipeline.stream import EncodedVideo
from aot.reports.retention import FrameRetention, ModelRecord, RetentionReport, frame_retention
from aot.runtime.stages import StageClock
from aot.types import CompressedTokens

if TYPE_CHECKING:
    from aot.pipeline.run import Pipeline

__all__ = ["model_record", "report_of"]


def report_of(
    pipeline: Pipeline, tokens: CompressedTokens, video: EncodedVideo, clock: StageClock
) -> Callable[[], RetentionReport]:
    """Queue copies of the facts about `tokens`, which `pipeline` kept, to the host.

    Returns:
        A function that waits for these copies, but not for later work, and returns the report. It
        raises a NumericsError or MethodError if the values of the tokens are wrong.
    """
    peak_bytes = clock.peak_bytes()  # now, because an answer may take more
    frame_and_role = Download(torch.stack([tokens.frame, tokens.role.to(tokens.frame.dtype)]))

    def read() -> RetentionReport:
        if tokens.unread is not None:
            tokens.unread.read()
        frame, role = frame_and_role.read()
        return _report(pipeline, replace(tokens, frame=frame, role=role), video, clock, peak_bytes)

    return read


def _report(
    pipeline: Pipeline,
    tokens: CompressedTokens,
    video: EncodedVideo,
    clock: StageClock,
    peak_bytes: Mapping[str, int | None],
) -> RetentionReport:
    model, outer = pipeline.model, pipeline.outer
    per_frame = math.prod(tokens.grid)
    rows = frame_retention(tokens, per_frame, video.similarity.read().tolist())
    total, (kept, width) = video.frames * per_frame, tokens.features.shape
    blocks = model.saliency_blocks(pipeline.needs.saliency_layers)
    merged = 0 if video.left is None else video.frames - video.left
    encoding_ms, compress_ms = video.clock.stage_ms, clock.stage_ms["compress"]
    return RetentionReport(
        visual_tokens=total,
        budget_tokens=outer.token_budget(len(rows), per_frame) if outer.has_budget else None,
        kept_tokens=kept,
        retention=kept / total,
        frames=rows,
        stage_ms={"decode": encoding_ms["decode"], "encode": encoding_ms["encode"], "compress": compress_ms},
        peak_bytes=peak_bytes,
        facts={**tokens.facts, **video.facts},
        model=replace(model_record(model), width=width, saliency_blocks=blocks),
        video=video.source,
        config=with_all_settings(pipeline.config),
        versions=pipeline.versions,
        notices=(*model.notices, *video.notices, *_notices(outer, rows, merged)),
    )


def model_record(model: VideoModel) -> ModelRecord:
    """Return a record of the model's identity and of where and how it runs."""
    of = model.identity
    return ModelRecord(of.name, of.revision, of.fingerprint, of.is_toy, width=None, placement=model.placement)


def _notices(config: Config, rows: Sequence[FrameRetention], merged: int) -> Iterator[str]:
    """Yield sentences about `rows`; the tower merged `merged` of the frames into others."""
    empty = sum(not row.kept for row in rows) - merged
    if empty:
        yield f"{empty} of {len(rows)} frames keep no token of their own; a higher --ratio changes that"
    if config.compresses and not config.has_budget:
        kept = f"{sum(row.retention for row in rows) / len(rows):.2%}, not {100 * config.ratio:.4g}%"
        if config.uses_aot:
            anchors = "anchors" if config.aot.anchors.count else "anchors (as many as suit the ratio)"
            yield f"with budget paper the {anchors} and the content decide how much is kept: {kept}"
        else:
            yield f"with paper_exact, {config.method} keeps what its settings say: {kept}"
