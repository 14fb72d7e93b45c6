"""Train the shapes model from scratch: python -m aot.shapes.training --seed 0.

There are two stages: the tower on crowded frames, then projector and language model on videos.
After an interruption, run the same command again to resume. Checkpoints, the log and the finished
model are written to --folder.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from aot.shapes.training.network import build_network, save_folder
from aot.shapes.training.stage import Schedule, run_stage
from aot.shapes.training.tower import TowerLesson


def main() -> None:
    """Run both stages and print the folder of the model."""
    options = _options()
    folder = options.folder or Path("aot/shapes/training/runs") / f"seed-{options.seed}"
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    network = build_network(options.seed)
    tower = network.model.vision_tower
    run_stage("tower", TowerLesson(tower, 24, options.seed + 1), Schedule(options.tower_steps, 1.5e-3), folder)
    if options.language_steps:
        from aot.shapes.training.language import LanguageLesson

        lesson = LanguageLesson(network, options.seed + 1, options.language_steps)
        run_stage("language", lesson, Schedule(options.language_steps, 1.3e-3, matrix_peak=4e-3), folder)
    save_folder(network, folder / "model")
    print(folder / "model")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--tower-steps", type=int, default=1000)
    parser.add_argument("--language-steps", type=int, default=2400)
    return parser.parse_args()


if __name__ == "__main__":
    main()
