"""Draw docs/shapes.png from a run of `aot demo`: python docs/draw_shapes.py aot-demo

Above the frames the shapes model looks at; below the same frames with every cell dimmed whose token was not kept.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from aot.config.schema import SamplingConfig
from aot.storage.tokens_file import load_tokens
from aot.video import decode

SIDE = 192
DIM = 0.22


def main(folder: Path) -> None:
    tokens = load_tokens(folder / "tokens.pt").tokens
    frames = decode(folder / "clip.mp4", SamplingConfig(frames=8), size=(SIDE, SIDE))
    pictures = frames.pixels.numpy().transpose(0, 2, 3, 1) / 255
    light = np.full((len(pictures), *tokens.grid), DIM)
    light[tokens.frame, tokens.row, tokens.col] = 1
    cell = SIDE // tokens.grid[0]
    shown = pictures * light.repeat(cell, 1).repeat(cell, 2)[..., None]
    figure = Figure(figsize=(12, 3.25), layout="constrained")
    rows = figure.subplots(2, len(pictures))
    for row, images in zip(rows, (pictures, shown), strict=True):
        for axes, image in zip(row, images, strict=True):
            axes.imshow(image)
            axes.set_axis_off()
    for axes, time in zip(rows[0], frames.timestamps_s, strict=True):
        axes.set_title(f"{time:.1f} s", fontsize=10)
    figure.savefig(Path(__file__).parent / "shapes.png", dpi=85)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
