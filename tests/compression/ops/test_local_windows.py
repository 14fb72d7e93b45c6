"""The guard against attention sinks, as an option of every method that ranks tokens by attention."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from aot.compression.methods import build_method
from aot.compression.ops.local_windows import guarded, most_attended
from aot.config.schema import Config
from aot.plugins import METHODS, find, settings_class
from aot.testing import Case, check_method, synthetic_video
from aot.types import Pooling, VisualTokens
from tests.support.syncs import queued, without_values

FIELDS = {name: getattr(settings_class(find(name)), "__dataclass_fields__", {}) for name in METHODS}
GUARDED = [name for name in METHODS if "local_windows" in FIELDS[name]]
BUDGET = 60
SINK = [0, 1, 2, 10, 11, 12, 20, 21, 22]


def still_with_a_sink(method: object) -> VisualTokens:
    """Six frames of one segment, in which a corner of nine cells draws most of the attention.

    Frames are as different as they can be in a segment: methods that merge what stays the same find little.
    """
    tokens = synthetic_video(method.needs, Case(6, (10, 10), Pooling("none"), 0.1))  # type: ignore[attr-defined]
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(1, 100, 12, generator=generator) + 0.7 * torch.randn(6, 100, 12, generator=generator)
    saliency = 1 + torch.rand(6, 100, generator=generator)
    saliency[:, SINK] += 10
    return replace(
        tokens,
        features=features,
        saliency=dict.fromkeys(tokens.saliency, saliency),
        pooling_attention=None if tokens.pooling_attention is None else saliency,
    )


def test_every_method_that_reads_attention_has_it() -> None:
    """But AOT, whose local anchors are of windows, EarlyTom, whose rule it is, and those that use it as weights."""
    needs = {name: build_method(Config(method=name)).needs for name in METHODS}
    reading = {name for name, each in needs.items() if each.saliency_layers or each.pooling_attention}
    assert set(GUARDED) == reading - {"aot", "aot-dyn", "earlytom", "flashvid", "ottvid"}


@pytest.mark.parametrize("name", GUARDED)
def test_fewer_tokens_of_a_sink_are_kept(name: str) -> None:
    sink = torch.tensor(SINK)
    kept = []
    for guard in (False, True):
        settings = {"local_windows": guard, **({"threshold": 1.0} if name == "framefusion" else {})}  # no merges
        method = build_method(Config(method=name, ratio=0.1, methods={name: settings}))
        found = method.compress(still_with_a_sink(method), BUDGET)
        cell, frame = found.cell % 100, found.frame
        inner = (frame > 0) & (frame < 5)
        kept.append(int(torch.isin(cell[inner], sink).sum()))
        assert len(found.features) == BUDGET
    assert kept[1] < kept[0]


@pytest.mark.parametrize("name", GUARDED)
def test_the_contract(name: str) -> None:
    check_method(name, {"local_windows": True})


# unified-stc waits for nothing on a GPU, where a kernel admits tokens; see test_queued_pickers.py.
@pytest.mark.parametrize("name", [name for name in GUARDED if name != "unified-stc"])
def test_nothing_waits(name: str) -> None:
    case = Case(8, (8, 8), Pooling("none"), 0.1)
    method = build_method(Config(method=name, methods={name: {"local_windows": True}}))
    tokens = without_values(synthetic_video(method.needs, case))
    with queued() as device:
        method.compress(tokens, case.budget(0.1))
    assert not device.waits


@pytest.mark.parametrize("windows", [1, 3, 7, 20])
def test_the_best_of_each_window_come_first(windows: int) -> None:
    """The most attended of as many tokens are those that EarlyTom keeps; dynamic frames stay as they are."""
    generator = torch.Generator().manual_seed(windows)
    saliency = torch.randint(0, 6, (5, 20), generator=generator).float()
    static = torch.tensor([False, True, True, False, True])
    found = guarded(saliency, static, windows)
    counts = torch.full((5,), windows)
    kept = most_attended(found, counts, torch.zeros_like(static))
    expected = most_attended(saliency, counts, static)
    positive = saliency.masked_fill(~expected, torch.inf).amin(1) > 0  # a scale of 0 makes all others equal
    assert torch.equal(kept[positive], expected[positive])
    assert torch.equal(found[~static], saliency[~static])
    assert torch.equal(found[expected], saliency[expected])
