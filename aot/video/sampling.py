"""Choose frames by arithmetic on the frame times of a `FrameIndex`."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aot.errors import VideoError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from aot.config.schema import SamplingConfig
    from aot.video.probe import FrameIndex

__all__ = ["FramePlan", "plan_frames", "segment_lengths", "spread"]

_UNIT = 8  # frames; no clip of 2, 4 or 8 frames crosses the end of a chunk


@dataclass(frozen=True, slots=True)
class FramePlan:
    """The frames to decode.

    Attributes:
        positions: indices of the frames in `FrameIndex.pts`, ascending and distinct.
        timestamps_s: display time of each frame, in seconds after the video's first frame.
        notices: warnings for the user, one sentence each, for instance of too few frames.
    """

    positions: tuple[int, ...]
    timestamps_s: tuple[float, ...]
    notices: tuple[str, ...] = ()

    def at(self, times_s: Collection[float]) -> FramePlan:
        """Return a plan with only those frames whose `timestamps_s` are in `times_s`."""
        wanted = set(times_s)
        chosen = [pair for pair in zip(self.positions, self.timestamps_s, strict=True) if pair[1] in wanted]
        return FramePlan(tuple(p for p, _ in chosen), tuple(t for _, t in chosen), self.notices)


def plan_frames(index: FrameIndex, sampling: SamplingConfig) -> FramePlan:
    """Choose frames among those from `sampling.start_s` to `sampling.end_s`, both included.

    Raises:
        VideoError: If no frame is shown in the range, or `sampling` is strict and the file is cut
            off or partly unreadable.
    """
    cut_off, unread = _cut_off_notices(index), _unread_notices(index)
    if sampling.strict and cut_off:
        raise VideoError(f"{index.info.path}: {cut_off[0]}, which --strict refuses: copy or download it again")
    if sampling.strict and unread:
        raise VideoError(f"{index.info.path}: {unread[0]}, which --strict refuses: convert its parts one by one")
    times = index.times_s()
    candidates = _frames_in_range(index, times, sampling)
    if sampling.fps is not None:
        chosen, notices = _per_second(index, times, candidates, sampling, sampling.fps)
    elif len(candidates) <= sampling.frames:
        chosen, notices = list(candidates), _too_few(len(candidates), index, sampling)
    elif sampling.spacing == "time":
        chosen, notices = _evenly_in_time(times, candidates, sampling.frames, _tolerance_s(index))
    else:
        chosen, notices = [candidates[k] for k in spread(len(candidates), sampling.frames)], ()
    if sampling.seek == "keyframe":
        chosen, moved = _at_keyframes(index, times, candidates, chosen)
        notices = (*notices, *moved)
    notices = (*cut_off, *unread, *_restart_notices(index), *_picture_notices(index), *notices)
    return FramePlan(tuple(chosen), tuple(times[position] for position in chosen), notices)


def _cut_off_notices(index: FrameIndex) -> tuple[str, ...]:
    found_s, announced_s = index.info.duration_s, index.header_duration_s
    # Sound often ends a little after the last picture.
    if found_s >= 0.95 * announced_s - 0.5:
        return ()
    return (
        f"the file announces {announced_s:.1f} s but its pictures end after {found_s:.1f} s; it may have been cut off",
    )


def _unread_notices(index: FrameIndex) -> tuple[str, ...]:
    if not index.unread:
        return ()
    return (f"another recording follows after {index.info.duration_s:.1f} s in the file, which cannot be read",)


def _restart_notices(index: FrameIndex) -> tuple[str, ...]:
    if not index.restarts:
        return ()
    return (f"the timestamps of {index.info.path} restart: its {index.restarts + 1} parts are shown one after another",)


def _picture_notices(index: FrameIndex) -> tuple[str, ...]:
    if not _is_picture(index):
        return ()
    return (f"{index.info.path} is a picture: one frame, without any motion",)


def _is_picture(index: FrameIndex) -> bool:
    """Return whether the file is a single picture and not a video that was cut off."""
    return index.info.frames == 1 and index.info.header_frames <= 1 and not _cut_off_notices(index)


def spread(count: int, picks: int) -> list[int]:
    """Return `picks` evenly spread indices below `count`, or all indices if these are fewer.

    The indices are linspace(0, count - 1, picks), truncated to whole numbers as in LLaVA.
    """
    if picks >= count:
        return list(range(count))
    if picks == 1:
        return [0]
    # Use numpy's order of operations for equal rounding: first the step; the last value is exact.
    step = (count - 1) / (picks - 1)
    return [int(k * step) for k in range(picks - 1)] + [count - 1]


def _frames_in_range(index: FrameIndex, times: Sequence[float], sampling: SamplingConfig) -> range:
    first = bisect_left(times, sampling.start_s or 0.0)
    stop = len(times) if sampling.end_s is None else bisect_right(times, sampling.end_s)
    if first >= stop:
        end = "the end" if sampling.end_s is None else f"{sampling.end_s:g} s"
        raise VideoError(
            f"{index.info.path} lasts {index.info.duration_s:.2f} s and shows no new frame from "
            f"{sampling.start_s or 0:g} s to {end}: choose another --start and --end"
        )
    return range(first, stop)


def _too_few(found: int, index: FrameIndex, sampling: SamplingConfig) -> tuple[str, ...]:
    if found == sampling.frames or _is_picture(index):
        return ()
    where = "video" if sampling.start_s is None and sampling.end_s is None else "range"
    if found == 1:
        return (f"the {where} has only 1 frame; it is used instead of {sampling.frames}",)
    return (f"the {where} has only {found} frames; all {found} are used instead of {sampling.frames}",)


def _tolerance_s(index: FrameIndex) -> float:
    """Return by how many seconds a stored time may be late, because containers round to ticks."""
    return min(float(index.time_base) / 2, 1e-3) + 1e-9


def _per_second(
    index: FrameIndex, times: Sequence[float], candidates: range, sampling: SamplingConfig, fps: float
) -> tuple[list[int], tuple[str, ...]]:
    """Return the frames on the screen at the instants start + k / fps (k >= 0), and notices.

    A frame is on the screen at an instant if and only if more instants precede the next frame than
    precede this frame. So the cost depends on the number of frames, not on `fps`.
    """
    start, tolerance = sampling.start_s or 0.0, _tolerance_s(index)
    # An instant at `end_s` counts. At the end of the video, no frame is on the screen.
    end = min(index.info.duration_s - tolerance, math.inf if sampling.end_s is None else sampling.end_s)
    before = [max(0, math.ceil((times[k] - start - tolerance) * fps)) for k in candidates]
    before[0] = 0
    before.append(math.floor((end - start + 1e-9) * fps) + 1)
    chosen = [k for k, now, later in zip(candidates, before, before[1:], strict=False) if later > now]
    if len(chosen) <= sampling.max_frames:
        return chosen, ()
    notice = f"--fps {fps:g} makes {len(chosen)} frames; thinned evenly to {sampling.max_frames} (see --max-frames)"
    return [chosen[k] for k in spread(len(chosen), sampling.max_frames)], (notice,)


def _evenly_in_time(
    times: Sequence[float], candidates: range, frames: int, tolerance_s: float
) -> tuple[list[int], tuple[str, ...]]:
    """Return the frames on the screen at `frames` evenly spaced instants, and notices."""
    first, last = times[candidates[0]], times[candidates[-1]]
    instants = [first + k * (last - first) / max(1, frames - 1) for k in range(frames)]
    shown = {bisect_right(times, instant + tolerance_s, 0, candidates.stop) - 1 for instant in instants}
    if len(shown) == frames:
        return sorted(shown), ()
    return sorted(shown), (
        f"only {len(shown)} different frames are shown at the {frames} evenly spaced times; using these",
    )


def _at_keyframes(
    index: FrameIndex, times: Sequence[float], candidates: range, chosen: Sequence[int]
) -> tuple[list[int], tuple[str, ...]]:
    """Return the keyframes among `candidates` nearest in time to `chosen`, and notices."""
    first, stop = (bisect_left(index.keyframes, end) for end in (candidates.start, candidates.stop))
    if first == stop:
        return list(chosen), ("no keyframe is in the range: --seek keyframe has no effect",)
    offs = dict[int, float]()  # by keyframe, how far off its time is, at most
    for wanted in chosen:
        later = bisect_left(index.keyframes, wanted, first, stop)
        near = index.keyframes[max(first, later - 1) : min(stop, later + 1)]
        off, keyframe = min((abs(times[keyframe] - times[wanted]), keyframe) for keyframe in near)
        offs[keyframe] = max(off, offs.get(keyframe, 0.0))
    distinct, off_s = sorted(offs), max(offs.values())
    if distinct == list(chosen):
        return distinct, ()
    moved = len(set(chosen) - set(distinct))
    few = f"; {len(distinct)} different frames remain" if len(distinct) < len(chosen) else ""
    return distinct, (
        f"--seek keyframe: {moved} of {len(chosen)} sampled times moved to keyframes, by up to {off_s:.1f} s{few}",
    )


def segment_lengths(frames: int, most: int, together: int = 1) -> list[int]:
    """Divide `frames` frames into the fewest chunks of at most `most` frames; return their lengths.

    The lengths are similar, because a short last chunk could not keep its share of the tokens. All
    lengths except the last are multiples of `together`. `most` must be a multiple of `together` if
    there are several chunks.
    """
    uncut = math.lcm(_UNIT, together)
    unit = uncut if most % uncut == 0 and most > uncut else together
    units, runs = math.ceil(frames / unit), math.ceil(frames / most)
    longer = units % runs  # number of longer chunks; they come last, since the last unit may not be full
    lengths = [unit * (units // runs + (number >= runs - longer)) for number in range(runs)]
    lengths[-1] -= unit * units - frames
    return lengths
