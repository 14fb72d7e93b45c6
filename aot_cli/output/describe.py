"""Describe a video before and after compression, as tables and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from aot.config.schema import BUNDLED_MODEL, Config
from aot.types import Clip
from aot_cli.output.tables import clip_table, fact_table, frame_table, print_result

if TYPE_CHECKING:
    from rich.console import RenderableType

    from aot.reports.retention import Compression, RetentionReport
    from aot.types import VideoInfo
    from aot.video import FrameIndex
    from aot_cli.output.terminal_pictures import ClipStrips

__all__ = [
    "Grouping",
    "Prediction",
    "VideoDescription",
    "compression_json",
    "describe_video",
    "groupings",
    "show_compression",
    "show_video",
]


@dataclass(frozen=True, slots=True)
class Grouping:
    """A clip: number, keyframe, frame numbers and frame times."""

    clip: int
    keyframe: int
    members: list[int]
    timestamps_s: list[float]


@dataclass(frozen=True, slots=True)
class Prediction:
    """Predicted token counts of a video; `assuming` names the model."""

    tokens_per_frame: int
    tokens_before: int
    tokens_after: int | str
    assuming: str

    def __str__(self) -> str:
        counts = f"{self.tokens_before} visual tokens before compression, {self.tokens_after} after"
        return f"predicted {counts} ({self.assuming})"


@dataclass(frozen=True, slots=True)
class VideoDescription:
    """A description of a video, made without a model; the caller has to print `notices`."""

    source: str
    video: VideoInfo
    timestamps_s: list[float]
    clips: list[Grouping]
    prediction: Prediction
    notices: list[str]


def describe_video(index: FrameIndex, config: Config) -> VideoDescription:
    """Describe a video without a model: sampled frames, clips and predicted token counts."""
    from aot.video import plan_frames, segment_lengths

    plan = plan_frames(index, config.sampling)
    frames = len(plan.timestamps_s)
    settings = config.resolved_aot.clips
    is_aot = config.compresses and config.uses_aot
    grouped = is_aot and config.aot.inter.enabled
    fixed = settings.mode == "fixed" or not grouped
    notices = list(plan.notices)
    if not fixed:
        notices.append("dynamic groupings depend on the features of a model; add --model (AOT_MODEL is not used here)")
    lengths = segment_lengths(frames, config.sampling.segment_frames) if fixed else []
    clips = Clip.runs_within(lengths, settings.frames if grouped else 1)
    bundled = config.model.name == BUNDLED_MODEL
    assumed, side = (BUNDLED_MODEL, 8) if bundled else ("LLaVA-OneVision", 14)  # 15 x 15 and 27 x 27 patches, pooled
    before = frames * side**2
    budget = config.token_budget(frames, side**2)
    needed = len(clips) if is_aot else 1
    if config.has_budget and budget < needed:
        use = f"for {needed} clips" if is_aot else "for an answer"
        notices.append(f"{budget} tokens are too few {use}; use a higher --ratio")
    after: int | str = budget if config.has_budget else "a number that depends on the content"
    if config.reduces_inside and config.inner.budget == "total":
        after = f"more than the ratio, because {config.inner.name} removes the rest later; add --model for the number"
    return VideoDescription(
        source=index.info.path,
        video=index.info,
        timestamps_s=list(plan.timestamps_s),
        clips=groupings(clips, plan.timestamps_s),
        prediction=Prediction(
            tokens_per_frame=side**2,
            tokens_before=before,
            tokens_after=before if config.method == "none" else after,
            assuming=f"{assumed}, {side} x {side} tokens per frame",
        ),
        notices=notices,
    )


def compression_json(source: str, compression: Compression) -> dict[str, object]:
    """Return the report and the clips of a run, as an object for JSON."""
    report, times = compression.report, compression.tokens.timestamps_s
    clips = [asdict(clip) for clip in groupings(compression.tokens.clips, times)]
    shown = {"timestamps_s": list(times), "clips": clips}
    return {"source": source, "toy_model": report.model.toy_model, **report.to_dict(), **shown}


def groupings(clips: Sequence[Clip], timestamps_s: Sequence[float]) -> list[Grouping]:
    """Return the clips with clip numbers, frame numbers and frame times."""
    return [
        Grouping(number, clip.first, list(range(clip.first, clip.stop)), list(timestamps_s[clip.first : clip.stop]))
        for number, clip in enumerate(clips)
    ]


def show_video(source: str, found: VideoDescription, strips: ClipStrips | None = None) -> None:
    """Print the description `found`; if `strips` is given, show clips as strips of pictures."""
    clips = _clip_parts(found.clips, found.timestamps_s, strips)
    print_result(*_video_parts(source, found.video), *clips, str(found.prediction))


def show_compression(source: str, found: Compression, strips: ClipStrips | None = None) -> None:
    """Print tables of the kept tokens; if `strips` is given, show clips as strips of pictures."""
    report, tokens = found.report, found.tokens
    print_result(
        *_video_parts(source, report.video),
        *(fact_table("tokens", _token_facts(report)), ""),
        *_clip_parts(groupings(tokens.clips, tokens.timestamps_s), tokens.timestamps_s, strips),
        *("kept of each frame", frame_table(report.frames)),
    )


def _video_parts(source: str, video: VideoInfo) -> list[RenderableType]:
    title = video.path if source == video.path else f"{source}, from {video.path}"
    return [fact_table(title, _video_facts(video)), ""]


def _clip_parts(
    clips: Sequence[Grouping], timestamps_s: Sequence[float], strips: ClipStrips | None
) -> list[RenderableType]:
    grouped = any(len(clip.members) > 1 for clip in clips)
    if strips:
        return [f"{'keyframe groupings' if grouped else 'sampled frames'}, times in s", strips]
    if grouped:
        return ["keyframe groupings", clip_table(clips)]
    return ["sampled at " + " ".join(f"{time:.2f}" for time in timestamps_s) + " s"]


def _video_facts(video: VideoInfo) -> dict[str, str]:
    """Return the properties of a video; names and values are texts."""
    frames = f"{video.frames}"
    if video.header_frames not in (0, video.frames):
        frames += f" ({video.header_frames} in the header)"
    if video.discarded_frames:
        frames += f", {video.discarded_frames} more hidden by an edit list"
    rate = "variable, " if video.variable_frame_rate else ""
    facts = {
        "format": f"{video.container}, {video.codec}, {video.width} x {video.height}",
        "frames": f"{frames}, {video.keyframes} of them seek points",
        "duration": f"{video.duration_s:.2f} s, {rate}{video.average_fps:.3f} frames per second",
    }
    if video.rotation_degrees:
        facts["rotation"] = f"{video.rotation_degrees} degrees clockwise, applied"
    if video.mirrored:
        facts["mirrored"] = "left and right, applied"
    if video.video_streams > 1:
        facts["stream"] = f"number {video.stream_index}, the best of {video.video_streams} video streams"
    facts["audio"] = "yes (not used)" if video.has_audio else "no"
    return facts


def _token_facts(report: RetentionReport) -> dict[str, str]:
    model, facts, dtype = report.model, report.facts, report.model.placement["dtype"]
    described = {
        "kept": f"{report.kept_tokens} of {report.visual_tokens} ({report.retention:.2%})",
        "method": f"{report.config.method}, ratio {report.config.ratio:g}",
        "model": f"{model.name}, revision {model.revision or 'local'}, width {model.width}, {dtype}",
    }
    if facts.get("anchors_per_frame"):
        described["anchors"] = f"{facts['anchors_per_frame']} per frame before pooling"
    if facts.get("sampled_frames"):
        described["frames"] = f"{facts['selected_frames']} of {facts['sampled_frames']}, by {facts['selected_by']}"
    if facts.get("tower_share"):
        described["vision tower"] = f"merges: {facts['tower_share']} of all tokens, mean over its blocks"
    if report.reuse:
        described["vision tower"] = report.reuse
    if facts.get("frame_embeddings"):
        described["clips"] = f"{facts['clip_mode']}, by {facts['frame_embeddings']}"
    return described
