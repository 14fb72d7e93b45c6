"""Every setting, as frozen dataclasses that check themselves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from aot.config.notations import Seconds, Share
from aot.config.presets import preset_settings
from aot.config.strict import Settings, build_settings, check, merge_settings
from aot.plugins import INNER, METHODS, Kind, hint, names

__all__ = [
    "AOT_METHODS",
    "BUNDLED_MODEL",
    "REAL_MODEL",
    "AOTConfig",
    "AnchorConfig",
    "ClipConfig",
    "Config",
    "GenerationConfig",
    "InnerConfig",
    "InterConfig",
    "IntraConfig",
    "ModelConfig",
    "SamplingConfig",
    "TransportConfig",
    "build_config",
]


# Ships with the package, as does the preset of that name; a folder so called is reached as ./shapes.
BUNDLED_MODEL = "shapes"
REAL_MODEL = "llava-hf/llava-onevision-qwen2-0.5b-ov-hf"  # the smallest that sees the real world
_MOST_FPS = 1e6  # products with times stay finite
_LEAST_TEMPERATURE = 1e-3  # logits divided by it stay finite, also in 16 bits
# Those that the settings under `aot` are for.
AOT_METHODS = tuple(name for name, where in METHODS.items() if where.startswith("aot.compression.aot.method:"))
_DYNAMIC = "aot-dyn"  # AOT whose clips end where the picture changes, whatever `aot.clips.mode` says


@dataclass(frozen=True, slots=True)
class SamplingConfig:
    """Which frames of the video are looked at, and how many are held and compressed at once (up to `segment_frames`).

    `frames` are spread evenly over the range (LLaVA's linspace); `fps` instead takes that many per
    second, thinned evenly to `max_frames`. `spacing` "time" spreads `frames` evenly in seconds
    rather than in frame numbers, which differs when the frame rate varies.

    `select_frames`: so many of the frames, those that the question is about, are compressed, and the others dropped;
    two frames are not both chosen where (1 + cosine) / 2 of their embeddings is above `duplicate_similarity`, unless
    too few are left.

    `strict`: a video that was cut off, or of whose frames one is lost or damaged, is an error and not a notice.
    `max_input_mb`: the most that is fetched from an address or copied from a pipe.
    """

    frames: int = 32
    fps: float | None = None
    start_s: Seconds | None = None
    end_s: Seconds | None = None
    max_frames: int = 256
    segment_frames: int = 64
    spacing: Literal["index", "time"] = "index"
    decoder: Literal["pyav", "decord"] = "pyav"
    select_frames: int | None = None
    duplicate_similarity: float = 0.95
    strict: bool = False
    max_input_mb: int = 4096

    def __post_init__(self) -> None:
        start, end = self.start_s or 0.0, self.end_s
        check(
            frames=(self.frames >= 1, f"must be at least 1, got {self.frames}"),
            fps=(
                self.fps is None or 0 < self.fps <= _MOST_FPS,
                f"must be in (0, {_MOST_FPS:.0f}], got {self.fps}",
            ),
            start_s=(start >= 0, f"must not be negative, got {start}"),
            end_s=(end is None or start < end, f"must be after the start ({start:g} s), got {end}"),
            max_frames=(self.max_frames >= 1, f"must be at least 1, got {self.max_frames}"),
            segment_frames=(self.segment_frames >= 1, f"must be at least 1, got {self.segment_frames}"),
            select_frames=(
                self.select_frames is None or self.select_frames >= 1,
                f"must be at least 1, got {self.select_frames}",
            ),
            duplicate_similarity=(
                0 <= self.duplicate_similarity <= 1,
                f"must be in [0, 1], got {self.duplicate_similarity}",
            ),
            max_input_mb=(self.max_input_mb >= 1, f"must be at least 1, got {self.max_input_mb}"),
        )


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Which model, where and how it runs.

    name: a Hugging Face id or a local folder. siglip_head: a SigLIP checkpoint (id or folder) whose
    pooling head gives the frame embeddings of dynamic clips. encode_batch_frames: frames in the vision tower at once;
    None takes as many as fit into the device's free memory. frame_pixels: the most that a frame has where a model reads
    any size (Qwen-VL), and so how many tokens: one for 28 x 28 pixels of two frames in Qwen2.5-VL, for 32 x 32 in
    Qwen3-VL. None leaves it to the checkpoint, whose frames are often large.

    positions: of what is kept in the language model. "packed" counts it without gaps, as most methods are published for
    LLaVA; "original" leaves each token the position that it has in the whole video, and the text that follows its own.
    "auto" is original for Qwen-VL, whose positions are in time, height and width, and packed for the others.

    LLaVA's geometry, "auto" being what the checkpoint was trained with. pool: 2 x 2, "bilinear" (LLaVA-OneVision) or
    "average" (LLaVA-Video). newline: a learned one after the video ("one_token", LLaVA-OneVision), after every row of
    which a token is kept ("grid", LLaVA-Video) or whatever is kept ("every_row", as published), after every frame one
    ("frame") or as many as it has rows ("frame_rows"); "none" drops it, as the published script does for
    LLaVA-OneVision. token_order: "raster", by frame, row and column, or "method", as the method emits what it keeps;
    "auto" is raster where newlines divide the video. time_instruction: tell when the frames are, as LLaVA-Video's demo
    does.

    For large models. attention: "flash" is FlashAttention 2, for CUDA devices. quantize: the language model's linear
    layers in so many bits (bitsandbytes); vision tower, projector and last layer stay as they are. device_map: "auto"
    spreads the parts over all GPUs, and what does not fit over host memory and disk (accelerate).
    """

    name: str | None = None
    revision: str | None = None
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    offline: bool = False
    template: Literal["native", "hf"] = "native"
    pool: Literal["auto", "bilinear", "average"] = "auto"
    newline: Literal["auto", "one_token", "grid", "every_row", "frame", "frame_rows", "none"] = "auto"
    token_order: Literal["auto", "raster", "method"] = "auto"
    positions: Literal["auto", "packed", "original"] = "auto"
    time_instruction: bool = False
    siglip_head: str | None = None
    encode_batch_frames: int | None = None
    frame_pixels: int | None = None
    attention: Literal["sdpa", "flash"] = "sdpa"
    quantize: Literal["none", "4bit", "8bit"] = "none"
    device_map: Literal["none", "auto"] = "none"

    def __post_init__(self) -> None:
        base = self.device.partition(":")[0]
        check(
            device=(
                base in {"auto", "cpu", "cuda", "mps"},
                f"must be auto, cpu, cuda, cuda:N or mps, got {self.device!r}",
            ),
            device_map=(
                self.device_map == "none" or self.device == "auto",
                f"auto chooses the devices itself; leave out the device, {self.device}",
            ),
            encode_batch_frames=(
                self.encode_batch_frames is None or self.encode_batch_frames >= 1,
                f"must be at least 1, got {self.encode_batch_frames}",
            ),
            frame_pixels=(
                self.frame_pixels is None or self.frame_pixels >= 1,
                f"must be at least 1, got {self.frame_pixels}",
            ),
        )


@dataclass(frozen=True, slots=True)
class TransportConfig:
    """Sinkhorn. stopping "published" ends when mean |r - r_previous| < tolerance, which fires after
    about two iterations; "marginal" ends when the plan's row sums are within tolerance (L1). solver "auto" takes the
    Triton kernel on CUDA devices, "torch" never does.
    """

    epsilon: float = 0.1
    max_iterations: int = 100
    tolerance: float = 1e-2
    stopping: Literal["published", "marginal"] = "published"
    solver: Literal["auto", "torch"] = "auto"

    def __post_init__(self) -> None:
        check(
            epsilon=(self.epsilon >= 1e-3, f"must be at least 0.001, got {self.epsilon}"),
            max_iterations=(self.max_iterations >= 1, "must be at least 1"),
            tolerance=(self.tolerance > 0, "must be above 0"),
        )


@dataclass(frozen=True, slots=True)
class AnchorConfig:
    """Phase I selection. count: anchors M per frame before pooling; None derives it from the ratio.

    A tower with fewer blocks than a layer asks for uses the block at the same relative depth.
    """

    count: int | None = None
    local_ratio: Share = 0.5
    windows_per_side: int = 3
    shallow_layer: int = 5
    deep_layer: int = -2

    def __post_init__(self) -> None:
        check(
            count=(self.count is None or self.count >= 1, f"must be at least 1, got {self.count}"),
            local_ratio=(0 <= self.local_ratio <= 1, f"must be in [0, 1], got {self.local_ratio}"),
            windows_per_side=(self.windows_per_side >= 1, "must be at least 1"),
        )


@dataclass(frozen=True, slots=True)
class IntraConfig:
    """Phase I transport within a frame. The paper's equation has spatial_weight 0 and nearest_blend 0;
    the code behind its numbers has these defaults. mass "plan": the plan's total mass is 1 (published);
    "token": one unit for each unselected patch.
    """

    enabled: bool = True
    spatial_weight: float = 0.5
    nearest_blend: float = 0.1
    lambda_intra: float = 1.0
    mass: Literal["plan", "token"] = "plan"
    transport: TransportConfig = field(default_factory=TransportConfig)

    def __post_init__(self) -> None:
        check(
            spatial_weight=(self.spatial_weight >= 0, "must not be negative"),
            nearest_blend=(0 <= self.nearest_blend <= 1, "must be in [0, 1]"),
            lambda_intra=(self.lambda_intra >= 0, "must not be negative"),
        )


@dataclass(frozen=True, slots=True)
class InterConfig:
    """Phase II transport within a clip. keyframe: emit the keyframe's tokens as they were and again
    after absorbing ("both", published), or only one of the two. distinct: with `budget: paper`, the
    tokens whose best match is below the keep_ratio quantile (code) or below tau (paper).
    """

    enabled: bool = True
    sigma_frames: float = 1.5
    lambda_inter: float = 1.0
    keyframe: Literal["both", "original", "merged"] = "both"
    distinct: Literal["quantile", "threshold"] = "quantile"
    keep_ratio: Share = 0.3
    tau: float = 0.5
    transport: TransportConfig = field(default_factory=TransportConfig)

    def __post_init__(self) -> None:
        check(
            sigma_frames=(self.sigma_frames > 0, "must be above 0"),
            lambda_inter=(self.lambda_inter >= 0, "must not be negative"),
            keep_ratio=(0 <= self.keep_ratio <= 1, f"must be in [0, 1], got {self.keep_ratio}"),
            tau=(0 <= self.tau <= 1, f"must be in [0, 1], got {self.tau}"),
        )


@dataclass(frozen=True, slots=True)
class ClipConfig:
    """How frames are grouped: runs of `frames`, or "dynamic" cuts where consecutive frame embeddings
    are among the `segments` - 1 least similar or less similar than `threshold` (FastVID's rule).
    """

    mode: Literal["fixed", "dynamic"] = "fixed"
    frames: int = 4
    segments: int = 8
    threshold: float = 0.8

    def __post_init__(self) -> None:
        check(
            frames=(self.frames >= 1, f"must be at least 1, got {self.frames}"),
            segments=(self.segments >= 1, f"must be at least 1, got {self.segments}"),
            threshold=(-1 <= self.threshold <= 1, f"must be in [-1, 1], got {self.threshold}"),
        )


@dataclass(frozen=True, slots=True)
class AOTConfig:
    """AOT. budget "exact" keeps round(ratio * F * n) tokens; "paper" lets anchors.count and
    inter.keep_ratio decide, as published, so that the number kept depends on the content.
    """

    budget: Literal["exact", "paper"] = "exact"
    anchors: AnchorConfig = field(default_factory=AnchorConfig)
    intra: IntraConfig = field(default_factory=IntraConfig)
    inter: InterConfig = field(default_factory=InterConfig)
    clips: ClipConfig = field(default_factory=ClipConfig)


@dataclass(frozen=True, slots=True)
class GenerationConfig:
    """How the answer is decoded. temperature 0 is greedy."""

    max_new_tokens: int = 256
    min_new_tokens: int = 0
    temperature: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        check(
            max_new_tokens=(self.max_new_tokens >= 1, "must be at least 1"),
            min_new_tokens=(
                0 <= self.min_new_tokens <= self.max_new_tokens,
                f"must be in 0 .. max_new_tokens = {self.max_new_tokens}, got {self.min_new_tokens}",
            ),
            temperature=(
                self.temperature == 0 or _LEAST_TEMPERATURE <= self.temperature < math.inf,
                f"must be 0 or at least {_LEAST_TEMPERATURE:g}, got {self.temperature:g}",
            ),
            seed=(0 <= self.seed < 2**63, f"must be in 0 .. 2^63 - 1, got {self.seed}"),
        )


@dataclass(frozen=True, slots=True)
class InnerConfig:
    """A reduction inside the language model, after any method. budget "total": the ratio is the mean over its layers
    of the visual tokens in each, so the method keeps more; "extra": the method keeps the ratio, and the reduction saves
    on top, with its published constants. settings: of reductions by name, for instance {"fastv": {"layer": 3}}.
    """

    name: str | None = None
    budget: Literal["total", "extra"] = "total"
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        strange = [name for name in self.settings if not _is_inner(name)]
        valid = ", ".join(names("inner"))
        check(
            name=(self.name is None or _is_inner(self.name), _unknown(self.name or "", "inner")),
            settings=(not strange, f"has no inner reduction {', '.join(strange)} (valid: {valid})"),
        )


@dataclass(frozen=True, slots=True)
class Config:
    """One run. ratio: the share of visual tokens kept, in (0, 1]; 1 bypasses every method. methods: settings of
    methods by name, for instance {"fastvid": {"blend": 0.7}}; those of AOT are in `aot`.
    """

    ratio: Share = 0.1
    method: str = "aot"
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    aot: AOTConfig = field(default_factory=AOTConfig)
    methods: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    inner: InnerConfig = field(default_factory=InnerConfig)
    generation: GenerationConfig = field(default_factory=GenerationConfig)

    def __post_init__(self) -> None:
        strange = [name for name in self.methods if not _is_method(name)]
        check(
            ratio=(0 < self.ratio <= 1, f"must be in (0, 1], got {self.ratio:g}"),
            method=(_is_method(self.method), _unknown(self.method, "methods")),
            methods=(not strange, f"has no method {', '.join(strange)} (valid: {', '.join(names())})"),
        )

    @property
    def compresses(self) -> bool:
        """Whether tokens are dropped before the language model."""
        return self.method != "none" and self.ratio < 1

    @property
    def reduces_inside(self) -> bool:
        """Whether tokens are dropped inside the language model."""
        return self.inner.name is not None and (self.ratio < 1 or self.inner.budget == "extra")

    @property
    def label(self) -> str:
        """Return the method, followed by a plus and the inner reduction."""
        return f"{self.method}+{self.inner.name}" if self.inner.name else self.method

    @property
    def uses_aot(self) -> bool:
        """Whether the settings under `aot` are those of the method."""
        return self.method in AOT_METHODS

    @property
    def resolved_aot(self) -> AOTConfig:
        """The settings under `aot` as the method uses them."""
        if self.method != _DYNAMIC:
            return self.aot
        return replace(self.aot, clips=replace(self.aot.clips, mode="dynamic"))

    @property
    def has_budget(self) -> bool:
        """Whether the ratio says how many tokens are kept; otherwise the content decides, or all are."""
        if self.ratio == 1:
            return True
        if self.uses_aot:
            return self.aot.budget == "exact"
        return self.method != "none" and not self.methods.get(self.method, {}).get("paper_exact")

    def token_budget(self, frames: int, tokens_per_frame: int) -> int:
        """round(R * F * n), newlines not counted: how many tokens the ratio promises."""
        return round(self.ratio * frames * tokens_per_frame)

    def to_dict(self) -> dict[str, Any]:
        """Every resolved value, as plain types."""
        return asdict(self)


def _is_method(name: str) -> bool:
    return name in METHODS or name in names()  # plug-ins are looked for only where the first is not enough


def _is_inner(name: str) -> bool:
    return name in INNER or name in names("inner")


def _unknown(name: str, kind: Kind) -> str:
    known = names(kind)
    return "" if name in known else f"must be one of {', '.join(known)}, got {name!r}; {hint(name, kind)}"


def build_config(settings: Settings) -> Config:
    """Build a `Config` from nested settings, over what the model's name settles.

    Raises:
        ConfigError: listing every unknown key (with the valid ones), ill-typed and out-of-range value.
    """
    return build_settings(Config, merge_settings(_model_settings(settings), settings))


def _model_settings(settings: Settings) -> Settings:
    """What the name of a model settles: for the bundled one, how many frames it was trained to look at."""
    model = settings.get("model")
    is_bundled = isinstance(model, Mapping) and model.get("name") == BUNDLED_MODEL
    return preset_settings(BUNDLED_MODEL) if is_bundled else {}
