"""A video in segments is the video at once, and no more than a segment is held."""

from __future__ import annotations

import copy
import threading
import time
import weakref
from collections.abc import Generator
from contextlib import closing
from dataclasses import replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aot.compression.methods import build_method
from aot.compression.methods.random import RandomTokens
from aot.config.schema import Config, SamplingConfig
from aot.errors import ConfigError, VideoError
from aot.models.families.llava import Llava
from aot.pipeline.chunk_compressor import _join_facts
from aot.types import CompressedTokens, TokenBudget, VideoFrames, VisualTokens
from aot.video import decode
from aot.video.ahead import read_ahead
from aot.video.sampling import segment_lengths
from tests.support.compressed import compress_video

FRAMES = 11
METHODS = ("aot", "random", "uniform", "attention", "frames", "none")


def config(method: str, segment_frames: int, **more: Any) -> Config:
    return Config(method=method, ratio=0.3, sampling=SamplingConfig(FRAMES, segment_frames=segment_frames), **more)


def part_of(visual: VisualTokens, first: int, stop: int) -> VisualTokens:
    embeddings = visual.frame_embeddings
    attention = visual.pooling_attention
    return replace(
        visual,
        features=visual.features[first:stop],
        timestamps_s=visual.timestamps_s[first:stop],
        saliency={layer: values[first:stop] for layer, values in visual.saliency.items()},
        keys={layer: values[first:stop] for layer, values in visual.keys.items()},
        frame_embeddings=None if embeddings is None else embeddings[first:stop],
        pooling_attention=None if attention is None else attention[first:stop],
    )


def at_once(clip: Path, model: Llava, settings: Config) -> list[tuple[int, CompressedTokens]]:
    """The whole video decoded and encoded, then cut: each segment's first frame and its kept tokens."""
    method, length = build_method(settings), settings.sampling.segment_frames
    visual = model.encode(decode(clip, settings.sampling, size=model.image_size), method.needs)
    parts, before = [], 0
    for first, stop in pairwise([0, *accumulate(segment_lengths(FRAMES, length))]):
        budget = settings.token_budget(stop, model.tokens_per_frame)
        parts.append((first, method.compress(part_of(visual, first, stop), budget - before)))
        before = budget
    return parts


@pytest.mark.parametrize("segment_frames", [1, 4, 5, 11, 64])
@pytest.mark.parametrize("method", METHODS)
def test_segments_are_the_video_at_once(clip_file: Path, small_model: Llava, method: str, segment_frames: int) -> None:
    settings = config(method, segment_frames)
    found = compress_video(clip_file, small_model, settings).tokens
    parts = at_once(clip_file, small_model, settings)
    for name in ("features", "row", "col", "role", "mass"):
        assert torch.equal(getattr(found, name), torch.cat([getattr(part, name) for _, part in parts])), name
    assert torch.equal(found.frame, torch.cat([part.frame + first for first, part in parts]))
    assert [(clip.first, clip.stop) for clip in found.clips] == [
        (first + clip.first, first + clip.stop) for first, part in parts for clip in part.clips
    ]
    assert found.timestamps_s == tuple(t for _, part in parts for t in part.timestamps_s)


@pytest.mark.parametrize("ratio", [0.08, 0.1, 0.33])
@pytest.mark.parametrize("segment_frames", [1, 3, 4, 64])
def test_the_budget_is_exact_for_the_whole(
    clip_file: Path, small_model: Llava, ratio: float, segment_frames: int
) -> None:
    settings = replace(config("aot", segment_frames), ratio=ratio)
    result = compress_video(clip_file, small_model, settings)
    assert len(result.tokens.features) == round(ratio * FRAMES * 25) == result.report.budget_tokens
    assert sum(frame.kept for frame in result.report.frames) == result.report.kept_tokens


