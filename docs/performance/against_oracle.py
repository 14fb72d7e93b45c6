"""Both phases of AOT against the straight-line oracle of the tests, on one frame and on a clip, interleaved.

PYTHONPATH=tests python docs/performance/against_oracle.py
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch

from aot.compression.aot.method import AnchorTransport
from aot.config.schema import AnchorConfig, AOTConfig, InterConfig
from aot.types import Pooling, VisualTokens
from tests.support import oracle

GRID, WIDTH, ANCHORS, KEEP_RATIO = (27, 27), 3584, 126, 0.2
ROUNDS = 5


def random_input(frames: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shallow and deep saliency [F, N] and features [F, N, D] that drift."""
    rng = np.random.default_rng(0)
    patches = GRID[0] * GRID[1]
    features = rng.normal(size=(patches, WIDTH)) + 0.5 * rng.normal(size=(frames, patches, WIDTH))
    return rng.random((frames, patches)), rng.random((frames, patches)), features


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(frames: int) -> None:
    """One row: medians of both and of their ratio, after one round to warm up."""
    shallow, deep, features = random_input(frames)
    layers = AnchorConfig()
    visual = VisualTokens(
        features=torch.from_numpy(features).float(),
        grid=GRID,
        pool=Pooling("bilinear"),
        timestamps_s=tuple(map(float, range(frames))),
        saliency={
            layers.shallow_layer: torch.from_numpy(shallow).float(),
            layers.deep_layer: torch.from_numpy(deep).float(),
        },
    )
    settings = AOTConfig("paper", AnchorConfig(count=ANCHORS), inter=InterConfig(keep_ratio=KEEP_RATIO))
    method = AnchorTransport(settings, 0.1)

    def ours() -> object:
        return method.compress(visual, 0)

    def straight_line() -> object:
        return oracle.aot_paper(shallow, deep, features, GRID, ANCHORS, KEEP_RATIO, 4, "bilinear")

    pairs = [(seconds(straight_line), seconds(ours)) for _ in range(ROUNDS + 1)][1:]
    slow, fast, ratio = (median(values) for values in (*zip(*pairs, strict=True), [a / b for a, b in pairs]))
    print(f"| {frames} | {slow * 1e3:.0f} | {fast * 1e3:.1f} | {ratio:.0f} x |")


def main() -> None:
    print("| frames | straight-line oracle, float64, ms | aot, float32, ms | faster |")
    print("|---:|---:|---:|---:|")
    for frames in (1, 4):
        measure(frames)


if __name__ == "__main__":
    main()
