"""Report what was kept, what it cost, and everything needed to reproduce it."""

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

from aot.config.schema import Config, build_config
from aot.reports.reader import read_report
from aot.types import CompressedTokens, Role, VideoInfo

__all__ = [
    "Compression",
    "FrameRetention",
    "ModelRecord",
    "RetentionReport",
    "frame_retention",
    "language_model_load",
    "versions",
]


_IDENTITY = ("name", "revision", "fingerprint", "toy_model")


@dataclass(frozen=True, slots=True)
class FrameRetention:
    """Count the kept tokens of one encoded frame.

    Attributes:
        frame: its index.
        timestamp_s: its presentation time.
        clip: the index of its clip.
        is_keyframe: whether it is the first frame of its clip.
        similarity: cosine similarity of its embedding to the previous frame's; None for the first.
        own: tokens that are its own and unchanged.
        distinct: tokens that differ from the keyframe.
        merged: tokens that have absorbed others.
        kept: own + distinct + merged.
        retention: kept tokens as a share of the frame's pooled tokens.
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
class ModelRecord:
    """Identify a model, and record where and how it ran.

    Attributes:
        name: on the hub, or its folder.
        revision: commit on the hub; None for a folder.
        fingerprint: of the weights that define its tokens.
        toy_model: whether it is the bundled model.
        width: D of the tokens; None if it compressed none.
        placement: device, dtype, kernels and layout, as `VideoModel.placement`.
        saliency_blocks: blocks whose attention the method read; None if it compressed nothing.
    """

    name: str
    revision: str | None
    fingerprint: str
    toy_model: bool
    width: int | None
    placement: Mapping[str, object]
    saliency_blocks: tuple[int, ...] | None = None

    def __str__(self) -> str:
        return f"{self.name} on {self.placement['device']}, {self.placement['dtype']}"

    def to_dict(self) -> dict[str, Any]:
        """Return the record as one flat dict of plain values, without those that are not known."""
        plain: dict[str, Any] = {name: getattr(self, name) for name in _IDENTITY}
        width = {} if self.width is None else {"width": self.width}
        blocks = {} if self.saliency_blocks is None else {"saliency_blocks": list(self.saliency_blocks)}
        return {**plain, **width, **self.placement, **blocks}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> ModelRecord:
        """Return the record that `to_dict` wrote; the values are checked already."""
        own = {name: plain[name] for name in (*_IDENTITY, "width")}
        placement = {name: value for name, value in plain.items() if name not in {*own, "saliency_blocks"}}
        return cls(**own, placement=placement, saliency_blocks=tuple(plain["saliency_blocks"]))


@dataclass(frozen=True, slots=True)
class RetentionReport:
    """Hold what was kept per frame, costs per stage and resolved settings.

    Attributes:
        visual_tokens: before compression.
        budget_tokens: the promised number; None if none is promised (method none, budget paper).
        kept_tokens: after compression.
        retention: kept_tokens / visual_tokens.
        frames: one row per encoded frame.
        stage_ms: wall time by stage.
        peak_bytes: peak memory of "host" and "device"; None if the system does not report it.
        facts: of the method, see `CompressedTokens`.
        model: which model made the tokens.
        video: the source of the frames.
        config: the resolved settings.
        versions: of the packages the numbers depend on.
        notices: sentences for the user.
    """

    visual_tokens: int
    budget_tokens: int | None
    kept_tokens: int
    retention: float
    frames: tuple[FrameRetention, ...]
    stage_ms: Mapping[str, float]
    peak_bytes: Mapping[str, int | None]
    facts: Mapping[str, object]
    model: ModelRecord
    video: VideoInfo
    config: Config
    versions: Mapping[str, str]
    notices: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain types at every level, for JSON and tokens files."""
        plain = asdict(self)
        plain["frames"] = list(plain["frames"])
        plain["model"] = self.model.to_dict()
        plain["notices"] = list(self.notices)
        return plain

    @classmethod
    def from_dict(cls, plain: object) -> RetentionReport:
        """Return the report from the values of `to_dict`, also of earlier versions.

        Raises:
            ValueError: If a value is missing, has the wrong type or is out of range.
            ConfigError: If the settings are wrong.
        """
        found = read_report(plain)
        return cls(
            **found
            | {
                "frames": tuple(FrameRetention(**frame) for frame in found["frames"]),
                "model": ModelRecord.from_dict(found["model"]),
                "video": VideoInfo(**found["video"]),
                "config": build_config(found["config"]),
                "notices": tuple(found["notices"]),
            }
        )

    def to_csv(self) -> str:
        """Return the table of frames as CSV."""
        text = io.StringIO()
        rows = [asdict(frame) for frame in self.frames]
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()


@dataclass(frozen=True, slots=True)
class Compression:
    """Hold the kept tokens of a video, fresh or read from a file.

    Attributes:
        tokens: the kept tokens.
        report: how they came to be.
        pictures: a JPEG file of each encoded frame; None unless the run was traced.
    """

    tokens: CompressedTokens
    report: RetentionReport
    pictures: Sequence[bytes] | None = None


def frame_retention(
    tokens: CompressedTokens, tokens_per_frame: int, similarity: Sequence[float]
) -> tuple[FrameRetention, ...]:
    """Count the kept tokens of every frame by role.

    Args:
        tokens: the kept tokens.
        tokens_per_frame: n, before compression.
        similarity: cosine similarities of adjacent frames, F - 1.
    """
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
    """Return the share of all visual tokens that a layer reads, averaged over the layers.

    Without a reduction inside the language model this is the retention.
    """
    return sum(layer_tokens) / (len(layer_tokens) * visual_tokens)


def versions() -> dict[str, str]:
    """Return the versions of the packages and the platform that the numbers depend on."""
    found = {"python": platform.python_version(), "platform": f"{sys.platform} {platform.machine()}"}
    for name in ("aot", "torch", "transformers", "av", "decord", "numpy", "safetensors", "tokenizers"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    if "torch" in sys.modules:
        # This names the CUDA build, which the package's metadata may leave out.
        found["torch"] = str(sys.modules["torch"].__version__)
    return found
