"""How well the attention a patch receives tells things from background, block by block, in 30 scenes.

python docs/studies/shapes-world/saliency.py shapes ANOTHER_MODEL_FOLDER
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from numpy.typing import NDArray

from aot.config.schema import ModelConfig
from aot.models import load_model
from aot.shapes.render import render, visible_share
from aot.shapes.world import BEATS, sample_scene
from aot.types import Needs, VideoFrames, VideoInfo

SEEDS = range(14_500_000, 14_500_030)
COVERED = 0.2  # a patch shows a thing from this share of its area up


def area_under_curve(scores: NDArray[np.float32], positive: NDArray[np.bool_]) -> float:
    """The chance that a positive scores higher than a negative; no number if there are none of either."""
    rank = np.empty(len(scores))
    rank[np.argsort(scores)] = np.arange(len(scores))
    positives = int(positive.sum())
    pairs = positives * (len(scores) - positives)
    return (rank[positive].sum() - positives * (positives - 1) / 2) / pairs if pairs else np.nan


def main() -> None:
    for name in sys.argv[1:]:
        model = load_model(ModelConfig(name=name, device="cpu", dtype="float32"))
        blocks = range(model.placement["vision_blocks"])
        found: dict[int, list[float]] = {block: [] for block in blocks}
        for scene in map(sample_scene, SEEDS):
            pixels = torch.from_numpy(render(scene, range(BEATS), model.image_size[0])).permute(0, 3, 1, 2)
            times = tuple(map(float, range(BEATS)))
            info = VideoInfo(f"{scene.seed}.mp4", "mp4", "h264", 90, 90, 0, 0, 1, 64, 64, 0, 1, 8.0, 8.0, False, False)
            visual = model.encode(VideoFrames(pixels.contiguous(), times, info), Needs(tuple(blocks)))
            for frame, time in enumerate(times):
                shares = sum(visible_share(thing, time, visual.grid[0]) for thing in scene.things)
                covered = np.asarray(shares).ravel() > COVERED
                for block in blocks:
                    found[block].append(area_under_curve(visual.saliency[block][frame].numpy(), covered))
        print(name, *(f"{np.nanmean(found[block]):.2f}" for block in blocks))


if __name__ == "__main__":
    main()
