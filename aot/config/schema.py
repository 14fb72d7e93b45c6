"""Define all settings as frozen dataclasses that check their values."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from aot.config.notations import Seconds, Share
from aot.config.presets import preset_settings
from aot.config.setting import CheckedSettings, Conflicts, Rule, setting
from aot.config.strict import Settings, build_settings, merge_settings
from aot.plugins import INNER, METHODS, Kind, hint, names

__all__ = [
    "AOT_METHODS",
    "BUNDLED_MODEL",
    "REAL_MODEL",
    "AOTConfig",
    "AnchorConfig",
    "ClipConfig",
    "Config",
    "EarlyTomConfig",
    "GenerationConfig",
    "InnerConfig",
    "InterConfig",
    "IntraConfig",
    "ModelConfig",
    "SamplingConfig",
    "StcConfig",
    "TowerConfig",
    "TransportConfig",
    "build_config",
    "model_settings",
]


# The bundled model; a preset has the same name. A folder of this name is given as ./shapes.
BUNDLED_MODEL = "shapes"
REAL_MODEL = "llava-hf/llava-onevision-qwen2-0.5b-ov-hf"  # the smallest for real videos
_MOST_FPS = 10**6  # products with times stay finite
# Logits divided by a temperature stay finite, also in 16 bits.
_TEMPERATURE = Rule("0 or at least 0.001", lambda value: value == 0 or 1e-3 <= value < math.inf)
_DEVICE = Rule(
    "auto, cpu, cuda, cuda:N or mps", lambda value: value.partition(":")[0] in {"auto", "cpu", "cuda", "mps"}
)
# The methods that use the settings under `aot`.
AOT_METHODS = tuple(name for name, where in METHODS.items() if where.startswith("aot.compression.aot.method:"))
_DYNAMIC = "aot-dyn"  # AOT with dynamic clips for every value of `aot.clips.mode`


def _are_ascending(text: str) -> bool:
    if not re.fullmatch("[0-9]+(,[0-9]+)*", text):
        return False
    numbers = [int(number) for number in text.split(",")]
    return numbers == sorted(set(numbers))


_BLOCKS = Rule("block numbers such as 6,21,23, in ascending order", lambda value: _are_ascending(str(value)))


@dataclass(frozen=True, slots=True)
class SamplingConfig(CheckedSettings):
    """Settings of sampling: which frames are read, and how many are compressed together."""

    frames: int = setting(32, "Number of frames, spread evenly over the range.", least=1)
    fps: float | None = setting(None, "Frames per second instead of a number of frames.", above=0, most=_MOST_FPS)
    start_s: Seconds | None = setting(None, "Start of the range.", least=0)
    end_s: Seconds | None = setting(None, "End of the range.")
    max_frames: int = setting(256, "The most frames that `fps` may give; more are thinned evenly.", least=1)
    segment_frames: int = setting(
        64,
        "Frames held and compressed together (a chunk); clips end with it, and longer videos take no more memory.",
        least=1,
    )
    spacing: Literal["index", "time"] = setting(
        "index", "Sample evenly by frame number or by time; these differ if the frame rate varies."
    )
    seek: Literal["exact", "keyframe"] = setting(
        "exact",
        "`keyframe` replaces each sampled frame by the keyframe nearest in time, which decodes many times faster; "
        "equal ones count once.",
    )
    decoder: Literal["pyav", "decord", "torchcodec"] = setting(
        "pyav", "Library that reads the file; torchcodec decodes on CUDA devices if its build can."
    )
    select_frames: int | None = setting(
        None,
        "Compress only this number of frames, those that match the question (`ask`, `compare`).",
        least=1,
    )
    duplicate_similarity: float = setting(
        0.95,
        "Two frames are not both selected if (1 + cosine) / 2 of their embeddings is above this, "
        "unless too few remain.",
        least=0,
        most=1,
    )
    strict: bool = setting(False, "Refuse a video that is damaged or truncated.")
    max_input_mb: int = setting(4096, "The most to download from an address or copy from a pipe, in MB.", least=1)

    def conflicts(self) -> Conflicts:
        """Yield a problem if `end_s` is not after `start_s`."""
        start, end = self.start_s or 0.0, self.end_s
        if end is not None and not start < end:  # nor is NaN
            yield "end_s", f"must be after the start ({start:g} s), got {end:g}"


@dataclass(frozen=True, slots=True)
class ModelConfig(CheckedSettings):
    """Settings of the model: which one, where and how it runs.

    `frame_pixels`: a token covers 28 x 28 pixels of two frames in Qwen2.5-VL, and 32 x 32 pixels in
    Qwen3-VL. The default frame size of a checkpoint is often large.

    `positions`: most methods for LLaVA were published with packed position ids. With original
    position ids, the text after the video is also numbered as if no token had been dropped. Qwen-VL
    has three position ids per token: time, height and width.

    `newline`: LLaVA's learned newline token is placed after the video ("one_token",
    LLaVA-OneVision), after every row with a kept token ("grid", LLaVA-Video), after every row
    ("every_row", as published), or after every frame: once ("frame") or once per row
    ("frame_rows"). "none" leaves it out, like the published script for LLaVA-OneVision.
    """

    name: str | None = setting(None, "A name on the Hugging Face hub or a local folder.")
    revision: str | None = setting(None, "Branch, tag or commit on the hub.")
    device: str = setting("auto", "Device that the model runs on.", rule=_DEVICE)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = setting(
        "auto", "Number format; `auto` is float32 on the CPU, bfloat16 or float16 on GPUs."
    )
    offline: bool = setting(False, "Use only what is on this machine.")
    template: Literal["native", "hf"] = setting(
        "native", "Wording of the prompt: that of the model's authors, or that of transformers."
    )
    pool: Literal["auto", "bilinear", "average"] = setting(
        "auto", "LLaVA: `bilinear` (LLaVA-OneVision), `average` (LLaVA-Video); `auto`: as trained."
    )
    newline: Literal["auto", "one_token", "grid", "every_row", "frame", "frame_rows", "none"] = setting(
        "auto", "LLaVA: where newline tokens are; `auto`: as trained."
    )
    token_order: Literal["auto", "raster", "method"] = setting(
        "auto",
        "LLaVA: by frame, row and column, or as the method emits its tokens; `auto` is raster where newlines divide "
        "the video.",
    )
    positions: Literal["auto", "packed", "original"] = setting(
        "auto",
        "Position ids of kept tokens: consecutive, or those in the whole video; `auto` is original for Qwen-VL.",
    )
    time_instruction: bool = setting(False, "LLaVA: list the times of the frames in the prompt.")
    siglip_head: str | None = setting(
        None,
        "SigLIP checkpoint whose pooling head gives frame embeddings (dynamic clips, frame selection, some methods).",
    )
    encode_batch_frames: int | None = setting(
        None, "Frames per batch of the vision tower; by default as many as fit into the free memory.", least=1
    )
    frame_pixels: int | None = setting(
        None,
        "Qwen-VL: the most pixels of a frame, and so the number of its tokens; by default the checkpoint's value.",
        least=1,
    )
    attention: Literal["sdpa", "flash"] = setting("sdpa", "Attention kernels; `flash` is FlashAttention 2 (CUDA only).")
    quantize: Literal["none", "4bit", "8bit"] = setting(
        "none", "Bits of the language model's linear layers (bitsandbytes); the last layer stays as it is."
    )
    device_map: Literal["none", "auto"] = setting(
        "none", "`auto`: parts over all GPUs, then host memory, then disk (accelerate)."
    )

    compile: bool = setting(
        False, "Compile parts of the model with torch.compile when it is loaded; pays for many videos or questions."
    )

    def conflicts(self) -> Conflicts:
        """Yield a problem if both `device_map` and `device` are set."""
        if self.device_map != "none" and self.device != "auto":
            yield "device_map", f"auto chooses the devices itself; leave out the device, {self.device}"


@dataclass(frozen=True, slots=True)
class TransportConfig(CheckedSettings):
    """Settings of Sinkhorn; with the published stopping rule, it takes about 2 iterations."""

    epsilon: float = setting(0.1, "Weight of the entropic regularization in the Sinkhorn transport.", least=1e-3)
    max_iterations: int = setting(100, "Maximum number of Sinkhorn iterations.", least=1)
    tolerance: float = setting(1e-2, "Sinkhorn stops below this.", above=0)
    stopping: Literal["published", "marginal"] = setting(
        "published", "`published`: at the mean change of the row scaling; `marginal`: at the error of the row sums."
    )
    solver: Literal["auto", "torch"] = setting(
        "auto", "`auto` takes the Triton kernel on CUDA devices; `torch` never does."
    )


@dataclass(frozen=True, slots=True)
class AnchorConfig(CheckedSettings):
    """Settings of phase I, the selection of anchors.

    If the vision tower has too few blocks for a layer index, the block at the same relative depth
    is used.
    """

    count: int | None = setting(None, "Anchors per frame before pooling; by default derived from the ratio.", least=1)
    local_ratio: Share = setting(0.5, "Share of the anchors that are local.", least=0, most=1)
    windows_per_side: int = setting(3, "The grid has this many windows per side for local anchors.", least=1)
    shallow_layer: int = setting(5, "Block whose attention ranks local anchors.")
    deep_layer: int = setting(-2, "Block whose attention ranks global anchors.")


@dataclass(frozen=True, slots=True)
class IntraConfig(CheckedSettings):
    """Settings of phase I, the transport within a frame; defaults as in the paper's code."""

    enabled: bool = setting(True, "Phase I, transport within a frame.")
    spatial_weight: float = setting(0.5, "Weight of the distance between patches in the cost; 0 in the paper.", least=0)
    nearest_blend: float = setting(
        0.1, "Share of the mean over nearest patches in an anchor; 0 in the paper.", least=0, most=1
    )
    lambda_intra: float = setting(1.0, "Weight of the transported patches against the anchor.", least=0)
    mass: Literal["plan", "token"] = setting(
        "plan", "`plan`: the mass of the plan sums to 1 (published); `token`: one unit per patch."
    )
    transport: TransportConfig = TransportConfig()


