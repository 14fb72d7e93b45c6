"""Measure the time and memory of each stage, with and without compression."""

from __future__ import annotations

from aot.bench.compressor import CompressorSize, time_compressor
from aot.bench.synthetic import SYNTHETIC, synthetic_model
from aot.bench.timing import Figure
from aot.bench.video import VideoTimes, time_video

__all__ = ["SYNTHETIC", "CompressorSize", "Figure", "VideoTimes", "synthetic_model", "time_compressor", "time_video"]
