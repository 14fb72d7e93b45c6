"""Check every value of a `RetentionReport` that was read from a file."""

from __future__ import annotations

from typing import Any

from aot.runtime.plain_values import Reader, each, flag, free, named, number, optional, record, text, whole

__all__ = ["read_report"]

_MODEL = record(
    {
        "name": text,
        "revision": optional(text),
        "fingerprint": text,
        "toy_model": flag,
        "width": whole(1),
        "device": text,
        "dtype": text,
        "attention": text,
        "vision_blocks": whole(),
        "positions": text,
        "saliency_blocks": each(whole()),
    },
    missing={
        "revision": None,
        "toy_model": False,
        "device": "unknown",
        "dtype": "unknown",
        "attention": "unknown",
        "vision_blocks": 0,
        "positions": "packed",
        "saliency_blocks": [],
    },
    others=free,
)
_VIDEO: dict[str, tuple[Reader, Any]] = {
    "path": (text, "unknown"),
    "container": (text, "unknown"),
    "codec": (text, "unknown"),
    "width": (whole(), 0),
    "height": (whole(), 0),
    "rotation_degrees": (whole(-360, 360), 0),
    "stream_index": (whole(), 0),
    "video_streams": (whole(), 1),
    "frames": (whole(), 0),
    "header_frames": (whole(), 0),
    "discarded_frames": (whole(), 0),
    "keyframes": (whole(), 0),
    "duration_s": (number(0), 0.0),
    "average_fps": (number(0), 0.0),
    "variable_frame_rate": (flag, False),
    "has_audio": (flag, False),
    "mirrored": (flag, False),
}
# Facts that require other facts.
_TOGETHER = {"sampled_frames": ("selected_frames", "selected_by"), "frame_embeddings": ("clip_mode",)}


def read_report(value: object) -> dict[str, Any]:
    """Check `value` and return a report in the form of `RetentionReport.to_dict`.

    Keys that earlier versions did not write get defaults; unknown keys are dropped. The settings in
    `config` are checked later, by `aot.config.schema`.

    Raises:
        ValueError: If a value is missing, has a wrong type or range. The message names the key.
    """
    sizes = record({"visual_tokens": whole(1), "frames": each(free)})(value, "report")
    total, frames = sizes["visual_tokens"], len(sizes["frames"])
    reader = record(
        {
            "visual_tokens": whole(),
            "budget_tokens": optional(whole()),
            "kept_tokens": whole(0, total),
            "retention": number(0),
            "frames": each(_frame(total, frames)),
            "stage_ms": named(number(0)),
            "peak_bytes": named(optional(whole())),
            "facts": _facts,
            "model": _MODEL,
            "video": record(
                {name: reader for name, (reader, _) in _VIDEO.items()},
                missing={name: default for name, (_, default) in _VIDEO.items()},
            ),
            "config": named(free),
            "versions": named(text),
            "notices": each(text),
        }
    )
    read: dict[str, Any] = reader(value, "report")
    return read


def _frame(total: int, frames: int) -> Reader:
    """Return a reader of a `FrameRetention` that also checks the sum of the counts."""
    counts = dict.fromkeys(("own", "distinct", "merged", "kept"), whole(0, total))
    fields = record(
        {
            "frame": whole(0, frames - 1),
            "timestamp_s": number(),
            "clip": whole(0, frames - 1),
            "is_keyframe": flag,
            "similarity": optional(number()),
            **counts,
            "retention": number(0),
        }
    )

    def read(value: Any, key: str) -> dict[str, Any]:
        frame: dict[str, Any] = fields(value, key)
        if frame["kept"] != frame["own"] + frame["distinct"] + frame["merged"]:
            raise ValueError(f"{key}.kept must be own + distinct + merged")
        return frame

    return read


def _facts(value: Any, key: str) -> dict[str, Any]:
    """Read the facts, and check that the facts required by other facts are present."""
    facts: dict[str, Any] = named(free)(value, key)
    for name, others in _TOGETHER.items():
        lacking = [other for other in others if facts.get(name) and other not in facts]
        if lacking:
            raise ValueError(f"{key}.{lacking[0]} must be present, because {name} is")
    return facts
