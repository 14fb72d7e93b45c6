"""What was kept, what it cost, and everything needed to do it again."""

from __future__ import annotations

import csv
import io
import platform
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from aot.types import CompressedTokens, Role

__all__ = ["FrameRetention", "RetentionReport", "frame_retention", "language_model_load", "versions"]


@dataclass(frozen=True, slots=True)
class FrameRetention:
    """One encoded frame. kept = own + distinct + merged tokens that come from it; similarity: cosine of
    this frame's embedding with the frame before (None for the first).
    """

    frame: int
    timestamp_s: float
    clip: int
    is_keyframe: bool
    similarity: float | None
    own: int
    distinct: int
    merged: int
    kept: int
    retention: float


@dataclass(frozen=True, slots=True)
class RetentionReport:
    """Per frame what was kept, per stage what it took, and the resolved settings, as plain values.

    budget_tokens: what the ratio promised; None where nothing is promised (method none, budget paper).
    peak_bytes: the most memory held, by place; None where the system does not say.
    """

    visual_tokens: int
    budget_tokens: int | None
    kept_tokens: int
    retention: float
    frames: tuple[FrameRetention, ...]
    stage_ms: Mapping[str, float]
    peak_bytes: Mapping[str, int | None]
    facts: Mapping[str, Any]
    model: Mapping[str, Any]
    video: Mapping[str, Any]
    config: Mapping[str, Any]
    versions: Mapping[str, str]
    notices: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain types all the way down, for JSON and for the tokens file."""
        plain = asdict(self)
        plain["frames"] = list(plain["frames"])
        plain["notices"] = list(self.notices)
        return plain

    def to_csv(self) -> str:
        """The per-frame table."""
        text = io.StringIO()
        rows = [asdict(frame) for frame in self.frames]
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()


def frame_retention(
    tokens: CompressedTokens, tokens_per_frame: int, similarity: Sequence[float]
) -> tuple[FrameRetention, ...]:
    """Count the kept tokens of every frame by role. similarity: F - 1 neighbour cosines."""
    counts = Counter(zip(tokens.frame.tolist(), tokens.role.tolist(), strict=True))
    rows = []
    for clip_number, clip in enumerate(tokens.clips):
        for frame in range(clip.first, clip.stop):
            own = counts[frame, Role.KEPT] + counts[frame, Role.KEYFRAME]
            distinct, merged = counts[frame, Role.DISTINCT], counts[frame, Role.MERGED]
            kept = own + distinct + merged
            rows.append(
                FrameRetention(
                    frame=frame,
                    timestamp_s=tokens.timestamps_s[frame],
                    clip=clip_number,
                    is_keyframe=frame == clip.first,
                    similarity=similarity[frame - 1] if frame else None,
                    own=own,
                    distinct=distinct,
                    merged=merged,
                    kept=kept,
                    retention=kept / tokens_per_frame,
                )
            )
    return tuple(rows)


def language_model_load(layer_tokens: Sequence[int], visual_tokens: int) -> float:
    """The mean over the language model's layers of the share of all `visual_tokens` that each has read; without a
    reduction inside it, the retention.
    """
    return sum(layer_tokens) / (len(layer_tokens) * visual_tokens)


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    found = {"python": platform.python_version(), "platform": f"{sys.platform} {platform.machine()}"}
    for name in ("aot", "torch", "transformers", "av", "decord", "numpy", "safetensors", "tokenizers"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    if "torch" in sys.modules:
        found["torch"] = str(sys.modules["torch"].__version__)  # names the CUDA build, which its metadata may leave out
    return found
