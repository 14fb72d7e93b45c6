"""Read sampled frames from a video file.

`open_file` yields a file with its frame index; `probe` returns the frame index alone.
`plan_frames` chooses frames, `decode` returns their pixels, `open_frames` streams them in chunks,
and `open_video` can stream them several times. Importing this package does not import torch.
"""

from __future__ import annotations

from aot.video.decode import OpenVideo, VideoSource, decode, open_frames, open_video
from aot.video.file import VideoFile, open_file, open_videos, probe
from aot.video.probe import FrameIndex
from aot.video.sampling import FramePlan, plan_frames, segment_lengths, spread
from aot.video.source import open_source

__all__ = [
    "FrameIndex", "FramePlan", "OpenVideo", "VideoFile", "VideoSource", "decode", "open_file", "open_frames",
    "open_source", "open_video", "open_videos", "plan_frames", "probe", "segment_lengths", "spread",
]  # fmt: skip
