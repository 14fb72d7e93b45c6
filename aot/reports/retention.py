"""Report kept tokens, costs, and everything needed to reproduce the result."""

from __future__ import annotations

import csv
import io
import platform
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
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
        frame: index of the frame.
        timestamp_s: presentation time of the frame.
        clip: index of the clip that contains the frame.
        is_keyframe: whether the frame is the first one of its clip.
        similarity: cosine similarity to the previous frame, or None for the first frame.
        own: number of tokens with `Role.KEPT` or `Role.KEYFRAME`.
        distinct: number of tokens with `Role.DISTINCT`.
        merged: number of tokens with `Role.MERGED`.
        kept: own + distinct + merged.
        retention: kept / (number of pooled tokens per frame).
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
        name: name on the hub, or folder.
        revision: commit on the hub, or None for a folder.
        fingerprint: fingerprint of the weights that determine the tokens.
        toy_model: whether the model is the bundled one.
        width: D of the tokens, or None if nothing was compressed.
        placement: device, dtype, kernels and token layout (see `VideoModel.placement`).
        saliency_blocks: blocks whose attention the method used, or None if nothing was compressed.
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
        """Return a flat dict of plain values; `width` and `saliency_blocks` are omitted if None."""
        plain: dict[str, Any] = {name: getattr(self, name) for name in _IDENTITY}
        width = {} if self.width is None else {"width": self.width}
        blocks = {} if self.saliency_blocks is None else {"saliency_blocks": list(self.saliency_blocks)}
        return {**plain, **width, **self.placement, **blocks}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> ModelRecord:
        """Return the record from a dict that `to_dict` made and whose values were checked."""
        own = {name: plain[name] for name in (*_IDENTITY, "width")}
        placement = {name: value for name, value in plain.items() if name not in {*own, "saliency_blocks"}}
        return cls(**own, placement=placement, saliency_blocks=tuple(plain["saliency_blocks"]))


@dataclass(frozen=True, slots=True)
class RetentionReport:
    """Hold the kept tokens per frame, costs per stage and settings of a compression.

    Attributes:
        visual_tokens: number of visual tokens before compression.
        budget_tokens: the token budget, or None without a budget (method none, budget paper).
        kept_tokens: number of visual tokens after compression.
        retention: kept_tokens / visual_tokens.
        frames: one row per encoded frame.
        stage_ms: wall time of each stage.
        peak_bytes: peak memory of "host" and "device"; None if the system does not report it.
        facts: facts from the method, see `CompressedTokens`.
        model: the model that made the tokens.
        video: the video that the frames are from.
        config: the settings.
        versions: versions of the packages that affect results.
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

    @property
    def reuse(self) -> str:
        """Return how the vision tower saved work on frames, in words; empty if it did not."""
        references, left = self.facts.get("reference_frames"), self.facts.get("tower_frames")
        tower = self.config.tower
        if left is not None:
            return f"{tower.name}: {len(self.frames)} frames were merged into {left}"
        if references is None:
            return ""
        return (
            f"{tower.name}: {references} of {len(self.frames)} frames are references, "
            f"the others compute {tower.stc.share:.4g} of their tokens"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the report as nested plain values, for JSON and tokens files."""
        plain = asdict(self)
        plain["frames"] = list(plain["frames"])
        plain["model"] = self.model.to_dict()
        plain["notices"] = list(self.notices)
        return plain

    @classmethod
    def from_dict(cls, plain: object) -> RetentionReport:
        """Return the report from a dict that `to_dict` made, possibly in an earlier version of aot.

        Raises:
            ValueError: If a value is missing, has the wrong type or is out of range.
            ConfigError: If a setting in `config` is unknown or out of range.
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
        """Return `frames` as CSV, with a header and one row per frame."""
        text = io.StringIO()
        rows = [asdict(frame) for frame in self.frames]
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()


class Compression:
    """Hold the kept tokens of a video and the report on the compression.

    Args:
        tokens: the kept tokens.
        report: the report, or a function that reads its facts from the device.
        pictures: a JPEG file of each encoded frame, or None if the run was not traced.
    """

    def __init__(
        self,
        tokens: CompressedTokens,
        report: RetentionReport | Callable[[], RetentionReport],
        pictures: Sequence[bytes] | None = None,
    ) -> None:
        self.tokens, self.pictures, self._given = tokens, pictures, report

    @cached_property
    def report(self) -> RetentionReport:
        """Return the report; the first access may wait for the device.

        Raises:
            NumericsError, MethodError: If the values of `tokens` turn out to be wrong.
        """
        return self._given if isinstance(self._given, RetentionReport) else self._given()


def frame_retention(
    tokens: CompressedTokens, tokens_per_frame: int, similarity: Sequence[float]
) -> tuple[FrameRetention, ...]:
    """Count the kept tokens of every frame by role.

    Args:
        tokens: the kept tokens.
        tokens_per_frame: n, the number of tokens per frame before compression.
        similarity: F - 1 cosine similarities of adjacent frames.
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
    """Return the mean of `layer_tokens` (visual tokens per layer), divided by `visual_tokens`.

    Without a reduction inside the language model, the result equals the retention.
    """
    return sum(layer_tokens) / (len(layer_tokens) * visual_tokens)


def versions() -> dict[str, str]:
    """Return the platform and the versions of Python and of packages that affect results."""
    found = {"python": platform.python_version(), "platform": f"{sys.platform} {platform.machine()}"}
    for name in ("aot", "torch", "transformers", "av", "decord", "numpy", "safetensors", "tokenizers"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    if "torch" in sys.modules:
        # `__version__` names the CUDA build, which the package's metadata may leave out.
        found["torch"] = str(sys.modules["torch"].__version__)
    return found
