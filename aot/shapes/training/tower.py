"""Stage 1: train the vision tower to classify every patch; the heads are discarded afterwards."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from aot.shapes.training.frames import crowded_frames
from aot.shapes.training.network import GRID, TOWER_WIDTH
from aot.shapes.world import COLORS, SHAPES, SIZES

__all__ = ["TowerLesson", "normalize"]

_BACKGROUND_WEIGHT = 0.15


def normalize(pixels: Tensor) -> Tensor:
    """Return `pixels` (uint8), scaled to the input range of the vision tower, [-1, 1]."""
    return pixels.float() / 127.5 - 1


class TowerLesson(nn.Module):
    """Compute the loss of one batch of frames with many things.

    The loss is a weighted sum of cross entropies: color, shape, size and position of each patch.
    """

    def __init__(self, tower: Any, batch: int, seed: int) -> None:
        super().__init__()
        self.tower, self.batch, self.seed = tower, batch, seed
        self.attributes = nn.ModuleList(nn.Linear(TOWER_WIDTH, len(names) + 1) for names in (COLORS, SHAPES, SIZES))
        self.places = nn.ModuleList(nn.Linear(TOWER_WIDTH, GRID) for _ in range(2))

    def forward(self, step: int) -> tuple[Tensor, dict[str, float]]:
        """Return the loss of training step `step`, and accuracies for the log."""
        pixels, labels = map(torch.from_numpy, crowded_frames(self.seed * 10**7 + step, self.batch, GRID))
        hidden = self.tower(normalize(pixels), output_hidden_states=True).hidden_states[-1]
        normal = F.layer_norm(hidden, (TOWER_WIDTH,))
        targets = labels.reshape(self.batch, GRID * GRID, 3)
        losses, facts = [], {}
        for name, head, target in zip(("color", "shape", "size"), self.attributes, targets.unbind(-1), strict=True):
            logits = head(normal)
            # Most patches are background, so the class has a low weight.
            weight = torch.ones(logits.shape[-1])
            weight[0] = _BACKGROUND_WEIGHT
            losses.append(F.cross_entropy(logits.flatten(0, 1), target.flatten(), weight))
            shown = target > 0
            facts[name] = (logits.argmax(-1) == target)[shown].float().mean().item()
        # This loss preserves the position of patches in the tower's output.
        cells = torch.arange(GRID * GRID).expand(self.batch, -1)
        for head, target in zip(self.places, (cells // GRID, cells % GRID), strict=True):
            losses.append(0.15 * F.cross_entropy(head(normal).flatten(0, 1), target.flatten()))
        facts["place"] = losses[-1].item() / 0.15
        return torch.stack(losses).sum(), facts
