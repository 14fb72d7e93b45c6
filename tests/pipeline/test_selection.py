"""Frames chosen by a question, from the file to the report."""

from __future__ import annotations

import io
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from aot.compression.methods import build_method
from aot.compression.ops.frame_choice import choose_frames
from aot.config.schema import Config, ModelConfig, SamplingConfig
from aot.errors import ConfigError
from aot.models import load_model
from aot.models.families.llava import Llava
from aot.pipeline.frame_selection import check_questions
from aot.storage.tokens_file import load_tokens, save_tokens
from aot.types import Needs, VisualTokens
from aot.video import decode
from tests.support.compressed import compress_video

FRAMES, CHOSEN = 11, 4
QUESTION = "where is the red square?"


def config(**more: Any) -> Config:
    sampling = SamplingConfig(FRAMES, select_frames=CHOSEN, duplicate_similarity=more.pop("duplicate_similarity", 0.95))
    return Config(ratio=0.3, sampling=replace(sampling, segment_frames=more.pop("segment_frames", 64)), **more)


def straight(clip: Path, model: Llava, settings: Config, questions: list[str]) -> list[int]:
    """The choice from all frames at once."""
    sampling = replace(settings.sampling, select_frames=None)
    visual = model.encode(decode(clip, sampling, size=model.image_size), Needs(frame_embeddings=True))
    scorer = model.frame_scorer(questions)
    assert scorer is not None and visual.frame_embeddings is not None
    scorer.add(visual)
    return choose_frames(scorer.scores(), visual.frame_embeddings, CHOSEN, sampling.duplicate_similarity)


@pytest.mark.parametrize(
    ("method", "segment_frames"),
    [*product(("aot", "none", "random"), (1, 3, 64)), ("tome", 64)],  # tome merges within segments
)
def test_the_chosen_frames_alone_are_compressed(
    clip_file: Path, small_model: Llava, method: str, segment_frames: int
) -> None:
    """The method gets what it would of a video with those frames only, however the video is cut into segments."""
    settings = config(method=method, segment_frames=segment_frames)
    result = compress_video(clip_file, small_model, settings, questions=[QUESTION])
    chosen = straight(clip_file, small_model, settings, [QUESTION])
    pictures = decode(clip_file, SamplingConfig(FRAMES), size=small_model.image_size)
    times = tuple(pictures.timestamps_s[frame] for frame in chosen)
    assert result.tokens.timestamps_s == times
    assert [row.timestamp_s for row in result.report.frames] == list(times)
    assert len(result.report.frames) == CHOSEN
    assert result.report.visual_tokens == CHOSEN * 25
    if method != "none":
        assert len(result.tokens.features) == round(0.3 * CHOSEN * 25) == result.report.budget_tokens
    if segment_frames == 64:
        only = replace(pictures, pixels=pictures.pixels[chosen], timestamps_s=times)
        built = build_method(settings)
        expected = built.compress(small_model.encode(only, built.needs), len(result.tokens.features))
        assert torch.equal(result.tokens.features, expected.features)


def test_the_report_tells(clip_file: Path, small_model: Llava, tmp_path: Path) -> None:
    result = compress_video(clip_file, small_model, config(), questions=[QUESTION])
    chosen = straight(clip_file, small_model, config(), [QUESTION])
    assert result.report.facts["sampled_frames"] == FRAMES
    assert result.report.facts["selected_frames"] == " ".join(map(str, chosen))
    assert "4 of 11 sampled frames were chosen, by the question's own words" in result.report.notices
    save_tokens(tmp_path / "t.pt", result.tokens, result.report)
    file = load_tokens(tmp_path / "t.pt")
    assert file.tokens.timestamps_s == result.tokens.timestamps_s
    assert file.report.facts["selected_by"] == "the question's own words"
    assert file.report.config == config()


def test_it_is_the_same_every_time_and_follows_the_questions(clip_file: Path, small_model: Llava) -> None:
    def times(*questions: str) -> tuple[float, ...]:
        return compress_video(clip_file, small_model, config(), questions=questions).tokens.timestamps_s

    words = ("cat", "zebra", "moon", "tree", "xylophone", "house")
    assert times(QUESTION) == times(QUESTION)
    assert len({times(word) for word in words}) > 1
    assert times(*words) == times(*words[::-1])
    told = compress_video(clip_file, small_model, config(), questions=words).report.notices
    assert any("the mean over 6 questions" in notice for notice in told)


