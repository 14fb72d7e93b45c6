"""Recorded chunks give the kept tokens of the first encoding, from memory and from the temporary file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from aot.config.schema import build_config
from aot.errors import OutputError
from aot.models import VideoModel
from aot.pipeline.recording import Recordings
from aot.pipeline.run import Compression, Pipeline, Refusal, compress_each
from aot.types import Needs, VideoFrames, VisualTokens
from aot.video import open_file

METHODS = ("standout", "attention", "aot", "vidcom2")


def pipelines(model: VideoModel, *methods: str) -> list[Pipeline]:
    shared = {"sampling": {"frames": 8, "segment_frames": 3}, "ratio": 0.3}
    return [Pipeline(model, build_config({**shared, "method": method})) for method in methods]


@pytest.fixture
def encoded(small_model: VideoModel, monkeypatch: pytest.MonkeyPatch) -> list[Needs]:
    found = []
    encode = type(small_model).encode

    def counted(self: VideoModel, frames: VideoFrames, needs: Needs, *more: Any, **named: Any) -> VisualTokens:
        found.append(needs)
        return encode(self, frames, needs, *more, **named)

    monkeypatch.setattr(type(small_model), "encode", counted)
    return found


@pytest.mark.parametrize("most_bytes", [2**30, 0])
def test_each_video_is_encoded_once(
    most_bytes: int,
    small_model: VideoModel,
    clip_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    encoded: list[Needs],
) -> None:
    monkeypatch.setattr("aot.pipeline.recording._MOST_BYTES_IN_MEMORY", most_bytes)
    runs = pipelines(small_model, *METHODS)
    with open_file(clip_file) as file:
        fresh = [result for _, result in compress_each(runs, file)]
        encoded.clear()
        with Recordings([run.needs for run in runs], tmp_path) as recordings:
            for run, expected in zip(runs, fresh, strict=True):
                ((_, found),) = compress_each([run], file, recordings=recordings)
                assert isinstance(found, Compression) and isinstance(expected, Compression)
                assert torch.equal(found.tokens.features, expected.tokens.features)
                assert torch.equal(found.tokens.frame, expected.tokens.frame)
                assert [each.similarity for each in found.report.frames] == [
                    each.similarity for each in expected.report.frames
                ]
            assert len(list(tmp_path.glob(".aot-*"))) == (most_bytes == 0)
    assert len(encoded) == 3, "three chunks"
    assert not list(tmp_path.iterdir())


def test_what_only_one_can_use_is_not_recorded(
    small_model: VideoModel, clip_file: Path, tmp_path: Path, encoded: list[Needs]
) -> None:
    runs = pipelines(small_model, "attention", "aot", "tome")
    with open_file(clip_file) as file, Recordings([run.needs for run in runs], tmp_path) as recordings:
        for _ in range(2):
            for _, result in compress_each(runs, file, recordings=recordings):
                assert not isinstance(result, Refusal)
    assert [needs.merging is not None for needs in encoded].count(False) == 3
    assert [needs.merging is not None for needs in encoded].count(True) == 6


def test_a_full_disk(small_model: VideoModel, clip_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aot.pipeline.recording._MOST_BYTES_IN_MEMORY", 0)
    runs = pipelines(small_model, *METHODS)
    with (
        open_file(clip_file) as file,
        Recordings([run.needs for run in runs], Path("/nowhere")) as recordings,
        pytest.raises(OutputError, match=r"could not be kept in /nowhere: .*; free some space"),
    ):
        list(compress_each(runs, file, recordings=recordings))
