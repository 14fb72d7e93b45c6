"""From a file to `VideoFrames`: plan, decode and shrink one frame at a time, and say what went wrong."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from aot.errors import VideoError
from aot.types import VideoFrames
from aot.video import decode_decord, decode_pyav
from aot.video.picture import resize
from aot.video.probe import index_file
from aot.video.sampling import plan_frames
from aot.video.source import open_source, source_name

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator
    from pathlib import Path

    from torch import Tensor

    from aot.config import SamplingConfig
    from aot.video.picture import Picture
    from aot.video.probe import FrameIndex
    from aot.video.sampling import FramePlan

__all__ = ["decode"]

_READERS = {"pyav": decode_pyav.read_pictures, "decord": decode_decord.read_pictures}


def decode(
    path: str | Path,
    sampling: SamplingConfig,
    *,
    size: tuple[int, int] | None = None,
    on_frame: Callable[[int, int], None] | None = None,
) -> VideoFrames:
    """Decode the frames `sampling` asks for, at `size` (rows, cols), or at the source's own size if None.

    Only one frame at a time is held at the source's size. `on_frame(done, planned)` follows each frame.

    Raises:
        VideoError: the file is unreadable, the range holds no frame, or none of its frames decodes.
        ConfigError: the decoder asked for is not installed.
    """
    with open_source(path) as file:
        index = index_file(file, source_name(path))
        plan = plan_frames(index, sampling)
        with closing(_READERS[sampling.decoder](file, index, plan.positions)) as pictures:
            pixels, intact, damaged = _collect(pictures, len(plan.positions), size, on_frame)
    kept = intact | damaged
    if pixels is None:
        raise VideoError(
            f"none of the {len(plan.positions)} frames sampled from {index.info.path} can be decoded: "
            "copy the file again, or choose another --start and --end"
        )
    times = tuple(t for position, t in zip(plan.positions, plan.timestamps_s, strict=True) if position in kept)
    notices = (*_header_notice(index), *plan.notices, *_damage_notices(plan, kept, damaged))
    return VideoFrames(pixels[: len(kept)], times, index.info, notices)


def _collect(
    pictures: Generator[Picture, None, None],
    planned: int,
    size: tuple[int, int] | None,
    on_frame: Callable[[int, int], None] | None,
) -> tuple[Tensor | None, set[int], set[int]]:
    """Pixels [planned, 3, H, W] (None: no picture came), and the positions of the intact and damaged ones."""
    import torch

    pixels: Tensor | None = None
    intact: set[int] = set()
    damaged: set[int] = set()
    for done, picture in enumerate(pictures):
        image = resize(picture.rgb, size)
        if pixels is None:
            # Without a size, the first frame's holds for all: a stream may change it midway.
            size = (image.shape[1], image.shape[2])
            pixels = torch.empty((planned, 3, *size), dtype=torch.uint8)
        pixels[done] = image
        (damaged if picture.damaged else intact).add(picture.position)
        if on_frame is not None:
            on_frame(done + 1, planned)
    return pixels, intact, damaged


def _header_notice(index: FrameIndex) -> tuple[str, ...]:
    found_s, announced_s = index.info.duration_s, index.header_duration_s
    # Sound often runs on a little after the last picture.
    if found_s >= 0.95 * announced_s - 0.5:
        return ()
    return (
        f"the file announces {announced_s:.1f} s but its pictures end after {found_s:.1f} s; it may have been cut off",
    )


def _damage_notices(plan: FramePlan, kept: Collection[int], damaged: Collection[int]) -> tuple[str, ...]:
    times, planned = dict(zip(plan.positions, plan.timestamps_s, strict=True)), len(plan.positions)
    lost = [position for position in plan.positions if position not in kept]
    notices = []
    if lost:
        notices.append(
            f"{len(lost)} of {planned} sampled frames could not be decoded "
            f"(damaged data near {times[lost[0]]:.1f} s); going on with {len(kept)}"
        )
    if damaged:
        notices.append(
            f"{len(damaged)} of {planned} sampled frames are damaged or follow damaged data "
            f"(near {times[min(damaged)]:.1f} s) and may look wrong"
        )
    return tuple(notices)
