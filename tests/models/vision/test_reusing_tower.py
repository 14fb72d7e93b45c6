"""Frames that reuse the tower's work: every family against a straight program, whatever the batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from aot.compression.in_tower.stc import ReferenceSchedule
from aot.errors import UnsupportedError
from aot.models.families.llava import Llava
from aot.models.vision.reusing_tower import FrameBatch, with_reuse
from aot.models.vision.saliency import attention_modules
from aot.types import FrameReferences, FrameReuse, Needs
from tests.support.model_inputs import frames_for
from tests.support.qwen_inputs import frames_of
from tests.support.tower_cases import CLOSE, COUNT, FAMILIES, Case, loaded, tower_case

NEVER = 1.0  # no gate: frames of noise differ like two scenes


@pytest.fixture(scope="module", params=FAMILIES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return tower_case(request.param, request, tmp_path_factory)


def every(interval: int, frames: int) -> list[int]:
    return [frame - frame % interval for frame in range(frames)]


@torch.no_grad()
@pytest.mark.parametrize(("interval", "share"), [(2, 0.25), (4, 0.25), (9, 0.5), (3, 0.01)])
def test_it_does_what_a_straight_program_does(case: Case, interval: int, share: float) -> None:
    found = case.encode(FrameReuse(interval, share, NEVER))
    states, _ = case.oracle.run(every(interval, case.units), share)
    assert torch.allclose(found.features, case.features_of(states), **CLOSE)
    assert not torch.allclose(found.features, case.encode(None).features, atol=1e-2)


@torch.no_grad()
def test_saliency_is_of_all_queries(case: Case) -> None:
    depth = len(case.oracle.blocks)
    layers = (1, depth - 1)
    found = case.encode(FrameReuse(4, 0.25, NEVER), Needs(layers, (0,), pooling_attention=True))
    _, saliency = case.oracle.run(every(4, case.units), 0.25)
    if not isinstance(case.model, Llava) or case.model.tower is case.model.network.model.vision_tower:
        for layer in layers:
            assert torch.allclose(found.saliency[layer], case.saliency_of(saliency[layer]), **CLOSE)
    # Nothing else changes when attention is recorded, and keys of the first block are exact.
    assert torch.equal(found.features, case.encode(FrameReuse(4, 0.25, NEVER)).features)
    assert torch.allclose(found.keys[0], case.encode(None, Needs(key_layers=(0,))).keys[0], **CLOSE)


def test_interval_1_is_the_full_tower(case: Case) -> None:
    needs = Needs((1, -1), (-1,), frame_embeddings=True)
    full, found = case.encode(None, needs), case.encode(FrameReuse(1, 0.25, NEVER), needs)
    assert torch.equal(full.features, found.features)
    assert all(torch.equal(full.saliency[layer], found.saliency[layer]) for layer in (1, -1))
    assert full.deepstack is None or torch.equal(full.deepstack, found.deepstack)


def test_share_1_is_the_full_tower_to_rounding(case: Case) -> None:
    needs = Needs((1, -1), (-1,))
    full, found = case.encode(None, needs), case.encode(FrameReuse(4, 1.0, NEVER), needs)
    assert torch.allclose(full.features, found.features, **CLOSE)
    assert all(torch.allclose(full.saliency[layer], found.saliency[layer], **CLOSE) for layer in (1, -1))
    assert full.deepstack is None or torch.allclose(full.deepstack, found.deepstack, **CLOSE)


def test_references_are_those_of_the_full_tower(case: Case) -> None:
    full, found = case.encode(None), case.encode(FrameReuse(3, 0.25, NEVER))
    assert torch.allclose(full.features[::3], found.features[::3], **CLOSE)


@pytest.mark.parametrize("batch", [1, 2, 3, 4, 5, 7])
def test_batches_do_not_change_the_result(case: Case, batch: int) -> None:
    needs = Needs((1, -1), (-1,), frame_embeddings=True, pooling_attention=True)
    whole, found = (case.encode(FrameReuse(4, 0.25, NEVER), needs, size) for size in (64, batch))
    for name in ("features", "frame_embeddings", "pooling_attention", "deepstack"):
        expected = getattr(whole, name)
        assert expected is None or torch.allclose(getattr(found, name), expected, **CLOSE)
    for recorded in ("saliency", "keys"):
        for layer, expected in getattr(whole, recorded).items():
            assert torch.allclose(getattr(found, recorded)[layer], expected, **CLOSE)


@pytest.mark.parametrize("length", [2, 4, 6])
def test_chunks_do_not_change_the_result(case: Case, length: int) -> None:
    reuse = FrameReuse(3, 0.25, NEVER)
    whole, together = case.encode(reuse), case.model.temporal_patch
    schedule, parts = ReferenceSchedule(reuse, together), []
    for first in range(0, COUNT, length):
        chunk = replace(
            case.frames,
            pixels=case.frames.pixels[first : first + length],
            timestamps_s=case.frames.timestamps_s[first : first + length],
        )
        parts.append(case.model.encode(schedule.mark(chunk), Needs(reuse=reuse)))
    assert torch.allclose(torch.cat([part.features for part in parts]), whole.features, **CLOSE)
    if whole.deepstack is not None:
        assert torch.allclose(torch.cat([part.deepstack for part in parts], 1), whole.deepstack, **CLOSE)


def test_the_tower_itself_stays_as_it_is(case: Case) -> None:
    modules = list(case.model.tower.modules())
    before = case.encode(None).features
    case.encode(FrameReuse(4, 0.25, NEVER), Needs((-1,)))
    assert list(case.model.tower.modules()) == modules
    assert torch.equal(case.encode(None).features, before)


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
def test_the_towers_own_attention_kernel_runs(small_folder: Path, kernel: str) -> None:
    model, called = loaded(small_folder), list[str]()
    model.network.set_attn_implementation(kernel)
    attention = attention_modules(model.tower)[0]
    import transformers.models.siglip.modeling_siglip as siglip
    from transformers import AttentionInterface

    eager, sdpa = siglip.eager_attention_forward, AttentionInterface()["sdpa"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(siglip, "eager_attention_forward", lambda *a, **k: (called.append("eager"), eager(*a, **k))[1])
        patch.setitem(
            AttentionInterface()._global_mapping, "sdpa", lambda *a, **k: (called.append("sdpa"), sdpa(*a, **k))[1]
        )
        found = model.encode(frames_for(model, 3), Needs(reuse=FrameReuse(3, 0.25, NEVER)))
    assert set(called) == {kernel}
    assert attention.config._attn_implementation == kernel
    assert found.features.isfinite().all()


# Batches.
@pytest.mark.parametrize(
    ("first", "stop", "order", "reference_of", "position"),
    [
        (0, 8, (0, 4, 1, 2, 3, 5, 6, 7), (0, 0, 0, 1, 1, 1), (0, 2, 3, 4, 1, 5, 6, 7)),
        (4, 8, (4, 5, 6, 7), (0, 0, 0), (0, 1, 2, 3)),
        (2, 5, (0, 4, 2, 3), (0, 0), (2, 3, 1)),
        (3, 4, (0, 3), (0,), (1,)),
        (4, 5, (4,), (), (0,)),
    ],
)
def test_a_batch(first: int, stop: int, order: Any, reference_of: Any, position: Any) -> None:
    batch = FrameBatch.of(every(4, 8), first, stop)
    assert batch == FrameBatch(order, len(set(order) & {0, 4}), reference_of, position)


def test_a_batch_after_earlier_chunks() -> None:
    references = FrameReferences((-1, -1, 2, 2), torch.full((1, 3, 1, 1), 9))
    pixels = torch.arange(4)[:, None, None, None].expand(4, 3, 1, 1)
    batch = FrameBatch.of(references.of, 0, 4)
    assert batch == FrameBatch((-1, 2, 0, 1, 3), 2, (0, 0, 1), (2, 3, 1, 4))
    assert batch.pixels(pixels, references, 1)[:, 0, 0, 0].tolist() == [9, 2, 0, 1, 3]


def test_batches_end_at_references(small_model: Llava, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that begins with a reference encodes no frame twice."""
    model = Llava(small_model.network, small_model.tokenizer, small_model.config, small_model.identity)
    model._batch_frames = 8
    seen: list[int] = []
    run = Llava._tower_pass
    monkeypatch.setattr(
        Llava, "_tower_pass", lambda self, pixels, *rest: (seen.append(len(pixels)), run(self, pixels, *rest))[1]
    )
    frames = frames_for(model, 20)
    model.encode(frames, Needs(reuse=FrameReuse(3, 0.25, NEVER)))
    assert seen == [6, 6, 8]


