"""Speed and memory of every stage, compressed against uncompressed."""

from __future__ import annotations

from aot.bench.compressor import CompressorSize, time_compressor
from aot.bench.synthetic import SYNTHETIC, synthetic_model
from aot.bench.timing import Figure
from aot.bench.video import time_video

__all__ = ["SYNTHETIC", "CompressorSize", "Figure", "synthetic_model", "time_compressor", "time_video"]
