"""The two sentences of the program: compress a video, answer a question about it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from aot.compression.aot.method import AnchorTransport
from aot.compression.in_llm import build_inner, outer_config
from aot.compression.methods import build_method
from aot.compression.methods.subset import refuse_below
from aot.config.schema import Config
from aot.errors import TokensFileError
from aot.models import FoundModel
from aot.models.base import Answer, ModelIdentity, VideoModel
from aot.pipeline.stream import EncodedVideo, SegmentCompressor
from aot.reports.frame_pictures import FramePictures
from aot.reports.provenance import Trace
from aot.reports.retention import FrameRetention, RetentionReport, frame_retention, versions
from aot.runtime.memory import explained_memory
from aot.runtime.stages import StageClock, StageProgress, silent
from aot.types import CompressedTokens, Needs

if TYPE_CHECKING:
    from aot.video import VideoFile

__all__ = ["Compression", "answer", "answer_each", "check_request", "check_same_model", "compress_video"]


@dataclass(frozen=True, slots=True)
class Compression:
    """Kept tokens and the report on how they came to be; `trace` if it was asked for."""

    tokens: CompressedTokens
    report: RetentionReport
    trace: Trace | None = None


def compress_video(
    path: str | Path | VideoFile,
    model: VideoModel,
    config: Config,
    on_progress: StageProgress = silent,
    questions: Sequence[str] = (),
    *,
    traced: bool = False,
) -> Compression:
    """Decode, encode and compress one video, segment by segment. With `sampling.select_frames`, those of its frames
    that score best for the questions, by the mean of each frame's scores. traced: leave a trace, for a page.

    path: a file's, an http or https address, "-" for standard input, or what `aot.video.open_file` yields.

    Raises:
        VideoError, ConfigError, NumericsError, MemoryLimitError, MethodError: see `aot.errors`.
    """
    clock = StageClock(torch.device(model.placement["device"]))
    compressor = SegmentCompressor(model, config, clock, traced=traced)
    pictures = FramePictures(model.temporal_patch)
    on_frames = pictures.add if traced else None
    video = EncodedVideo(path, model, config.sampling, compressor.needs, clock, on_progress, questions, on_frames)
    video.compress([compressor])
    tokens, origin = compressor.tokens(), compressor.provenance()
    trace = Trace(origin, pictures.files) if origin else None
    report = _report(tokens, video, model, config, clock, compressor.needs)
    return Compression(tokens, report, trace)


def check_request(found: FoundModel, config: Config, segments: Sequence[int]) -> None:
    """Check, before any weights are fetched or read, what a model's config.json and the numbers of sampled frames in
    the `segments` of the video decide.

    Raises:
        ConfigError: a setting of the method is wrong, or it keeps too little of so many frames.
        UnsupportedError: the model does not have what the method needs.
    """
    if config.reduces_inside:
        if found.language_layers is None:
            return
        config = outer_config(config, found.language_layers)
    method = build_method(config)
    found.implementation.check_support(method.needs, str(found.config.name))
    if found.known_grid is None or not config.compresses or not config.has_budget:
        return
    per_frame, done, spent = math.prod(found.known_grid), 0, 0
    for length in segments:
        done += length
        budget = config.token_budget(done, per_frame) - spent
        spent += budget
        if isinstance(method, AnchorTransport):
            method.check_frames(budget, length, length * per_frame)
        refuse_below(1, budget, length * per_frame)


def answer(model: VideoModel, tokens: CompressedTokens, question: str, config: Config) -> Answer:
    """Begin an answer; iterate over it for its text."""
    with explained_memory():
        return model.generate(tokens, question, config.generation, build_inner(config, model.language_layers))


def answer_each(
    model: VideoModel, tokens: CompressedTokens, questions: Sequence[str], config: Config
) -> Iterator[Answer]:
    """Begin an answer to one question after the other; the language model reads the video once for all, unless it
    drops some of it as the question tells.
    """
    if len(questions) == 1:
        yield answer(model, tokens, questions[0], config)
        return
    with explained_memory():
        reading = model.read(tokens, build_inner(config, model.language_layers))
        for question in questions:
            yield reading.generate(question, config.generation)


def check_same_model(report: Mapping[str, Any], identity: ModelIdentity) -> None:
    """Check that a model is the one whose projector made some tokens: to others they mean nothing.

    Raises:
        TokensFileError: `report` (of a tokens file) names another model.
    """
    made_by = report["model"]
    if made_by.get("fingerprint") != identity.fingerprint:
        raise TokensFileError(
            f"these tokens were made by {made_by.get('name')} (revision {made_by.get('revision')}), which "
            f"{identity.name} is not; ask with that model, or compress the video again"
        )


def _report(
    tokens: CompressedTokens,
    video: EncodedVideo,
    model: VideoModel,
    config: Config,
    clock: StageClock,
    needs: Needs,
) -> RetentionReport:
    per_frame = math.prod(tokens.grid)
    rows = frame_retention(tokens, per_frame, video.similarity)
    outer = outer_config(config, model.language_layers)
    total = video.frames * per_frame
    kept = len(tokens.features)
    identity = model.identity
    return RetentionReport(
        visual_tokens=total,
        budget_tokens=outer.token_budget(len(rows), per_frame) if outer.has_budget else None,
        kept_tokens=kept,
        retention=kept / total,
        frames=rows,
        stage_ms={name: clock.stage_ms[name] for name in ("decode", "encode", "compress")},
        peak_bytes=clock.peak_bytes(),
        facts={**tokens.facts, **(video.selection.facts if video.selection else {})},
        model={
            "name": identity.name,
            "revision": identity.revision,
            "fingerprint": identity.fingerprint,
            "toy_model": identity.is_toy,
            "width": tokens.features.shape[1],
            **model.placement,
            "saliency_blocks": list(model.saliency_blocks(needs.saliency_layers)),
        },
        video=asdict(video.source),
        config=config.to_dict(),
        versions=versions(),
        notices=(*model.notices, *video.notices, *_retention_notices(outer, rows)),
    )


def _retention_notices(config: Config, rows: Sequence[FrameRetention]) -> Iterator[str]:
    empty = sum(not row.kept for row in rows)
    if empty:
        yield f"{empty} of {len(rows)} frames keep no token of their own; a higher --ratio changes that"
    if config.compresses and not config.has_budget:
        kept = f"{sum(row.retention for row in rows) / len(rows):.2%}, not {100 * config.ratio:.4g}%"
        if config.uses_aot:
            anchors = "anchors" if config.aot.anchors.count else "anchors (as many as suit the ratio)"
            yield f"with budget paper the {anchors} and the content decide how much is kept: {kept}"
        else:
            yield f"with paper_exact, {config.method} keeps what its settings say: {kept}"