@dataclass(frozen=True, slots=True)
class InterConfig(CheckedSettings):
    """Settings of phase II, transport within a clip; tokens without a good match are distinct."""

    enabled: bool = setting(True, "Phase II, transport within a clip.")
    sigma_frames: float = setting(1.5, "Scale of the time term in the cost, in frames.", above=0)
    lambda_inter: float = setting(1.0, "Weight of the transported tokens against the keyframe token.", least=0)
    keyframe: Literal["both", "original", "merged"] = setting(
        "both", "Emit keyframe tokens as they were and merged (published), or only one of the two."
    )
    distinct: Literal["quantile", "threshold"] = setting(
        "quantile",
        "With `budget: paper`: distinct tokens are below a `quantile` (code) or a `threshold` (paper).",
    )
    keep_ratio: Share = setting(0.3, "The quantile.", least=0, most=1)
    tau: float = setting(0.5, "The threshold.", least=0, most=1)
    transport: TransportConfig = TransportConfig()


@dataclass(frozen=True, slots=True)
class ClipConfig(CheckedSettings):
    """Settings of the division of frames into clips; dynamic clips follow FastVID's rule."""

    mode: Literal["fixed", "dynamic"] = setting(
        "fixed", "Clips of fixed length, or clips that end where the picture changes."
    )
    frames: int = setting(4, "Frames per fixed clip.", least=1)
    segments: int = setting(8, "Dynamic: the least number of scenes.", least=1)
    threshold: float = setting(
        0.8, "Dynamic: cut where the cosine of neighboring frames is below this.", least=-1, most=1
    )


