"""Muon's updates against what the singular value decomposition says they should be."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from aot.shapes.training.muon import Muon, orthogonal


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 5, 12), (2, 12, 5)], ids=str)
def test_directions_stay_and_their_sizes_are_evened_out(shape: tuple[int, int, int]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    rotated = left.mT @ orthogonal(matrices) @ right.mT  # diagonal where the singular vectors stayed
    sizes = rotated.diagonal(dim1=1, dim2=2)
    assert (rotated - torch.diag_embed(sizes)).abs().max() < 1e-4
    assert sizes.min() > 0.5
    assert sizes.max() < 1.3


def test_the_update_has_the_size_of_adamws() -> None:
    matrix = nn.Parameter(torch.zeros(48, 128))
    matrix.grad = torch.randn(48, 128, generator=torch.Generator().manual_seed(2)) * 1e-3
    Muon([{"params": [matrix], "lr": 0.01}]).step()
    assert matrix.square().mean().sqrt().item() == pytest.approx(0.01 * 0.2, rel=0.3)


def test_decay_pulls_to_zero_and_what_has_no_gradient_stays() -> None:
    still, decayed = nn.Parameter(torch.ones(4, 4)), nn.Parameter(torch.ones(4, 4))
    decayed.grad = torch.zeros(4, 4)
    Muon([{"params": [still, decayed], "lr": 0.1, "weight_decay": 0.5}]).step()
    assert torch.equal(still, torch.ones(4, 4))
    assert torch.allclose(decayed, torch.full((4, 4), 0.95))