def test_a_method_is_given_the_ratio_with_every_budget(
    clip_file: Path, small_model: Llava, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Published counts follow from the ratio itself, which no rounded number of tokens says."""
    ratios, plain = [], RandomTokens.compress

    def compress(self: RandomTokens, tokens: VisualTokens, budget: int) -> CompressedTokens:
        ratios.append(TokenBudget.ratio_of(budget, 1))
        return plain(self, tokens, budget)

    monkeypatch.setattr(RandomTokens, "compress", compress)
    settings = replace(config("random", 3), ratio=0.123)
    compress_video(clip_file, small_model, settings)
    assert len(ratios) > 1 and set(ratios) == {0.123}


def test_a_copied_budget_keeps_its_ratio() -> None:
    copied = copy.deepcopy(TokenBudget(3, 0.25))
    assert (copied, copied.ratio) == (3, 0.25)


def test_the_report_is_of_the_whole(clip_file: Path, small_model: Llava) -> None:
    whole, cut = (compress_video(clip_file, small_model, config("aot", length)).report for length in (64, 4))
    assert [frame.similarity for frame in cut.frames] == pytest.approx([frame.similarity for frame in whole.frames])
    assert [frame.timestamp_s for frame in cut.frames] == [frame.timestamp_s for frame in whole.frames]
    assert [frame.clip for frame in cut.frames] == [0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]
    assert cut.facts["clip_mode"] == "fixed"
    assert cut.visual_tokens == FRAMES * 25
    assert min(cut.stage_ms[name] for name in ("decode", "encode", "compress")) > 0


def test_facts_that_differ_are_a_range(clip_file: Path, small_model: Llava) -> None:
    facts = compress_video(clip_file, small_model, config("aot", 5)).report.facts
    assert facts["clip_mode"] == "fixed"
    low, high = str(facts["intra_marginal_error"]).split(" to ")
    assert 0 < float(low) < float(high)


def test_a_segment_without_a_fact_does_not_count() -> None:
    """Where all patches are anchors nothing is transported, and there are no iterations."""
    joined = _join_facts([{"iterations": None}, {"iterations": 3}, {"iterations": 2}])
    assert joined == {"iterations": "2 to 3"}
    assert _join_facts([{"iterations": None}, {"iterations": None}]) == {"iterations": None}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("frames", [17, 18, 19, 20, 23, 24])
def test_a_short_rest_does_not_make_a_ratio_too_small(
    clip_file: Path, small_model: Llava, method: str, frames: int
) -> None:
    settings = Config(method=method, ratio=0.02, sampling=SamplingConfig(frames, segment_frames=16))
    kept = compress_video(clip_file, small_model, settings).report.kept_tokens
    assert method == "none" or kept == round(0.02 * frames * 25)


@given(st.integers(1, 700), st.integers(1, 70))
def test_segments_are_few_and_about_equal(frames: int, most: int) -> None:
    lengths = segment_lengths(frames, most)
    assert sum(lengths) == frames
    assert len(lengths) == -(-frames // most)
    assert max(lengths) <= most
    assert min(lengths) > 0 and max(lengths) - min(lengths) <= (8 if most % 8 == 0 and most > 8 else 1)
    if most % 8 == 0 and most > 8:
        assert all(length % 8 == 0 for length in lengths[:-1])


@given(st.integers(1, 700), st.integers(1, 70), st.integers(1, 5))
def test_segments_part_nothing_that_belongs_together(frames: int, times: int, together: int) -> None:
    most = times * together
    lengths = segment_lengths(frames, most, together)
    assert sum(lengths) == frames and len(lengths) == -(-frames // most)
    assert min(lengths) > 0 and max(lengths) <= most
    assert all(length % together == 0 for length in lengths[:-1])
    assert segment_lengths(frames, frames + times, together) == [frames]


def test_one_segment_is_held_at_a_time(clip_file: Path, small_model: Llava, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[weakref.ref[torch.Tensor]] = []
    most = []
    encode = Llava.encode

    def watched(self: Llava, frames: VideoFrames, *rest: Any, **named: Any) -> VisualTokens:
        most.append(sum(each() is not None for each in held))
        visual = encode(self, frames, *rest, **named)
        held.extend([weakref.ref(visual.features), weakref.ref(frames.pixels)])
        return visual

    monkeypatch.setattr(Llava, "encode", watched)
    compress_video(clip_file, small_model, config("attention", 2))
    assert most == [0] * 6


@pytest.mark.parametrize("ratio", [0.001, 0.05])
def test_a_failure_ends_the_decoding_thread(clip_file: Path, small_model: Llava, ratio: float) -> None:
    with pytest.raises(ConfigError, match="--ratio"):
        compress_video(clip_file, small_model, replace(config("aot", 1), ratio=ratio / 2))
    assert not [thread for thread in threading.enumerate() if thread.name == "aot-ahead"]


def test_progress_is_over_the_whole_video(clip_file: Path, small_model: Llava) -> None:
    calls: list[tuple[str, int, int]] = []
    compress_video(clip_file, small_model, config("uniform", 4), on_progress=lambda *call: calls.append(call))
    for stage in ("decode", "encode", "compress"):
        steps = [done for name, done, total in calls if name == stage]
        assert {total for name, _, total in calls if name == stage} == {FRAMES}
        assert all(a < b for a, b in pairwise(steps))
        assert steps[-1] == FRAMES


# --- Reading ahead


def test_items_come_in_order_and_ahead() -> None:
    fifth_is_made = threading.Event()

    def numbers() -> Generator[int, None, None]:
        for number in range(50):
            if number == 4:  # one was taken, three wait, and this one is offered
                fifth_is_made.set()
            yield number

    with closing(read_ahead(numbers(), 3)) as items:
        assert next(items) == 0
        assert fifth_is_made.wait(timeout=60)
        assert list(items) == list(range(1, 50))


def test_an_exception_comes_at_its_place() -> None:
    def broken() -> Generator[int, None, None]:
        yield 1
        raise VideoError("torn")

    items = read_ahead(broken())
    assert next(items) == 1
    with pytest.raises(VideoError, match="torn"):
        next(items)


def test_leaving_early_closes_what_was_read() -> None:
    closed = threading.Event()

    def endless() -> Generator[int, None, None]:
        try:
            while True:
                yield 1
        finally:
            closed.set()

    items = read_ahead(endless(), 2)
    next(items)
    items.close()
    assert closed.is_set()
    assert not [thread for thread in threading.enumerate() if thread.name == "aot-ahead"]


@pytest.mark.parametrize("runs", [True, False])
def test_ctrl_c_while_its_thread_is_started(monkeypatch: pytest.MonkeyPatch, runs: bool) -> None:
    """Nobody uses the items afterwards, whether the thread has begun by then or not."""
    begin, begun, threads = threading.Thread.start, threading.Event(), list[threading.Thread]()

    def slow() -> Generator[int, None, None]:
        begun.set()
        while True:
            time.sleep(0.3)
            yield 1

    def interrupted(thread: threading.Thread) -> None:
        threads.append(thread)
        if runs:
            begin(thread)
            assert begun.wait(60)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    items = slow()
    with pytest.raises(KeyboardInterrupt), closing(items):
        next(read_ahead(items))
    if not runs:
        threads[0].run()  # as a thread of the system that comes late
    assert begun.is_set() == runs
