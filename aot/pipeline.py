"""The two sentences of the program: compress a video, answer a question about it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from aot.config import AOT_METHODS, Config
from aot.errors import TokensFileError
from aot.inner import build_inner, outer_config
from aot.memory import explained_memory
from aot.methods import build_method
from aot.models.base import Answer, VideoModel
from aot.origins import Trace
from aot.pictures import FramePictures
from aot.report import FrameRetention, RetentionReport, frame_retention, versions
from aot.segments import EncodedVideo, SegmentCompressor
from aot.stages import StageClock, StageProgress, silent
from aot.types import CompressedTokens

if TYPE_CHECKING:
    from aot.video import VideoFile

__all__ = ["Compression", "answer", "answer_each", "check_same_model", "compress_video"]


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
    that score best for the questions, by the mean of each frame's scores. traced: leave a trace, for `aot.page`.

    path: a file's, an http or https address, "-" for standard input, or what `aot.video.open_file` yields.

    Raises:
        VideoError, ConfigError, NumericsError, MemoryLimitError: see `aot.errors`.
    """
    clock = StageClock(torch.device(model.placement["device"]))
    compressor = SegmentCompressor(model, config, clock, traced=traced)
    pictures = FramePictures(model.temporal_patch)
    on_frames = pictures.add if traced else None
    video = EncodedVideo(path, model, config.sampling, compressor.needs, clock, on_progress, questions, on_frames)
    video.compress([compressor])
    tokens, origin = compressor.tokens(), compressor.provenance()
    trace = Trace(origin, pictures.files) if origin else None
    return Compression(tokens, _report(tokens, video, model, config, clock), trace)


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


def _report(
    tokens: CompressedTokens, video: EncodedVideo, model: VideoModel, config: Config, clock: StageClock
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
            "width": tokens.features.shape[1],
            **model.placement,
            "saliency_blocks": list(model.saliency_blocks(build_method(config).needs.saliency_layers)),
        },
        video=asdict(video.source),
        config=config.to_dict(),
        versions=versions(),
        notices=(*video.notices, *_retention_notices(config, rows)),
    )


def _retention_notices(config: Config, rows: Sequence[FrameRetention]) -> Iterator[str]:
    empty = sum(not row.kept for row in rows)
    if empty:
        yield f"{empty} of {len(rows)} frames keep no token of their own; a higher --ratio changes that"
    if config.compresses and not config.has_budget:
        if config.method not in AOT_METHODS:
            yield f"with paper_exact, {config.method} keeps what its settings say, not the ratio"
        elif config.aot.anchors.count:
            yield "with budget paper the anchors and the content decide how much is kept, not the ratio"
