"""What a model does with a video before its first token never makes the host wait for the device."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from aot.compression.in_tower.earlytom import FrameMerger
from aot.compression.in_tower.stc import ReferenceSchedule
from aot.compression.methods import build_method
from aot.compression.methods.none import NoCompression
from aot.compression.ops.read_later import FactsReadLater
from aot.config.schema import Config, GenerationConfig, SamplingConfig
from aot.errors import NumericsError
from aot.models.vision import encoding
from aot.models.vision.encoding import TowerPass, run_tower
from aot.models.vision.frame_merging_tower import FrameStages
from aot.models.vision.reusing_tower import FrameBatch
from aot.pipeline.chunk_compressor import ChunkCompressor
from aot.pipeline.run import Pipeline, compress_each
from aot.pipeline.stream import VideoEncoder
from aot.runtime.stages import StageClock
from aot.types import CompressedTokens, FrameMerging, FrameReuse, VisualTokens
from tests.support.model_inputs import QUESTION, frames_for
from tests.support.syncs import counted_syncs

if TYPE_CHECKING:
    from pathlib import Path

    from aot.models.families.llava import Llava


@torch.no_grad()
def test_the_tower(small_model: Llava) -> None:
    frames, needs = frames_for(small_model, 3), build_method(Config()).needs
    with counted_syncs() as waits:
        small_model._tower_pass(frames.pixels, needs)
    assert not waits


@torch.no_grad()
def test_reuse_between_frames(small_model: Llava) -> None:
    """References are chosen on the host, and their number is known there."""
    frames = frames_for(small_model, 7)
    needs = replace(build_method(Config()).needs, reuse=FrameReuse(3, 0.25, 0.5))
    with counted_syncs() as waits:
        marked = ReferenceSchedule(FrameReuse(3, 0.25, 0.5)).mark(frames)
        assert marked.references is not None
        batch = FrameBatch.of(marked.references.of, 0, 7)
        small_model._tower_pass(batch.pixels(frames.pixels, marked.references, 1), needs, batch)
    assert not waits
    assert len(batch.reference_of) == 4


@torch.no_grad()
def test_merging_of_frames(small_model: Llava) -> None:
    """Once after each chosen block, for the similarity; its segments are then read on the host."""
    merging = FrameMerging((0, 1), -1.0, 8, 0.9, True)
    needs = replace(build_method(Config(method="earlytom")).needs, frame_merging=merging)
    stages = FrameStages(FrameMerger(merging, (0, 1), 7), 4)
    with counted_syncs() as waits:
        small_model._tower_pass(frames_for(small_model, 7).pixels, needs, stages)
    assert waits == {"tolist": 2 * 2}
    assert stages.merger.count < 7


def test_the_prompt(small_model: Llava) -> None:
    method = build_method(Config(ratio=0.3))
    tokens = method.compress(small_model.encode(frames_for(small_model, 4), method.needs), 30)
    with counted_syncs() as waits:
        small_model.prompt(tokens, QUESTION)
    assert not waits


CPU = torch.device("cpu")


@pytest.fixture
def queues(monkeypatch: pytest.MonkeyPatch) -> None:
    """Encode as on a device that queues its work."""
    monkeypatch.setattr(encoding, "_is_queued", lambda device: True)


@pytest.mark.usefixtures("queues")
def test_the_encoder(small_model: Llava) -> None:
    frames, needs = frames_for(small_model, 3), build_method(Config()).needs
    with counted_syncs() as waits:
        visual = small_model.encode(frames, needs)
    assert not waits
    assert visual.finite is not None and bool(visual.finite)


@pytest.mark.usefixtures("queues")
def test_the_encoder_with_reuse(small_model: Llava) -> None:
    frames, needs = frames_for(small_model, 5), replace(build_method(Config()).needs, reuse=FrameReuse(2, 0.25, 0.5))
    with counted_syncs() as waits:
        small_model.encode(frames, needs)
    assert not waits


@pytest.mark.usefixtures("queues")
def test_a_chunk_of_a_video(small_model: Llava, clip_file: Path) -> None:
    """The frames' similarity is copied, and read when somebody asks."""
    sampling, needs = SamplingConfig(8, segment_frames=4), build_method(Config()).needs
    before: list[int] = []
    with counted_syncs() as waits:
        video = VideoEncoder(small_model, sampling, needs, StageClock(CPU)).run(
            clip_file, lambda visual: before.append(len(waits))
        )
    assert before == [0, 0]
    assert not waits
    assert len(video.similarity.read()) == 7


