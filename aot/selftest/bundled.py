"""Provide the inputs of the checks: the bundled video and model, and the machine's devices."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aot.config.schema import BUNDLED_MODEL, Config, build_config
from aot.config.strict import merge_settings
from aot.shapes.world import Scene, sample_scene

if TYPE_CHECKING:
    from aot.models import VideoModel
    from aot.types import CompressedTokens

__all__ = ["FRAME_SIDE", "answered", "clip_file", "compressed", "config_of", "devices", "dtypes", "loaded", "scene"]

FRAME_SIDE = 90  # pixels, of the video and of the model's input
_SEED = 125  # a scene with motion and a change of color


def scene() -> Scene:
    """Return the scene that the bundled video shows."""
    return sample_scene(_SEED)


@contextmanager
def clip_file() -> Iterator[Path]:
    """Yield the path of the bundled video; this also works from a zip archive."""
    with as_file(files("aot.selftest") / "clip.mp4") as path:
        yield path


def devices() -> tuple[str, ...]:
    """Return the CPU and every accelerator that this torch can use."""
    import torch

    found = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    return (*found, "mps") if torch.backends.mps.is_available() else tuple(found)


def dtypes(device: str) -> tuple[str, ...]:
    """Return the names of the dtypes in which `device` can run a model."""
    import torch

    from aot.models.loading.checkpoints import pick_dtype

    lacks_bfloat16 = device.startswith("cuda") and pick_dtype("auto", torch.device(device)) is not torch.bfloat16
    return ("float32", "float16") if lacks_bfloat16 else ("float32", "bfloat16", "float16")


def config_of(**overrides: Any) -> Config:
    """Return settings of the bundled model with `overrides`; the user's settings are not read."""
    return build_config(merge_settings({"model": {"name": BUNDLED_MODEL}}, overrides))


@cache
def loaded(device: str, dtype: str) -> VideoModel:
    """Return the bundled model on `device` in `dtype`; repeated calls share it."""
    from aot.models import load_model

    return load_model(config_of(model={"device": device, "dtype": dtype}).model)


def compressed(device: str, dtype: str) -> CompressedTokens:
    """Return the tokens of the bundled video, compressed to 25 % by the default method."""
    # At a ratio of 0.1, some answers depend on rounding.
    from aot.pipeline.run import Pipeline

    with clip_file() as clip:
        return Pipeline(loaded(device, dtype), config_of(ratio=0.25)).compress(clip).tokens


def answered(device: str, dtype: str, tokens: CompressedTokens, question: str) -> str:
    """Return the bundled model's answer to `question`, from the kept tokens `tokens`."""
    from aot.pipeline.run import Pipeline

    return "".join(Pipeline(loaded(device, dtype), config_of()).answer(tokens, question))