def test_memory_that_runs_out(small_model: Llava, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Llava(small_model.network, small_model.tokenizer, small_model.config, small_model.identity)
    frames, needs = frames_for(model, 8), Needs(reuse=FrameReuse(4, 0.25, NEVER))
    expected, tower = model.encode(frames, needs).features, Llava._tower_features

    def features(self: Llava, network: Any, pixels: Tensor, least_blocks: int) -> Tensor:
        if len(pixels) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return tower(self, network, pixels, least_blocks)

    monkeypatch.setattr(Llava, "_tower_features", features)
    found = model.encode(frames, needs)
    assert torch.allclose(found.features, expected, **CLOSE)
    assert "out of memory" in found.notices[0]


class _Inner(nn.Module):
    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(blocks)
        self.other = nn.Linear(2, 2)


def test_the_copy_shares_everything_but_the_blocks() -> None:
    outer = nn.Module()
    outer.encoder = _Inner([nn.Linear(2, 2), nn.Linear(2, 2)])
    outer.register_forward_hook(lambda *_: None)
    batch = FrameBatch.of((0, 0), 0, 2)
    copied = with_reuse(outer, "encoder.layers", lambda *_: None, batch.group(0.5, 0, torch.device("cpu")))  # type: ignore[arg-type,return-value]
    assert copied.encoder.other is outer.encoder.other
    assert len(copied.encoder.layers) == 2
    assert not any(new is old for new, old in zip(copied.encoder.layers, outer.encoder.layers, strict=True))
    assert isinstance(outer.encoder.layers[0], nn.Linear)
    assert outer._forward_hooks
    assert not copied._forward_hooks


def test_windows_are_refused(qwen25_folder: Path) -> None:
    model = loaded(qwen25_folder)
    with pytest.raises(UnsupportedError, match=r"--tower stc needs .* attends within windows; use --tower full"):
        model.encode(frames_of((24, 40), 4), Needs(reuse=FrameReuse(2, 0.25, 0.1)))
