"""What is known of a video before and after compression, as plain values and as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aot.config.schema import Config
    from aot.models import VideoModel
    from aot.types import Clip, CompressedTokens
    from aot.video import FrameIndex
    from aot_cli.output.terminal_pictures import ClipStrips

__all__ = ["describe_video", "described", "groupings", "model_facts", "show"]


def describe_video(index: FrameIndex, config: Config) -> dict[str, Any]:
    """What is known of a video without a model; the notices are still to be said."""
    from aot.config.schema import BUNDLED_MODEL
    from aot.types import Clip
    from aot.video import plan_frames, segment_lengths

    plan = plan_frames(index, config.sampling)
    frames = len(plan.timestamps_s)
    settings = config.resolved_aot.clips
    is_aot = config.compresses and config.uses_aot
    grouped = is_aot and config.aot.inter.enabled
    fixed = settings.mode == "fixed" or not grouped
    notices = list(plan.notices)
    if not fixed:
        notices.append("dynamic groupings depend on what a model sees; add --model (AOT_MODEL is not used here)")
    lengths = segment_lengths(frames, config.sampling.segment_frames) if fixed else []
    clips = Clip.runs_within(lengths, settings.frames if grouped else 1)
    bundled = config.model.name == BUNDLED_MODEL
    assumed, side = (BUNDLED_MODEL, 8) if bundled else ("LLaVA-OneVision", 14)  # 15 x 15 and 27 x 27 patches, pooled
    before = frames * side**2
    budget = config.token_budget(frames, side**2)
    needed = len(clips) if is_aot else 1
    if config.has_budget and budget < needed:
        told = f"for {needed} clips" if is_aot else "to answer from"
        notices.append(f"{budget} tokens are too few {told}: a higher --ratio is needed")
    after: int | str = budget if config.has_budget else "as many as the content gives"
    if config.reduces_inside and config.inner.budget == "total":
        after = f"more than the ratio, since {config.inner.name} follows; --model tells how many"
    return {
        "source": index.info.path,
        "video": asdict(index.info),
        "timestamps_s": list(plan.timestamps_s),
        "clips": groupings(clips, plan.timestamps_s),
        "prediction": {
            "tokens_per_frame": side**2,
            "tokens_before": before,
            "tokens_after": before if config.method == "none" else after,
            "assuming": f"{assumed}, {side} x {side} tokens per frame",
        },
        "notices": notices,
    }


def described(source: str, report: Mapping[str, Any], tokens: CompressedTokens) -> dict[str, Any]:
    """Return a run's report and its groupings: the part that the JSON of all commands that compress has in common."""
    times = tokens.timestamps_s
    toy = bool(report["model"].get("toy_model"))
    shown = {"timestamps_s": list(times), "clips": groupings(tokens.clips, times)}
    return {"source": source, "toy_model": toy, **report, **shown}


def model_facts(model: VideoModel) -> dict[str, Any]:
    """Return which model it is, and where and how it runs."""
    return {**asdict(model.identity), "toy_model": model.identity.is_toy, **model.placement}


def groupings(clips: Sequence[Clip], timestamps_s: Sequence[float]) -> list[dict[str, Any]]:
    """Each clip's keyframe, its frames and their times."""
    return [
        {
            "clip": number,
            "keyframe": clip.first,
            "members": list(range(clip.first, clip.stop)),
            "timestamps_s": list(timestamps_s[clip.first : clip.stop]),
        }
        for number, clip in enumerate(clips)
    ]


def show(source: str, found: dict[str, Any], strips: ClipStrips | None = None) -> None:
    """Print what was found as tables, the groupings as strips of pictures if there are any."""
    from aot_cli.output.tables import clip_table, fact_table, frame_table, print_result

    title = found["video"]["path"] if source == found["video"]["path"] else f"{source}, from {found['video']['path']}"
    parts: list[Any] = [fact_table(title, _video_facts(found["video"])), ""]
    if "model" in found:
        parts += [fact_table("tokens", _token_facts(found)), ""]
    grouped = any(len(clip["members"]) > 1 for clip in found["clips"])
    if strips:
        parts += [f"{'keyframe groupings' if grouped else 'sampled frames'}, times in s", strips]
    elif grouped:
        parts += ["keyframe groupings", clip_table(found["clips"])]
    else:
        parts.append("sampled at " + " ".join(f"{t:.2f}" for t in found["timestamps_s"]) + " s")
    if "frames" in found:
        parts += ["kept of each frame", frame_table(found["frames"])]
    if "prediction" in found:
        parts.append(
            "predicted {tokens_before} visual tokens before compression, {tokens_after} after ({assuming})".format(
                **found["prediction"]
            )
        )
    print_result(*parts)


def _video_facts(video: dict[str, Any]) -> dict[str, Any]:
    """The probe in words."""
    frames = f"{video['frames']}"
    if video["header_frames"] not in (0, video["frames"]):
        frames += f" (the header says {video['header_frames']})"
    if video["discarded_frames"]:
        frames += f", {video['discarded_frames']} more hidden by an edit list"
    rate = "variable, " if video["variable_frame_rate"] else ""
    facts = {
        "format": f"{video['container']}, {video['codec']}, {video['width']} x {video['height']}",
        "frames": f"{frames}, {video['keyframes']} of them seek points",
        "duration": f"{video['duration_s']:.2f} s, {rate}{video['average_fps']:.3f} frames per second",
    }
    if video["rotation_degrees"]:
        facts["rotation"] = f"{video['rotation_degrees']} degrees clockwise, applied"
    if video["mirrored"]:
        facts["mirrored"] = "left and right, applied"
    if video["video_streams"] > 1:
        facts["stream"] = f"number {video['stream_index']}, the best of {video['video_streams']} video streams"
    facts["audio"] = "yes (not used)" if video["has_audio"] else "no"
    return facts


def _token_facts(found: dict[str, Any]) -> dict[str, Any]:
    model, facts = found["model"], found["facts"]
    described = {
        "kept": f"{found['kept_tokens']} of {found['visual_tokens']} ({found['retention']:.2%})",
        "method": f"{found['config']['method']}, ratio {found['config']['ratio']:g}",
        "model": f"{model['name']}, revision {model['revision'] or 'local'}, width {model['width']}, {model['dtype']}",
    }
    if facts.get("anchors_per_frame"):
        described["anchors"] = f"{facts['anchors_per_frame']} per frame before pooling"
    if facts.get("sampled_frames"):
        described["frames"] = f"{facts['selected_frames']} of {facts['sampled_frames']}, by {facts['selected_by']}"
    if facts.get("tower_share"):
        described["vision tower"] = f"merges: {facts['tower_share']} of all tokens, mean over its blocks"
    if facts.get("frame_embeddings"):
        described["clips"] = f"{facts['clip_mode']}, by {facts['frame_embeddings']}"
    return described
