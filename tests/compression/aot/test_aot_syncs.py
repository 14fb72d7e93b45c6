"""How often compressing makes the host wait for the device."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from aot.compression.aot import sinkhorn as torch_version
from aot.compression.aot.method import AnchorTransport
from aot.config.schema import AOTConfig
from tests.support.syncs import counted_syncs
from tests.support.synthetic_tokens import random_tokens


def test_as_seldom_for_many_frames_as_for_few(monkeypatch: pytest.MonkeyPatch) -> None:
    def solve(cost: torch.Tensor, *rest: torch.Tensor, **settings: Any) -> Any:
        """Without the torch version's looks at a flag, which the kernel does not need."""
        batch = len(cost)
        return cost.softmax(-1), torch.zeros(batch, dtype=torch.int32), torch.ones(batch, dtype=torch.bool)

    monkeypatch.setattr(torch_version, "_solve", solve)
    seen = []
    for frames in (8, 24):
        visual = random_tokens(0, frames)
        with counted_syncs() as syncs:
            AnchorTransport(AOTConfig(), 0.25).compress(visual, round(0.25 * frames * 196))
        seen.append(syncs)
    assert seen[0] == seen[1]
    assert sum(seen[0].values()) <= 9
