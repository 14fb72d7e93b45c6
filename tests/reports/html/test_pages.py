"""The page of a compression, made from Python."""

from __future__ import annotations

from pathlib import Path

import pytest

from aot.config.schema import Config, InnerConfig
from aot.errors import ConfigError, OutputError
from aot.reports import html
from aot.reports.retention import Compression, ModelRecord, RetentionReport
from aot.types import VideoInfo
from tests.support.shown_runs import PER_FRAME, small_run, small_video


def compression(config: Config) -> Compression:
    run = small_run()
    report = RetentionReport(
        visual_tokens=run.visual_tokens,
        budget_tokens=run.budget_tokens,
        kept_tokens=run.kept_tokens,
        retention=run.kept_tokens / (4 * PER_FRAME),
        frames=tuple(run.frames),
        stage_ms={"encode": 1.0},
        peak_bytes={"host": 1},
        facts={},
        model=ModelRecord("some/model", None, "f", False, 2, {"device": "cpu", "dtype": "float32"}, ()),
        video=VideoInfo("there/clip.mp4", "mp4", "h264", 36, 24, 0, 0, 1, 4, 4, 0, 1, 2.0, 2.0, False, False),
        config=config,
        versions={"aot": "0"},
        notices=("a note",),
    )
    return Compression(run.tokens, report, small_video().pictures)


def test_one_call_makes_the_page(tmp_path: Path) -> None:
    page = tmp_path / "kept.html"
    html.write(compression(Config(inner=InnerConfig(name="fastv"))), page)
    text = page.read_text("utf-8")
    for told in ("clip.mp4", "aot+fastv at 10 %", "some/model on cpu, float32", "a note", "fastv drops more inside"):
        assert told in text
    assert 'id="command-0"' not in text and "there/" not in text
    with pytest.raises(OutputError, match="exists"):
        html.write(compression(Config()), page)
    answered = [("what?", "a cloud")]
    html.write(compression(Config()), page, command="aot ask", answers=answered, answers_ms=2.0, overwrite=True)
    text = page.read_text("utf-8")
    assert "a cloud" in text and '<th scope="row">answer</th>' in text and 'id="command-0"' in text


def test_without_pictures_there_is_nothing_to_show(tmp_path: Path) -> None:
    traced = compression(Config())
    with pytest.raises(ConfigError, match="traced=True"):
        html.write(Compression(traced.tokens, traced.report), tmp_path / "kept.html")