def test_a_choice_among_no_more_frames_encodes_once(
    clip_file: Path, small_model: Llava, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    encode = Llava.encode

    def counted(self: Llava, *given: Any, **named: Any) -> VisualTokens:
        calls.append(1)
        return encode(self, *given, **named)

    monkeypatch.setattr(Llava, "encode", counted)
    every = replace(config(), sampling=SamplingConfig(FRAMES, select_frames=FRAMES))
    kept = compress_video(clip_file, small_model, every, questions=[QUESTION])
    plain = compress_video(clip_file, small_model, replace(every, sampling=SamplingConfig(FRAMES)))
    assert len(calls) == 2
    assert torch.equal(kept.tokens.features, plain.tokens.features)
    assert "selected_frames" not in kept.report.facts
    assert any("not fewer than the 11 sampled" in notice for notice in kept.report.notices)


def test_a_question_without_a_word_to_go_by_spreads_evenly(clip_file: Path, small_model: Llava) -> None:
    result = compress_video(clip_file, small_model, config(), questions=["What happens in the video?"])
    assert result.report.facts["selected_frames"] == "0 3 6 10"
    assert any("even spread" in notice for notice in result.report.notices)


def test_standard_input_is_read_twice(clip_file: Path, small_model: Llava, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stdin:
        buffer = io.BytesIO(clip_file.read_bytes())

    expected = compress_video(clip_file, small_model, config(), questions=[QUESTION])
    monkeypatch.setattr(sys, "stdin", Stdin)
    found = compress_video("-", small_model, config(), questions=[QUESTION])
    assert torch.equal(found.tokens.features, expected.tokens.features)
    assert found.report.video.path == "standard input"


def test_without_a_question_or_a_model_that_scores_it_is_refused(clip_file: Path, small_model: Llava) -> None:
    class Other:
        def __getattr__(self, name: str) -> Any:
            if name == "frame_scorer":
                raise AttributeError(name)
            return getattr(small_model, name)

    with pytest.raises(ConfigError, match="--select-frames"):
        compress_video(clip_file, small_model, config())
    with pytest.raises(ConfigError, match="cannot score frames"):
        compress_video(clip_file, Other(), config(), questions=[QUESTION])
    check_questions(SamplingConfig(), [])


def test_progress_and_times_hold_both_passes(clip_file: Path, small_model: Llava) -> None:
    calls: list[tuple[str, int, int]] = []
    settings = config(segment_frames=4)
    report = compress_video(
        clip_file, small_model, settings, [QUESTION], on_progress=lambda *call: calls.append(call)
    ).report
    assert [call[1:] for call in calls if call[0] == "select"] == [(3, 11), (7, 11), (11, 11)]
    assert [call for call in calls if call[0] == "encode"][-1] == ("encode", CHOSEN, CHOSEN)
    assert min(report.stage_ms.values()) > 0


# --- A model that reads frames in pairs


@pytest.mark.parametrize(("wanted", "pairs"), [(4, 2), (5, 2), (1, 1), (7, 3)])
@pytest.mark.parametrize("segment_frames", [4, 64])
@pytest.mark.parametrize("question", [QUESTION, "?"])
@pytest.mark.parametrize("family", ["qwen25", "qwen3"])
def test_frames_that_are_read_together_are_chosen_together(
    clip_file: Path,
    request: pytest.FixtureRequest,
    family: str,
    question: str,
    segment_frames: int,
    wanted: int,
    pairs: int,
) -> None:
    folder = request.getfixturevalue(f"{family}_folder")
    model = load_model(ModelConfig(name=str(folder), device="cpu", dtype="float32", frame_pixels=600))
    sampling = SamplingConfig(FRAMES, select_frames=wanted, segment_frames=segment_frames)
    result = compress_video(clip_file, model, Config(method="none", sampling=sampling), questions=[question])
    chosen = [int(index) for index in str(result.report.facts["selected_frames"]).split()]
    firsts = chosen[::2]
    assert len(firsts) == pairs == len(result.tokens.timestamps_s) and all(first % 2 == 0 for first in firsts)
    assert chosen == [index for first in firsts for index in (first, first + 1) if index < FRAMES]
    assert result.report.facts["sampled_frames"] == FRAMES
    pictures = decode(clip_file, SamplingConfig(FRAMES), size=(16, 24))
    times = tuple(pictures.timestamps_s[frame] for frame in chosen)
    only = model.encode(replace(pictures, pixels=pictures.pixels[chosen], timestamps_s=times), Needs())
    assert result.tokens.timestamps_s == only.timestamps_s
    torch.testing.assert_close(result.tokens.features, only.features.flatten(0, 1), rtol=1e-4, atol=1e-4)
