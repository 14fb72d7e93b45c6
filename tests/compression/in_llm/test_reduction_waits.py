"""No reduction inside the language model makes the host wait for a device, apart from the one that must."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from test_rules import HEADS, state_of

from aot.compression.in_llm import State
from aot.plugins import INNER, find
from tests.support.syncs import counted_syncs, queued, without_values

# How much is merged depends on the content, and decides the shapes in all later layers.
READS = {"framefusion": 1}


def on_device(state: State) -> State:
    def attend(rows: torch.Tensor, **settings: Any) -> torch.Tensor:
        return torch.empty(HEADS, len(rows), state.hidden.shape[1], device="meta")

    return replace(without_values(state), attention=attend)


@pytest.mark.parametrize("ends_video", [True, False])
@pytest.mark.parametrize("name", sorted({*INNER} - {*READS}))
def test_nothing_waits(name: str, ends_video: bool) -> None:
    plain = replace(state_of(0, layer=7), ends_video=ends_video)
    state = on_device(plain)
    with queued() as device:
        found = find(name, "inner")().reduce(state)
    assert not device.waits
    assert found.dropped.device.type == "meta"
    assert len(found.dropped) == len(find(name, "inner")().reduce(plain).dropped)


@pytest.mark.parametrize("name", READS)
def test_what_is_read(name: str) -> None:
    state = state_of(0)
    with counted_syncs() as waits:
        find(name, "inner")().reduce(state)
    assert dict(waits) == {"_local_scalar_dense": READS[name]}
