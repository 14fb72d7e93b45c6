"""Check that every installed decoder returns the frames that were drawn."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from importlib import import_module
from typing import Literal

import numpy as np

from aot.config.schema import SamplingConfig
from aot.selftest.bundled import FRAME_SIDE, clip_file, scene
from aot.selftest.check import Check, CheckFailedError, CheckSkipped

__all__ = ["checks"]

_Decoder = Literal["pyav", "decord", "torchcodec"]
_FRAMES = 8
# Mean difference in a frame, 0 to 255. H.264 causes 2 to 4; a wrong frame or swapped colors 20.
_DIFFERENCE_LIMIT = 8.0


def checks() -> Iterator[Check]:
    """Yield one check per decoder."""
    decoders: tuple[_Decoder, ...] = ("pyav", "decord", "torchcodec")
    for decoder in decoders:
        yield Check(f"decode with {decoder}", partial(_decode, decoder))


def _decode(decoder: _Decoder) -> str:
    from aot.shapes.render import render
    from aot.video import decode

    if decoder != "pyav":
        _import(decoder)
    with clip_file() as clip:
        found = decode(clip, SamplingConfig(frames=_FRAMES, decoder=decoder), size=(FRAME_SIDE, FRAME_SIDE))
    drawn = render(scene(), found.timestamps_s, FRAME_SIDE).transpose(0, 3, 1, 2)
    differences = np.abs(found.pixels.numpy().astype(float) - drawn).mean((1, 2, 3))
    detail = f"{len(differences)} frames, {differences.max():.1f} of 255 from what was drawn"
    if len(differences) != _FRAMES or differences.max() > _DIFFERENCE_LIMIT or found.notices:
        raise CheckFailedError(f"{detail} (at most {_DIFFERENCE_LIMIT:.0f}) {' '.join(found.notices)}")
    return detail


def _import(decoder: str) -> None:
    try:
        import_module(decoder)
    except (ImportError, OSError, RuntimeError):  # torchcodec raises the latter two without its libraries
        raise CheckSkipped(
            "not installed or cannot be loaded; --decoder pyav, the default, reads every video"
        ) from None
