from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from aot.config.schema import Config, SamplingConfig
from aot.errors import MemoryLimitError
from aot.models.families.llava import Llava
from aot.models.vision import microbatch
from aot.models.vision.microbatch import batch_size_for, micro_batches
from tests.support.compressed import compress_video


def room_for(most: int, error: Callable[[], Exception] = torch.OutOfMemoryError) -> Callable[[int, int], range]:
    """Work that fails with more than `most` frames at once."""

    def run(first: int, stop: int) -> range:
        if stop - first > most:
            raise error()
        return range(first, stop)

    return run


def test_every_frame_comes_once_and_in_order() -> None:
    sizes: list[int] = []
    found = list(micro_batches(11, 4, room_for(99), sizes.append))
    assert found == [(0, range(0, 4)), (4, range(4, 8)), (8, range(8, 11))]
    assert not sizes


@pytest.mark.parametrize(("frame_bytes", "frames"), [(1, 8), (200 << 20, 8), (1 << 30, 4), (3 << 30, 1), (9 << 30, 1)])
def test_large_frames_go_through_the_cpu_one_by_one(frame_bytes: int, frames: int) -> None:
    assert batch_size_for(torch.device("cpu"), frame_bytes) == frames


def out_of_host_memory() -> Exception:
    return RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 byte")


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError, out_of_host_memory])
def test_the_size_is_halved_until_it_fits(error: Callable[[], Exception]) -> None:
    sizes: list[int] = []
    found = list(micro_batches(11, 8, room_for(3, error), sizes.append))
    assert [number for _, batch in found for number in batch] == list(range(11))
    assert max(len(batch) for _, batch in found) == 2
    assert sizes == [4, 2]


def test_a_size_beyond_what_is_left_is_no_new_try() -> None:
    sizes: list[int] = []
    assert len(list(micro_batches(3, 64, room_for(1), sizes.append))) == 3
    assert sizes == [1]


def test_one_frame_too_many_is_the_end() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        list(micro_batches(4, 4, room_for(0), lambda _: None))


@pytest.mark.parametrize(
    ("size", "borders", "expected"),
    [
        (4, (0, 3, 6, 9), [(0, 3), (3, 6), (6, 10)]),
        (2, (0, 3, 6, 9), [(0, 2), (2, 3), (3, 5), (5, 6), (6, 8), (8, 10)]),
        (8, (0, 3, 6, 9), [(0, 6), (6, 10)]),
        (16, (0, 3), [(0, 10)]),
    ],
)
def test_batches_end_at_borders(size: int, borders: tuple[int, ...], expected: list[tuple[int, int]]) -> None:
    found = [run for _, run in micro_batches(10, size, lambda *run: run, print, borders)]
    assert found == expected


def test_other_failures_are_not_tried_again() -> None:
    calls = []

    def broken(first: int, stop: int) -> None:
        calls.append(first)
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        list(micro_batches(4, 4, broken, lambda _: None))
    assert calls == [0]


def test_free_memory_sets_the_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (3 * 2**30, 80 * 2**30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 2**30)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 0)
    device = torch.device("cuda")
    assert batch_size_for(device, 2**28) == 8  # half of four gigabytes
    assert batch_size_for(device, 2**40) == 1
    assert batch_size_for(device, 1) == microbatch._MOST_FRAMES


@pytest.fixture
def starved(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """A vision tower that runs out of memory after it has attended, with more than so many frames."""

    def starve(most: int) -> None:
        tower = Llava._tower_features

        def features(self: Llava, network: Any, pixels: torch.Tensor, least_blocks: int) -> torch.Tensor:
            hidden = tower(self, network, pixels, least_blocks)
            if len(pixels) > most:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return hidden

        monkeypatch.setattr(Llava, "_tower_features", features)

    return starve


def test_a_video_that_did_not_fit_at_first_gives_the_same_tokens(
    small_model: Llava, clip_file: Path, starved: Callable[[int], None]
) -> None:
    config = Config(ratio=0.3, sampling=SamplingConfig(11))
    expected = compress_video(clip_file, small_model, config)
    starved(2)
    model = Llava(small_model.network, small_model.tokenizer, small_model.config, small_model.identity)
    found = compress_video(clip_file, model, config)
    assert torch.allclose(found.tokens.features, expected.tokens.features, atol=1e-5)
    assert torch.equal(found.tokens.row, expected.tokens.row)
    found_notices = [notice for notice in found.report.notices if "out of memory" in notice]
    assert [("with 4 frames" in notice, "with 2 frames" in notice) for notice in found_notices] == [(1, 0), (0, 1)]


def test_what_fits_is_remembered(small_model: Llava, clip_file: Path, starved: Callable[[int], None]) -> None:
    starved(2)
    config = Config(ratio=0.3, sampling=SamplingConfig(8, segment_frames=4))
    model = Llava(small_model.network, small_model.tokenizer, small_model.config, small_model.identity)
    found = compress_video(clip_file, model, config).report.notices
    assert len([notice for notice in found if "out of memory" in notice]) == 1  # in the first segment of four frames
    assert model._batch_size() == 2


def test_no_room_for_one_frame_is_told_with_a_remedy(
    small_model: Llava, clip_file: Path, starved: Callable[[int], None]
) -> None:
    starved(0)
    with pytest.raises(MemoryLimitError, match="--frames"):
        compress_video(clip_file, small_model, Config(ratio=0.3, sampling=SamplingConfig(4)))
