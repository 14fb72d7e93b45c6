from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest

from aot.config.schema import SamplingConfig
from aot.shapes.clips import FRAMES_PER_SECOND, write_clip, write_questions
from aot.shapes.film import FRAMES, SAMPLED_TIMES
from aot.shapes.film_sampling import sample_film
from aot.shapes.questions import questions
from aot.shapes.render import render
from aot.shapes.world import BEATS, sample_scene
from aot.video import decode


@pytest.fixture(scope="module")
def decoded(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    path = tmp_path_factory.mktemp("scene") / "clip.mp4"
    write_clip(sample_scene(3), path)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, float(stream.average_rate or 0)) == ("h264", FRAMES_PER_SECOND)
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])


def test_a_clip_is_eight_seconds_long(decoded: np.ndarray) -> None:
    assert decoded.shape == (BEATS * FRAMES_PER_SECOND, 360, 360, 3)


def test_a_clip_shows_the_scene(decoded: np.ndarray) -> None:
    drawn = render(sample_scene(3), np.arange(len(decoded)) / FRAMES_PER_SECOND, 360)
    error = np.abs(decoded.astype(int) - drawn.astype(int))
    assert error.mean() < 6  # the codec takes noise and color detail
    wrong = np.abs(decoded.astype(int) - np.roll(drawn, 16, 0).astype(int))
    assert error.mean() < wrong.mean()


def test_the_data_set_asks_every_question_of_every_scene(tmp_path: Path) -> None:
    told: list[int] = []
    path = write_questions(tmp_path / "set", [4, 8], told.append)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    expected = [
        {"video": f"shapes-{seed}.mp4", "question": qa.question, "answer": qa.answer, "family": qa.family}
        for seed in (4, 8)
        for qa in questions(sample_scene(seed))
    ]
    assert rows == expected
    assert told == [1, 2]
    assert sorted(p.name for p in path.parent.iterdir()) == ["questions.jsonl", "shapes-4.mp4", "shapes-8.mp4"]


def test_clips_that_are_there_are_not_drawn_again(tmp_path: Path) -> None:
    write_questions(tmp_path, [4])
    (tmp_path / "shapes-4.mp4").write_bytes(b"as it was")
    path = write_questions(tmp_path, [4, 8])
    assert (tmp_path / "shapes-4.mp4").read_bytes() == b"as it was"
    assert {json.loads(line)["video"] for line in path.read_text().splitlines()} == {"shapes-4.mp4", "shapes-8.mp4"}


def test_films_are_read_at_the_times_that_their_questions_are_about(tmp_path: Path) -> None:
    path = write_questions(tmp_path, [5], world="films")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [(row["video"], row["question"]) for row in rows] == [
        ("films-5.mp4", qa.question) for qa in questions(sample_film(5))
    ]
    frames = decode(tmp_path / "films-5.mp4", SamplingConfig(frames=FRAMES), size=(90, 90))
    assert frames.timestamps_s == pytest.approx(SAMPLED_TIMES)
    shown = frames.pixels.numpy().transpose(0, 2, 3, 1).astype(int)
    drawn = render(sample_film(5), SAMPLED_TIMES).astype(int)
    assert np.abs(shown - drawn).mean((1, 2, 3)).max() < 12