@dataclass(frozen=True, slots=True)
class AOTConfig:
    """Settings of AOT; with `budget: paper`, the anchors and `inter.keep_ratio` set the budget."""

    budget: Literal["exact", "paper"] = setting(
        "exact", "`exact` keeps exactly the ratio; `paper` keeps a number that depends on the content, as published."
    )
    anchors: AnchorConfig = AnchorConfig()
    intra: IntraConfig = IntraConfig()
    inter: InterConfig = InterConfig()
    clips: ClipConfig = ClipConfig()


@dataclass(frozen=True, slots=True)
class GenerationConfig(CheckedSettings):
    """Settings of the generation of answers."""

    max_new_tokens: int = setting(256, "The longest answer, in tokens.", least=1)
    min_new_tokens: int = setting(0, "The shortest answer, in tokens.", least=0)
    temperature: float = setting(0.0, "Sampling temperature; 0 always takes the most likely token.", rule=_TEMPERATURE)
    seed: int = setting(0, "Seed of the sampling at temperatures above 0.", least=0, most=2**63 - 1)

    def conflicts(self) -> Conflicts:
        """Yield a problem if `min_new_tokens` exceeds `max_new_tokens`."""
        if self.min_new_tokens > self.max_new_tokens:
            message = f"must be at most max_new_tokens = {self.max_new_tokens}, got {self.min_new_tokens}"
            yield "min_new_tokens", message


