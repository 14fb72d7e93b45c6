"""A video file in, sampled frames out.

`probe` reads when frames are shown, `plan_frames` chooses among them, `decode` does both and returns
pixels, `open_frames` gives them piece by piece. Importing this does not import torch.
"""

from __future__ import annotations

from aot.video.decode import decode, open_frames
from aot.video.probe import FrameIndex, probe
from aot.video.sampling import FramePlan, plan_frames, segment_lengths
from aot.video.source import open_source

__all__ = ["FrameIndex", "FramePlan", "decode", "open_frames", "open_source", "plan_frames", "probe", "segment_lengths"]
