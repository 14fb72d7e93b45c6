"""Fine-tune the projector of the bundled model with a method of compression in the loop.

python docs/studies/projector/train.py FOLDER --method aot --ratio 0.1

Tower and language model stay as they are. The loss is the cross-entropy of the answers' tokens; its gradient reaches
the projector through the kept tokens. After an interruption, run the same command again to resume. FOLDER/model is the
checkpoint with the lowest loss on the validation clips, for `aot eval --model FOLDER/model`.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import aot
from aot.compression.methods import build_method
from aot.compression.methods.subset import pooled_cells
from aot.config.schema import BUNDLED_MODEL, Config
from aot.models.loading.checkpoints import find_file
from aot.shapes.training.frames import labeled_video
from aot.shapes.training.network import GRID, vocabulary
from aot.shapes.training.packing import pack
from aot.shapes.training.reading import PROMPTS, accuracy_by_family, answer_loss, read_packed, some_branches
from aot.shapes.training.stage import Schedule, run_stage
from aot.shapes.world import Scene
from aot.types import VideoFrames, VideoInfo, VisualTokens

MODEL = {"name": BUNDLED_MODEL, "device": "cpu", "dtype": "float32"}
FRAMES = 8
CLIPS = 8  # in a step
STEPS_PER_BATCH = 2  # on the same clips, with other questions, because the tower costs as much as a step
TRAINED_FROM, VALIDATED_FROM = 80_000_000, 90_000_000  # seeds of clips; `aot eval` draws below 20,000,000


@dataclass(frozen=True, slots=True)
class Encoded:
    """A clip as the frozen tower has left it: the projector's input [F, N, D_v], and what methods read."""

    scene: Scene
    hidden: Tensor
    visual: VisualTokens


class ProjectorLesson(nn.Module):
    """Loss and accuracy of a batch of clips, each with packed questions, of which only the projector is trained."""

    def __init__(self, config: Config, folder: Path, validation_clips: int = 64, validate_every: int = 40) -> None:
        super().__init__()
        self.config, self.folder, self.validate_every = config, folder, validate_every
        self.model, self.method = aot.load_model(config.model), build_method(config)  # with frozen weights
        self.network = self.model.network
        self.projector = self.network.model.multi_modal_projector.requires_grad_()
        self.register_buffer("lowest", torch.tensor(torch.inf))  # a buffer, to be resumed
        self.index = {word: number for number, word in enumerate(vocabulary())}
        self.prompt = torch.tensor([self.index[word] for word in PROMPTS[0].split()])
        self.held_out = self.encoded(range(VALIDATED_FROM, VALIDATED_FROM + validation_clips))
        self.batch: tuple[int, list[Encoded]] = (-1, [])

    def forward(self, step: int) -> tuple[Tensor, dict[str, float]]:
        """Return the loss of `step`, and the shares of right answers by family for the log."""
        facts = self.validate() if step % self.validate_every == 0 else {}
        number = step // STEPS_PER_BATCH
        if self.batch[0] != number:
            first = TRAINED_FROM + number * CLIPS
            self.batch = number, self.encoded(range(first, first + CLIPS))
        loss, right = self.answer(self.batch[1], np.random.default_rng([TRAINED_FROM, step]))
        return loss, right | facts

    def encoded(self, seeds: Iterable[int]) -> list[Encoded]:
        """Draw clips and run the tower over them, once for all steps that use them."""
        found = []
        for seed in seeds:
            video, hidden = labeled_video(seed, FRAMES, GRID), list[Tensor]()
            info = VideoInfo(f"{seed}.mp4", "mp4", "h264", 90, 90, 0, 0, 1, 64, 64, 0, 1, 8.0, 8.0, False, False)
            frames = VideoFrames(torch.from_numpy(video.pixels), video.times, info)
            with self.projector.register_forward_pre_hook(lambda _, given, hidden=hidden: hidden.append(given[0])):
                visual = self.model.encode(frames, self.method.needs)
            found.append(Encoded(video.scene, torch.cat(hidden), visual))
        return found

    def kept(self, clip: Encoded) -> Tensor:
        """Return the tokens [K, D] that the language model reads, with a gradient to the projector."""
        visual = replace(clip.visual, features=self.projector(clip.hidden))
        budget = self.config.token_budget(*pooled_cells(visual))
        features = self.method.compress(visual, budget).features
        assert len(features) == budget
        return features

    def answer(self, clips: Sequence[Encoded], rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        """Ask random questions, also about what was not kept; return their loss and accuracy by family."""
        visual = torch.stack([self.kept(clip) for clip in clips])
        asked = [some_branches(clip.scene, rng, [True] * len(clip.scene.things), self.index) for clip in clips]
        prefix = len(self.prompt) + visual.shape[1] + 1
        packed = pack(asked, prefix)
        states = read_packed(self.network, self.prompt, visual, packed)[-1][:, prefix:]
        return answer_loss(self.network, states, packed), accuracy_by_family(self.network, states, packed)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Return loss and accuracy on the held-out clips, always with the same questions; save the best projector."""
        batches = [self.held_out[at : at + CLIPS] for at in range(0, len(self.held_out), CLIPS)]
        found = [self.answer(batch, np.random.default_rng([VALIDATED_FROM, at])) for at, batch in enumerate(batches)]
        loss = fmean(loss.item() for loss, _ in found)
        if loss < self.lowest:
            self.lowest.fill_(loss)
            self.save(self.folder / "model")
        right = fmean(share for _, families in found for share in families.values())
        return {"validation_loss": loss, "validation_accuracy": right}

    def save(self, folder: Path) -> None:
        """Write the bundled checkpoint with what was trained, in float32: bfloat16 would round small changes away."""
        bundled = find_file(self.config.model, "model.safetensors")
        assert bundled is not None
        shutil.copytree(bundled.parent, folder, dirs_exist_ok=True)
        weights = load_file(bundled)
        for name, weight in self.network.named_parameters():
            if weight.requires_grad:
                stored = name.removeprefix("model.").replace("language_model.", "language_model.model.")
                assert weights[stored].shape == weight.shape
                weights[stored] = weight.detach()
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--method", default="aot")
    parser.add_argument("--ratio", type=float, default=0.1)
    parser.add_argument("--language-model", action="store_true", help="train the language model too")
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--peak", type=float, default=5e-4, help="highest learning rate")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    config = aot.build_config({"method": asked.method, "ratio": asked.ratio, "model": MODEL})
    lesson = ProjectorLesson(config, asked.folder)
    lesson.network.model.language_model.requires_grad_(asked.language_model)
    schedule = Schedule(asked.steps, asked.peak, warmup=20, weight_decay=0.0)
    run_stage(f"{asked.method}-{asked.ratio:g}", lesson, schedule, asked.folder)
    print(lesson.validate(), "best:", lesson.lowest.item())


if __name__ == "__main__":
    main()
