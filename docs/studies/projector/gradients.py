"""How much of the projector's gradient goes through AOT's two transports?

python docs/studies/projector/gradients.py

The gradient of the loss on held-out clips, once as it is and once with the plans of a phase as constants: then only the
path through the mixed features is left. Printed are the length of what the constants leave out, relative to the whole
gradient, and the cosine of both.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from train import MODEL, Encoded, ProjectorLesson

import aot
from aot.compression.aot.sinkhorn import sinkhorn
from aot.types import TransportPlan

PHASES = {"Phase I": ["intra_frame"], "Phase II": ["inter_frame"], "both": ["intra_frame", "inter_frame"]}


def constant_plan(cost: Tensor, *weights: Tensor, **settings: Any) -> TransportPlan:
    """As `sinkhorn`, without a gradient."""
    return sinkhorn(cost.detach(), *weights, **settings)


def gradient(lesson: ProjectorLesson, clips: Sequence[Encoded], constant: Sequence[str] = ()) -> Tensor:
    """Return the gradient of all weights of the projector; the plans of the files `constant` do not depend on them."""
    with ExitStack() as patches:
        for name in constant:
            patches.enter_context(patch(f"aot.compression.aot.{name}.sinkhorn", constant_plan))
        loss, _ = lesson.answer(clips, np.random.default_rng(0))
    found = torch.autograd.grad(loss, list(lesson.projector.parameters()))
    return torch.cat([each.flatten() for each in found])


def main() -> None:
    lesson = ProjectorLesson(aot.build_config({"method": "aot", "ratio": 0.1, "model": MODEL}), Path())
    whole = gradient(lesson, lesson.held_out)
    print(f"{len(lesson.held_out)} clips, length of the gradient {whole.norm():.3f}")
    for phase, files in PHASES.items():
        left = gradient(lesson, lesson.held_out, files)
        share, cosine = (whole - left).norm() / whole.norm(), torch.cosine_similarity(whole, left, dim=0)
        print(f"plans of {phase} constant: {100 * share:.1f} % left out, cosine {cosine:.4f}")


if __name__ == "__main__":
    main()