@dataclass(frozen=True, slots=True)
class InnerConfig(CheckedSettings):
    """Settings of a reduction inside the language model, which acts after any method.

    With `budget: total`, the method keeps more than the ratio, so that the mean share of tokens
    over the layers is the ratio. With `budget: extra`, the method keeps the ratio, and the
    reduction then drops more tokens, with its published constants.
    """

    name: str | None = setting(None, "A reduction inside the language model; names from `aot methods`.")
    budget: Literal["total", "extra"] = setting(
        "total",
        "`total`: the ratio is the mean over layers; `extra`: the reduction saves in addition to the ratio.",
    )
    settings: Mapping[str, Mapping[str, Any]] = setting(
        dict, "Settings of reductions by name, for instance `inner.settings.fastv.layer=3`."
    )

    def conflicts(self) -> Conflicts:
        """Yield a problem for unknown names of inner reductions."""
        if self.name is not None and not _is_known(self.name, "inner"):
            yield "name", _unknown(self.name, "inner")
        strange = [name for name in self.settings if not _is_known(name, "inner")]
        if strange:
            yield "settings", f"has no inner reduction {', '.join(strange)} (valid: {', '.join(names('inner'))})"


@dataclass(frozen=True, slots=True)
class StcConfig(CheckedSettings):
    """Settings of `--tower stc` (STC-Cacher, arXiv 2512.00891)."""

    interval: int = setting(2, "Frames from one reference to the next; 4 is faster and less accurate.", least=1)
    share: Share = setting(
        0.25, "Share of the tokens that a frame other than a reference computes anew in each block.", above=0, most=1
    )
    cut: float = setting(
        0.1,
        "A frame is a reference if its thumbnail differs by more than this (mean, 0 to 1) from the reference's; "
        "1 turns this off.",
        least=0,
        most=1,
    )


@dataclass(frozen=True, slots=True)
class EarlyTomConfig(CheckedSettings):
    """Settings of `--tower earlytom` (EarlyTom, arXiv 2605.30010)."""

    layers: str | int = setting(
        "6,21,23",
        "Numbers of the blocks of the vision tower after which frames are merged.",
        rule=_BLOCKS,
    )
    threshold: float = setting(
        0.6,
        "A segment ends where the moving average of similarities to its first frame is below this; frames merge only "
        "within a segment.",
        least=-1,
        most=1,
    )
    window: int = setting(8, "A segment has at most `window` - 1 frames.", least=2)
    ema: float = setting(0.9, "Weight of the newest similarity in the moving average.", above=0, most=1)
    paper_exact: bool = setting(
        False, "Lose the last frame but one of every segment of four frames or more, as the published code does."
    )


