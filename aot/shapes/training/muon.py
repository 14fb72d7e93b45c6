"""Implement Muon (Jordan et al. 2024), which orthogonalizes momentum.

Muon needs fewer steps than AdamW. `torch.optim.Muon` computes in bfloat16 only, which is fifty
times slower than float32 on a CPU without bfloat16 instructions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

__all__ = ["Muon"]

# Coefficients of a quintic polynomial; five iterations bring singular values close to 1.
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


class Muon(torch.optim.Optimizer):
    """Optimize matrices; an update has a root mean square of about 0.2 * lr, as in AdamW."""

    def __init__(
        self, groups: Iterable[dict[str, Any]], lr: float = 0.0, weight_decay: float = 0.0, momentum: float = 0.95
    ) -> None:
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every matrix that has a gradient."""
        for group in self.param_groups:
            # Matrices of one shape are orthogonalized in one batch.
            alike: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for matrix in group["params"]:
                if matrix.grad is not None:
                    alike[matrix.shape].append(matrix)
            for shape, matrices in alike.items():
                updates = orthogonal(torch.stack([self._direction(m, group["momentum"]) for m in matrices]))
                for matrix, update in zip(matrices, updates, strict=True):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"])
                    matrix.add_(update, alpha=-group["lr"] * 0.2 * max(shape) ** 0.5)

    def _direction(self, matrix: Tensor, momentum: float) -> Tensor:
        """Return the gradient of `matrix` with Nesterov momentum."""
        gradient, state = matrix.grad, self.state[matrix]
        assert gradient is not None
        mean: Tensor = state.setdefault("mean", torch.zeros_like(matrix))
        mean.lerp_(gradient, 1 - momentum)
        return gradient.lerp(mean, momentum)


def orthogonal(matrices: Tensor, steps: int = 5) -> Tensor:
    """Return approximations of the semi-orthogonal matrices nearest to `matrices`, [B, M, N]."""
    # The Gram matrix of the shorter side is smaller.
    wide: Tensor = matrices if matrices.shape[1] <= matrices.shape[2] else matrices.mT
    wide = wide / wide.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    a, b, c = _COEFFICIENTS
    for _ in range(steps):
        gram = wide @ wide.mT
        wide = a * wide + (b * gram + c * gram @ gram) @ wide
    return wide if matrices.shape[1] <= matrices.shape[2] else wide.mT
