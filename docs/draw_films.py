"""Draw docs/films.jpg, the sampled frames of some films: python docs/draw_films.py [FIRST_SEED]

One row per film.
"""

from __future__ import annotations

import sys
from pathlib import Path

from matplotlib.figure import Figure

from aot.shapes.film import SAMPLED_TIMES
from aot.shapes.film_sampling import sample_film
from aot.shapes.render import render

SIDE, ROWS = 180, 6


def main(first_seed: int) -> None:
    figure = Figure(figsize=(16, ROWS * 1.02), layout="constrained", facecolor="black")
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.02, wspace=0, hspace=0)  # type: ignore[union-attr, call-arg]
    for seed, row in zip(range(first_seed, first_seed + ROWS), figure.subplots(ROWS, len(SAMPLED_TIMES)), strict=True):
        film = sample_film(seed)
        for axes, picture in zip(row, render(film, SAMPLED_TIMES, SIDE), strict=True):
            axes.imshow(picture)
            axes.set_axis_off()
    figure.savefig(Path(__file__).parent / "films.jpg", dpi=85)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 30_000_000)