@dataclass(frozen=True, slots=True)
class TowerConfig(CheckedSettings):
    """Settings that reduce the work of the vision tower, with any method."""

    name: Literal["full", "stc", "earlytom"] = setting(
        "full",
        "Vision tower: all tokens of all frames, or (`stc`) frames reuse the work on a similar earlier frame, or "
        "(`earlytom`) similar frames are merged.",
    )
    stc: StcConfig = StcConfig()
    earlytom: EarlyTomConfig = EarlyTomConfig()


@dataclass(frozen=True, slots=True)
class Config(CheckedSettings):
    """Settings of one run."""

    ratio: Share = setting(0.1, "Share of the visual tokens to keep; 1 keeps all.", above=0, most=1)
    method: str = setting("aot", "The method; names from `aot methods`.")
    sampling: SamplingConfig = SamplingConfig()
    model: ModelConfig = ModelConfig()
    aot: AOTConfig = AOTConfig()
    methods: Mapping[str, Mapping[str, Any]] = setting(
        dict,
        "Settings of methods by name, for instance `methods.fastvid.own_weight=0.5`; those of AOT are under `aot`.",
    )
    inner: InnerConfig = InnerConfig()
    tower: TowerConfig = TowerConfig()
    generation: GenerationConfig = GenerationConfig()

    def conflicts(self) -> Conflicts:
        """Yield a problem for unknown names of methods."""
        if not _is_known(self.method, "methods"):
            yield "method", _unknown(self.method, "methods")
        strange = [name for name in self.methods if not _is_known(name, "methods")]
        if strange:
            yield "methods", f"has no method {', '.join(strange)} (valid: {', '.join(names())})"

    @property
    def compresses(self) -> bool:
        """Return whether tokens are dropped before the language model."""
        return self.method != "none" and self.ratio < 1

    @property
    def reduces_inside(self) -> bool:
        """Return whether tokens are dropped inside the language model."""
        return self.inner.name is not None and (self.ratio < 1 or self.inner.budget == "extra")

    @property
    def label(self) -> str:
        """Return the name of the method, with "+" and the name of the inner reduction if set."""
        return f"{self.method}+{self.inner.name}" if self.inner.name else self.method

    @property
    def uses_aot(self) -> bool:
        """Return whether the method uses the settings under `aot`."""
        return self.method in AOT_METHODS

    @property
    def resolved_aot(self) -> AOTConfig:
        """Return the settings under `aot`, with dynamic clips if the method is aot-dyn."""
        if self.method != _DYNAMIC:
            return self.aot
        return replace(self.aot, clips=replace(self.aot.clips, mode="dynamic"))

    @property
    def has_budget(self) -> bool:
        """Return whether the ratio, and not the content, sets the number of kept tokens."""
        if self.ratio == 1:
            return True
        if self.uses_aot:
            return self.aot.budget == "exact"
        return self.method != "none" and not self.methods.get(self.method, {}).get("paper_exact")

    def token_budget(self, frames: int, tokens_per_frame: int) -> int:
        """Return round(ratio * frames * tokens_per_frame), the budget without newline tokens."""
        return round(self.ratio * frames * tokens_per_frame)

    def to_dict(self) -> dict[str, Any]:
        """Return all settings as nested dicts of plain values."""
        return asdict(self)


def _is_known(name: str, kind: Kind) -> bool:
    # Search the plug-ins only if this package does not have the name.
    return name in (METHODS if kind == "methods" else INNER) or name in names(kind)


def _unknown(name: str, kind: Kind) -> str:
    return f"must be one of {', '.join(names(kind))}, got {name!r}; {hint(name, kind)}"


def build_config(settings: Settings) -> Config:
    """Build a `Config` from nested `settings`.

    If they select the bundled model, settings that they lack come from the preset of this model.

    Raises:
        ConfigError: If a key is unknown or a value is wrong. The error lists all problems.
    """
    return build_settings(Config, merge_settings(model_settings(settings), settings))


def model_settings(settings: Settings) -> Settings:
    """Return the preset of the bundled model if `settings` select that model, otherwise {}."""
    model = settings.get("model")
    is_bundled = isinstance(model, Mapping) and model.get("name") == BUNDLED_MODEL
    return preset_settings(BUNDLED_MODEL) if is_bundled else {}
