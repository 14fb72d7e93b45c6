"""Frames that are merged in the tower: every family against a straight program, whatever the batches."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from aot.errors import UnsupportedError
from aot.models.families.llava import Llava
from aot.types import Clip, FrameMerging, Needs, VideoFrames
from tests.support.frame_merging_oracle import cut, merged
from tests.support.model_inputs import frames_for
from tests.support.qwen_inputs import frames_of
from tests.support.tower_cases import CLOSE, FAMILIES, Case, loaded, tower_case

# No threshold: all frames are one segment.
MERGING = FrameMerging((0, 1), -1.0, 16, 0.9, False)
NOTHING = FrameMerging((0, 1), -1.0, 2, 0.9, False)
ALL = Needs((0, 1, -1), (0, -1), frame_embeddings=True, pooling_attention=True)


@pytest.fixture(scope="module", params=FAMILIES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return tower_case(request.param, request, tmp_path_factory, drifting)


def drifting(frames: VideoFrames) -> VideoFrames:
    """From one picture to another in uneven steps, so that neighbors are alike and the ends are not."""
    first, last, share = frames.pixels[0].float(), frames.pixels[-1].float(), torch.linspace(0, 1, len(frames.pixels))
    share = share[:, None, None, None] ** 1.5
    return replace(frames, pixels=((1 - share) * first + share * last).round().to(torch.uint8))


def mixed(values: Tensor, mixes: list[dict[int, float]]) -> Tensor:
    return torch.stack([sum((weight * values[frame] for frame, weight in mix.items()), values[0] * 0) for mix in mixes])


class Straight:
    """The states after the last block; for the frames left, each block's saliency and what DeepStack reads."""

    def __init__(self, case: Case, merging: FrameMerging) -> None:
        self.states, self.saliency, self.levels = case.oracle.embedded.clone(), list[Tensor](), list[Tensor]()
        self.segments = list[list[int]]()
        for number, block in enumerate(case.oracle.blocks):
            received, after = [], []
            for h in self.states:
                rows, z = torch.arange(len(h)), block.norm(h)
                query, key, value = block.query(z), block.key(z), block.value(z)
                received.append(block.weights(query, key, rows).sum(1).mean(0))
                h = h + block.attend(query, key, value, rows)
                after.append(h + block.feed(h))
            self.states = torch.stack(after)
            self.saliency.append(torch.stack(received))
            if number in merging.layers:
                self._merge(case, merging)
            self._read_level(case.model.tower, number)

    def _merge(self, case: Case, merging: FrameMerging) -> None:
        x = compared(case, self.states)
        mixes = merged(x, merging.threshold, merging.window, published=merging.paper_exact)
        self.states = mixed(self.states, mixes)
        self.saliency = [mixed(each, mixes) for each in self.saliency]
        self.levels = [mixed(each, mixes) for each in self.levels]
        self.segments = cut(compared(case, self.states), merging.threshold, merging.window)

    def _read_level(self, tower: Any, number: int) -> None:
        indices = list(getattr(tower, "deepstack_visual_indexes", ()))
        if number in indices:
            level = tower.deepstack_merger_list[indices.index(number)](self.states.flatten(0, 1))
            self.levels.append(level.view(len(self.states), -1, level.shape[-1]))


def compared(case: Case, states: Tensor) -> np.ndarray:
    found: np.ndarray = states[:, case.oracle.always :].double().numpy()
    return found


@torch.no_grad()
@pytest.mark.parametrize("published", [False, True])
def test_it_does_what_a_straight_program_does(case: Case, published: bool) -> None:
    merging = replace(MERGING, paper_exact=published)
    found = case.encode_with(Needs((0, 1, 2), frame_merging=merging))
    expected = Straight(case, merging)
    assert len(expected.states) < case.units
    assert torch.allclose(found.features, case.features_of(expected.states), **CLOSE)
    if expected.levels:
        assert torch.allclose(found.deepstack, torch.stack(expected.levels), **CLOSE)
    of_own_tower = not isinstance(case.model, Llava) or case.model.tower is case.model.network.model.vision_tower
    for layer in (0, 1, 2) if of_own_tower else ():
        assert torch.allclose(found.saliency[layer], case.saliency_of(expected.saliency[layer]), **CLOSE)
    frames = found.merged_frames
    assert list(frames.segments) == [Clip(segment[0], segment[-1] + 1) for segment in expected.segments]
    assert len(frames.timestamps_s) == case.units
    assert found.timestamps_s == tuple(frames.timestamps_s[mix[0][0]] for mix in frames.sources)
    assert all(sum(weight for _, weight in mix) == pytest.approx(1) for mix in frames.sources)