def nonsense(first: int, stop: int) -> TowerPass:
    return TowerPass(torch.full((stop - first, 81, 8), torch.nan))


def test_nonsense_is_refused_before_anything_reads_it() -> None:
    with pytest.raises(NumericsError, match="the vision tower produced NaN"):
        run_tower(3, 2, nonsense, print, None)


@pytest.mark.usefixtures("queues")
@pytest.mark.parametrize("method", ["aot", "random"])
def test_nonsense_that_is_queued_is_refused_with_the_tokens(small_model: Llava, method: str) -> None:
    config = Config(method=method, ratio=0.3)
    built = build_method(config)
    compressor = ChunkCompressor(built, config, StageClock(CPU))
    frames = frames_for(small_model, 4)
    whole = run_tower(4, 2, nonsense, print, None)
    good = small_model.encode(frames, built.needs)
    visual = replace(good, features=whole.features, finite=whole.finite)
    with pytest.raises(NumericsError, match="the vision tower produced NaN"):
        compressor.add(visual)  # AOT then keeps a wrong number, which the host knows at once
        unread = compressor.tokens().unread
        assert unread is not None
        unread.read()


# --- From the pixels to the first token

ASKED = Config(sampling=SamplingConfig(8, segment_frames=4), generation=GenerationConfig(max_new_tokens=4))


@pytest.mark.usefixtures("queues")
@pytest.mark.parametrize("method", ["none", "uniform"])
def test_until_the_first_token_is_queued(small_model: Llava, clip_file: Path, method: str) -> None:
    """Then the report is read, and last the token."""
    pipeline = Pipeline(small_model, replace(ASKED, method=method, ratio=0.3))
    with counted_syncs() as waits:
        kept = pipeline.compress(clip_file)
        pieces = pipeline.answer(kept.tokens, QUESTION).pieces()
        assert next(pieces) == ""
        assert not waits
        assert sum(frame.kept for frame in kept.report.frames) == kept.report.kept_tokens
        assert waits
    assert "".join(pieces)


@pytest.mark.usefixtures("queues")
def test_facts_of_several_chunks_are_read_with_the_report(small_model: Llava, clip_file: Path) -> None:
    numbers = itertools.count(1)

    class WithFacts(NoCompression):
        def compress(self, tokens: VisualTokens, budget: int) -> CompressedTokens:
            return replace(super().compress(tokens, budget), facts=FactsReadLater(lambda: {"number": next(numbers)}))

    kept = Pipeline(small_model, replace(ASKED, method="none"), lambda outer: WithFacts()).compress(clip_file)
    next(small_model.generate(kept.tokens, QUESTION, ASKED.generation).pieces())
    assert next(numbers) == 1  # nobody has read a fact
    assert kept.report.facts == {"number": "2 to 3"}


@pytest.fixture
def broken(small_model: Llava, queues: None, monkeypatch: pytest.MonkeyPatch) -> Llava:
    """A model whose tower gives NaN, which a device that queues its work says late."""
    projector = small_model.network.model.multi_modal_projector
    whole = projector.forward
    monkeypatch.setattr(projector, "forward", lambda states: whole(states) * torch.nan)
    return small_model


def test_nonsense_stops_an_answer_before_its_first_text(broken: Llava, clip_file: Path) -> None:
    pipeline = Pipeline(broken, replace(ASKED, method="uniform", ratio=0.3))
    kept = pipeline.compress(clip_file)
    pieces: list[str] = []
    with pytest.raises(NumericsError, match="the vision tower produced NaN"):
        pieces.extend(pipeline.answer(kept.tokens, QUESTION))
    assert not "".join(pieces)
    with pytest.raises(NumericsError, match="the vision tower produced NaN"):
        kept.report  # noqa: B018
    with pytest.raises(NumericsError):  # others wait at once
        list(compress_each([pipeline], clip_file))
