"""`aot inspect --overlay`: from a clip to a clip that shows what is kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aot.config.schema import SamplingConfig
from aot.video import decode, probe
from tests.support import make_videos
from tests.support.cli_run import Aot

EVERY_FRAME = SamplingConfig(frames=1000)
WHITE = np.full((200, 200, 3), 255, np.uint8)


def test_the_clip_again_with_patches_dimmed(run_aot: Aot, small: tuple[str, ...], clip_file: Path) -> None:
    run = run_aot("inspect", clip_file, *small, "--overlay", "kept.mp4")
    assert run.code == 0, run.err
    assert "kept.mp4" in run.err
    assert "kept.mp4" not in run.out
    assert probe("kept.mp4").info.duration_s == probe(clip_file).info.duration_s
    before, after = (decode(path, EVERY_FRAME).pixels.float() for path in (clip_file, "kept.mp4"))
    assert before.shape == after.shape
    assert 0.2 < after.mean() / before.mean() < 0.7  # most of the patches are discarded

    assert run_aot("inspect", clip_file, *small, "--overlay", "kept.mp4").code == 1
    found = run_aot("inspect", clip_file, *small, "--overlay", "kept.mp4", "-f", "--json", "--end", "1").json
    assert found["overlay_file"] == "kept.mp4"
    assert probe("kept.mp4").info.frames == 9


def test_what_is_drawn_is_what_is_kept(run_aot: Aot, small_folder: Path) -> None:
    """A cell of a white picture is white again exactly where a token is kept."""
    clip = make_videos.write_picture(Path("white.mp4"), WHITE, "yuv420p", 1)
    line = ("--model", small_folder, "--method", "random", "--ratio", "0.4")
    found = run_aot("inspect", clip, *line, "--overlay", "o.mp4", "--json").json
    (drawn,) = decode("o.mp4", EVERY_FRAME).pixels.float()
    middles = drawn.mean(0).reshape(5, 40, 5, 40)[:, 15:25, :, 15:25].mean((1, 3))
    assert int((middles > 200).sum()) == found["kept_tokens"] == 10
    assert int((middles < 100).sum()) == 15


@pytest.mark.parametrize("family", ["qwen25", "qwen3"])
def test_frames_that_are_read_in_pairs(
    run_aot: Aot, clip_file: Path, family: str, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(f"{family}_folder")
    run = run_aot("inspect", clip_file, "--model", folder, "--frames", "9", "--overlay", "o.mp4", "--json")
    assert run.code == 0, run.err
    assert len(run.json["timestamps_s"]) == 5
    assert probe("o.mp4").times_s() == probe(clip_file).times_s()


def test_refused_before_the_model_loads(run_aot: Aot, clip_file: Path, small: tuple[str, ...]) -> None:
    assert "--model" in run_aot("inspect", clip_file, "--overlay", "o.mp4").err
    Path("there.mp4").write_text("old")
    missing = ("--model", "no/such-model")
    for source, output, words in (
        (clip_file, "there.mp4", "--force"),
        (clip_file, "o.avi", ".mp4"),
    ):
        run = run_aot("inspect", source, "--overlay", output, *missing)
        assert run.code in (1, 2, 3)
        assert words in run.err
    run_aot("compress", clip_file, "-o", "t.pt", *small)
    assert "tokens file" in run_aot("inspect", "t.pt", "--overlay", "o.mp4", *missing).err
    assert sorted(path.name for path in Path().iterdir()) == ["t.pt", "there.mp4"]