def test_without_merges_it_is_the_full_tower(case: Case) -> None:
    full, found = case.encode_with(ALL), case.encode_with(replace(ALL, frame_merging=NOTHING))
    same(found, full)
    assert found.timestamps_s == full.timestamps_s


def same(found: Any, expected: Any) -> None:
    for name in ("features", "frame_embeddings", "pooling_attention", "deepstack"):
        wanted = getattr(expected, name)
        assert (wanted is None) == (getattr(found, name) is None)
        assert wanted is None or torch.allclose(getattr(found, name), wanted, **CLOSE)
    for recorded in ("saliency", "keys"):
        for layer, wanted in getattr(expected, recorded).items():
            assert torch.allclose(getattr(found, recorded)[layer], wanted, **CLOSE)


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_batches_do_not_change_the_result(case: Case, batch: int) -> None:
    needs = replace(ALL, frame_merging=MERGING)
    whole, found = (case.encode_with(needs, size) for size in (64, batch))
    same(found, whole)
    assert [dict(mix) for mix in found.merged_frames.sources] == [
        pytest.approx(dict(mix)) for mix in whole.merged_frames.sources
    ]


def test_equal_frames_are_merged_into_the_same(case: Case) -> None:
    """All that is recorded is what one of the frames gives, in every family; DeepStack too."""
    still = replace(case, frames=replace(case.frames, pixels=case.frames.pixels[:1].expand_as(case.frames.pixels)))
    # Similarities of 1 but for rounding are above that of the first and the last frame by chance.
    full, found = still.encode_with(ALL), still.encode_with(replace(ALL, frame_merging=MERGING))
    left = len(found.features)
    assert left <= case.units
    one = replace(
        full,
        features=full.features[:left],
        frame_embeddings=full.frame_embeddings[:left],
        pooling_attention=full.pooling_attention[:left],
        deepstack=None if full.deepstack is None else full.deepstack[:, :left],
        saliency={layer: values[:left] for layer, values in full.saliency.items()},
        keys={layer: values[:left] for layer, values in full.keys.items()},
    )
    same(found, one)


def test_the_tower_itself_stays_as_it_is(case: Case) -> None:
    modules = list(case.model.tower.modules())
    before = case.encode_with(Needs()).features
    case.encode_with(Needs((-1,), frame_merging=MERGING))
    assert list(case.model.tower.modules()) == modules
    assert torch.equal(case.encode_with(Needs()).features, before)


def test_memory_that_runs_out(small_model: Llava, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then fewer frames pass a block at a time; the frames that are merged are the same."""
    model = Llava(small_model.network, small_model.tokenizer, small_model.config, small_model.identity)
    frames, needs = frames_for(model, 8), Needs(frame_merging=MERGING)
    expected, feed = model.encode(frames, needs).features, type(model.tower.encoder.layers[0].mlp).forward

    def forward(self: Any, states: Tensor) -> Tensor:
        if len(states) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return feed(self, states)

    monkeypatch.setattr(type(model.tower.encoder.layers[0].mlp), "forward", forward)
    found = model.encode(frames, needs)
    assert torch.allclose(found.features, expected, **CLOSE)
    assert "out of memory" in found.notices[0]


def test_windows_are_refused(qwen25_folder: Any) -> None:
    model = loaded(qwen25_folder)
    with pytest.raises(UnsupportedError, match=r"--tower earlytom needs .* attends within windows; use --tower full"):
        model.encode(frames_of((24, 40), 4), Needs(frame_merging=MERGING))
