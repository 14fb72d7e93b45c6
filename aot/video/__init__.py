"""A video file in, sampled frames out.

`open_file` reads when frames are shown, once for all that follows (`probe` returns just that), `plan_frames` chooses
among them, `decode` does both and returns pixels, `open_frames` gives them piece by piece, `open_video` more than once.
Importing this does not import torch.
"""

from __future__ import annotations

from aot.video.decode import OpenVideo, decode, open_frames, open_video
from aot.video.file import VideoFile, open_file, probe
from aot.video.probe import FrameIndex
from aot.video.sampling import FramePlan, plan_frames, segment_lengths, spread
from aot.video.source import open_source

__all__ = [
    "FrameIndex", "FramePlan", "OpenVideo", "VideoFile", "decode", "open_file", "open_frames", "open_source",
    "open_video", "plan_frames", "probe", "segment_lengths", "spread",
]  # fmt: skip
