"""STC-Cacher: reuse between frames inside the vision tower, against published-code golden values."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from aot.compression.in_tower import tower_needs
from aot.compression.in_tower.stc import ReferenceSchedule, ReuseGroup, changed_tokens, run_block
from aot.config.schema import TowerConfig
from aot.errors import ConfigError, UnsupportedError
from aot.models.vision.reusing_tower import BlockParts
from aot.types import BlockMerging, Clip, FrameReuse, Needs
from tests.support.golden_tower import BLOCKS, FRAMES, TinyBlock, checksums, golden_states


def parts_of(block: TinyBlock, seen: list[tuple[Tensor, Tensor]] | None = None) -> BlockParts:
    """Return the parts of `block`, which record to `seen`."""
    queries, keys, values, project = (partial(block.project, m=m) for m in range(4))

    def record(query: Tensor, key: Tensor) -> None:
        assert seen is not None
        seen.append((query, key))

    return BlockParts(
        block.normalize, queries, keys, values, block.mix, project, block.feed_forward, seen is not None, record
    )


def ordered(references: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
    """Return the references, the other frames, and the last reference before each other frame."""
    others = [frame for frame in range(FRAMES) if frame not in references]
    return list(references), others, [sum(r < frame for r in references) - 1 for frame in others]


def run(references: Sequence[int], share: float = 0.25, dtype: torch.dtype = torch.float64) -> tuple[Tensor, list]:
    """Return the states after all blocks in frame order, and what each block has chosen."""
    first, others, reference_of = ordered(references)
    order = [*first, *others]
    group = ReuseGroup(len(first), torch.tensor(reference_of, dtype=torch.int64), share)
    states, chosen = golden_states().to(dtype)[order], []
    for number in range(BLOCKS):
        parts = parts_of(TinyBlock(number, dtype))
        keys = parts.keys(parts.normalize(states))
        chosen.append(dict(zip(others, changed_tokens(keys, group).sort().values.tolist(), strict=True)))
        states = run_block(parts, states, group)
    return states[torch.tensor(order).argsort()], chosen


def exact() -> Tensor:
    states = golden_states()
    for number in range(BLOCKS):
        states = TinyBlock(number)(states)
    return states


def every(interval: int) -> range:
    return range(0, FRAMES, interval)


def test_the_input_and_the_exact_tower() -> None:
    assert checksums(golden_states()) == pytest.approx((1460.545, 753.7218), rel=1e-6)
    assert checksums(exact()) == pytest.approx((1748.435, 868.0918), rel=1e-6)


GOLDEN = [
    (every(4), 0.25, 1808.093, 907.3157, 0.978036),
    (every(2), 0.25, 1787.976, 887.1939, 0.990275),
    (every(12), 0.25, 1878.751, 954.7786, 0.960134),
    (every(4), 0.5, 1762.363, 856.6288, 0.982725),
    (every(4), 1.0, 1748.435, 868.0918, 1.0),
    # The published chunks of two frames: a chunk that refreshes has two references.
    ((0, 1, 4, 5, 8, 9), 0.25, 1821.409, 909.2125, 0.995584),
    ((0, 5, 9), 0.25, 1801.365, 911.3932, 0.990479),
    ((0, 4, 5, 9), 0.25, 1779.117, 896.4029, 0.992473),
]


@pytest.mark.parametrize(("references", "share", "total", "weighted", "cosine"), GOLDEN)
def test_golden_values(references: Sequence[int], share: float, total: float, weighted: float, cosine: float) -> None:
    found, _ = run(references, share)
    assert checksums(found) == pytest.approx((total, weighted), rel=1e-6)
    similarity = functional.cosine_similarity(found, exact(), dim=-1).mean().item()
    assert similarity == pytest.approx(cosine, abs=1e-6)


@pytest.mark.parametrize(
    ("references", "share", "first", "last", "token"),
    [
        (every(4), 0.25, 198.7861, 69.64166, (2.068098, 1.212833, 2.10542)),
        (every(2), 0.25, 198.7861, 47.09249, (2.068098, 1.212833, 2.10542)),
        (every(12), 0.25, 198.7861, 78.9272, (2.068098, 1.212833, 2.10542)),
        (every(4), 0.5, 200.3036, 63.68817, (2.068098, 1.212833, 2.10542)),
        (every(4), 1.0, 215.938, 33.03588, (2.27193, 0.9249462, 2.255338)),
    ],
)
def test_golden_frames(
    references: Sequence[int], share: float, first: float, last: float, token: tuple[float, ...]
) -> None:
    found, _ = run(references, share)
    assert (found[1].sum().item(), found[11].sum().item()) == pytest.approx((first, last), rel=1e-6)
    assert found[1, 7, :3].tolist() == pytest.approx(token, rel=1e-6)


CHOSEN = [
    {
        1: "0 2 6 12 14 15 18 26 33", 2: "0 3 6 12 14 19 21 24 26", 3: "4 6 9 12 14 17 22 30 33",
        5: "1 12 18 21 24 28 29 30 35", 11: "0 3 4 5 7 13 15 16 17",
    },
    {
        1: "0 1 2 12 18 21 26 31 33", 2: "5 6 12 18 19 26 30 31 32", 3: "0 1 4 6 12 18 26 30 35",
        5: "12 16 18 21 24 26 28 29 34", 11: "0 2 9 13 15 21 27 31 33",
    },
    {
        1: "1 2 5 8 18 21 27 31 35", 2: "0 1 2 5 18 30 31 33 35", 3: "0 1 2 5 18 30 31 33 35",
        5: "3 12 17 18 19 24 29 30 35", 11: "0 5 9 19 21 27 28 29 33",
    },
]  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_golden_choices(dtype: torch.dtype) -> None:
    found, chosen = run(every(4), dtype=dtype)
    for of_block, golden in zip(chosen, CHOSEN, strict=True):
        assert {frame: of_block[frame] for frame in golden} == {
            frame: list(map(int, tokens.split())) for frame, tokens in golden.items()
        }
    assert torch.allclose(found.double(), run(every(4))[0], atol=2e-5)


def test_references_are_exact() -> None:
    found, _ = run(every(4))
    assert torch.equal(found[::4], exact()[::4])


def straight(states: Tensor, references: Sequence[int], share: float, always: int = 0) -> Tensor:
    """Run the method as published: frame by frame, attention and MLP borrowed one after the other."""
    states = states.clone()
    count = max(1, int((states.shape[1] - always) * share))
    for number in range(BLOCKS):
        block, memory = TinyBlock(number), tuple[Tensor, ...]()
        for frame in range(len(states)):
            h = states[frame]
            z = block.normalize(h)
            keys = block.project(z, 1)
            if frame in references:
                values = block.project(z, 2)
                attended = block.attend(block.project(z, 0), keys, values)
                fed = block.feed_forward(h + attended)
                memory = (keys, values, attended, fed)
            else:
                similarity = functional.cosine_similarity(keys, memory[0], dim=-1)
                rows = [*range(always), *(similarity[always:].argsort()[:count] + always).tolist()]
                values, attended, fed = (each.clone() for each in memory[1:])
                values[rows] = block.project(z[rows], 2)
                attended[rows] = block.attend(block.project(z[rows], 0), keys, values)
                fed[rows] = block.feed_forward((h + attended)[rows])
            states[frame] = h + attended + fed
    return states


@pytest.mark.parametrize("always", [0, 1, 3])
@pytest.mark.parametrize("share", [0.01, 0.4, 1.0])
def test_it_does_what_a_straight_program_does(share: float, always: int) -> None:
    first, others, reference_of = ordered((0, 3, 7))
    order = [*first, *others]
    states = golden_states()[order]
    for number in range(BLOCKS):
        group = ReuseGroup(3, torch.tensor(reference_of), share, always)
        states = run_block(parts_of(TinyBlock(number)), states, group)
    expected = straight(golden_states(), (0, 3, 7), share, always)
    assert torch.allclose(states[torch.tensor(order).argsort()], expected, atol=1e-12)


def test_ties_go_to_the_lower_index() -> None:
    keys = torch.ones(2, 8, 4)
    assert changed_tokens(keys, ReuseGroup(1, torch.tensor([0]), 0.5)).tolist() == [[0, 1, 2, 3]]
    assert changed_tokens(keys, ReuseGroup(1, torch.tensor([0]), 0.1)).tolist() == [[0]]


def test_all_queries_are_recorded() -> None:
    block, seen = TinyBlock(0), list[tuple[Tensor, Tensor]]()
    group = ReuseGroup(1, torch.zeros(FRAMES - 1, dtype=torch.int64), 0.25)
    plain, found = (run_block(each, golden_states(), group) for each in (parts_of(block), parts_of(block, seen)))
    assert torch.equal(plain, found)
    ((query, key),) = seen
    normed = block.normalize(golden_states())
    assert torch.allclose(query, block.project(normed, 0), atol=1e-12)
    assert torch.allclose(key, block.project(normed, 1), atol=1e-12)


# Which frames are references.
def pixels(*levels: int, size: tuple[int, int] = (20, 32)) -> Tensor:
    """Return frames of one gray level each."""
    return torch.stack([torch.full((3, *size), level, dtype=torch.uint8) for level in levels])


def references(schedule: ReferenceSchedule, frames: Tensor) -> tuple[int, ...]:
    return schedule.add(frames).of


def test_a_reference_every_interval() -> None:
    assert references(ReferenceSchedule(FrameReuse(3, 0.25, 0.1)), pixels(*[9] * 8)) == (0, 0, 0, 3, 3, 3, 6, 6)
    assert references(ReferenceSchedule(FrameReuse(1, 0.25, 0.1)), pixels(*[9] * 3)) == (0, 1, 2)


def test_a_cut_makes_a_reference_and_starts_the_interval_anew() -> None:
    scenes = pixels(*[20] * 5, *[90] * 4, *[220] * 3)
    assert references(ReferenceSchedule(FrameReuse(4, 0.25, 0.1)), scenes) == (0, 0, 0, 0, 4, 5, 5, 5, 5, 9, 9, 9)
    # Without the gate, scenes have no effect.
    assert references(ReferenceSchedule(FrameReuse(4, 0.25, 1.0)), scenes) == (0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8)


def test_a_slow_change_adds_up() -> None:
    """Frames are compared with their reference, not with the frame before."""
    levels = range(0, 200, 10)
    found = references(ReferenceSchedule(FrameReuse(100, 0.25, 0.1)), pixels(*levels))
    assert sorted(set(found)) == [0, 3, 6, 9, 12, 15, 18]


def test_no_difference_exceeds_one() -> None:
    assert references(ReferenceSchedule(FrameReuse(9, 0.25, 1.0)), pixels(0, 255, 0)) == (0, 0, 0)
    assert references(ReferenceSchedule(FrameReuse(9, 0.25, 0.0)), pixels(7, 7, 8)) == (0, 0, 2)


@pytest.mark.parametrize("together", [1, 2])
@pytest.mark.parametrize("length", [2, 4, 6, 22])
def test_chunks_do_not_change_the_references(length: int, together: int) -> None:
    levels = [0, 0, 3, 90, 90, 91, 92, 92, 92, 10, 10, 10, 10, 10, 10, 10, 200, 200, 0, 0, 0, 0]
    frames = pixels(*levels)
    whole = ReferenceSchedule(FrameReuse(5, 0.25, 0.1), together).add(frames)
    schedule, joined = ReferenceSchedule(FrameReuse(5, 0.25, 0.1), together), list[int]()
    for first in range(0, len(frames), length):
        found = schedule.add(frames[first : first + length])
        before = first // together
        for reference in found.of:
            joined.append(reference + before if reference >= 0 else joined[before - 1])
        if -1 in found.of:
            assert found.earlier is not None
            assert torch.equal(found.earlier, frames[joined[before] * together :][:together])
    assert tuple(joined) == whole.of
    assert schedule.count == len(set(joined))
    assert whole.earlier is None


@pytest.mark.parametrize("size", [(1, 1), (5, 300), (16, 16), (63, 65), (384, 384)])
def test_frames_of_any_size(size: tuple[int, int]) -> None:
    schedule = ReferenceSchedule(FrameReuse(9, 0.25, 0.1))
    assert references(schedule, pixels(10, 10, 60, size=size)) == (0, 0, 2)


def test_part_of_the_picture() -> None:
    """The difference is a mean over the whole picture."""
    frames = pixels(100, 100, 100)
    frames[1, :, :, :8] = 200  # a quarter of the picture: 0.098
    frames[2, :, :, :9] = 200
    assert references(ReferenceSchedule(FrameReuse(9, 0.25, 0.1)), frames) == (0, 0, 2)


# What it needs.
def test_the_full_tower_needs_nothing_more() -> None:
    needs = Needs((5, -2))
    assert tower_needs(needs, TowerConfig()) == needs
    reduced = tower_needs(needs, TowerConfig("stc"))
    assert reduced == Needs((5, -2), reuse=FrameReuse(2, 0.25, 0.1))
    assert not reduced.runs_tower_like(needs)
    assert Needs.union([reduced, tower_needs(Needs((3,)), TowerConfig("stc"))]).reuse == reduced.reuse
    with pytest.raises(ValueError, match="expected one way"):
        Needs.union([reduced, needs])


class Merging:
    def clips(self, frames: int) -> tuple[Clip, ...]:
        return Clip.runs(frames, 1)

    def plan(self, frames: int, patches: int, tokens_per_frame: int, blocks: int) -> tuple[BlockMerging, ...]:
        return ()


def test_methods_that_merge_in_the_tower_are_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"--tower stc does not work .*; use --tower full, or another --method"):
        tower_needs(Needs(merging=Merging()), TowerConfig("stc"))


def test_settings_are_checked() -> None:
    for wrong in ({"interval": 0}, {"share": 0.0}, {"cut": -0.1}):
        with pytest.raises(ConfigError):
            type(TowerConfig().stc)(**wrong)
