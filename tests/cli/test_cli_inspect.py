"""`aot inspect`: files, groupings, and what compression keeps."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import make_videos
from tests.support.cli_run import Aot

NASA = Path(__file__).parents[2].parent / "shared" / "videos" / "nasa-two-streams.mp4"


def test_groupings_without_a_model(run_aot: Aot, clip_file: Path) -> None:
    found = run_aot("inspect", clip_file, "--frames", "10", "--clip-frames", "4", "--json").json
    assert [clip["members"] for clip in found["clips"]] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert [clip["keyframe"] for clip in found["clips"]] == [0, 4, 8]
    assert [time for clip in found["clips"] for time in clip["timestamps_s"]] == found["timestamps_s"]
    assert found["prediction"]["tokens_before"] == 10 * 196
    assert found["prediction"]["tokens_after"] == 196
    assert found["video"]["codec"] == "h264"


def test_human_output(run_aot: Aot, clip_file: Path) -> None:
    run = run_aot("inspect", clip_file)
    for words in ("h264", "frames per second", "keyframe groupings", "predicted"):
        assert words in run.out


def test_a_model_in_the_environment_does_not_slow_inspect(
    run_aot: Aot, clip_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AOT_MODEL", "no/such-model")
    assert run_aot("inspect", clip_file).code == 0


def test_with_a_model_the_groupings_are_those_of_compression(
    run_aot: Aot, small: tuple[str, ...], clip_file: Path
) -> None:
    seen = run_aot("inspect", clip_file, "--clips", "dynamic", *small, "--json").json
    run_aot("compress", clip_file, "-o", "t.pt", "--clips", "dynamic", *small)
    kept = run_aot("inspect", "t.pt", "--json").json
    assert seen["clips"] == kept["clips"]
    assert [f["kept"] for f in seen["frames"]] == [f["kept"] for f in kept["frames"]]
    assert all(frame["similarity"] is not None for frame in seen["frames"][1:])
    run = run_aot("inspect", "t.pt")
    assert "kept of each frame" in run.out


def test_dynamic_without_a_model_says_what_is_missing(run_aot: Aot, clip_file: Path) -> None:
    run = run_aot("inspect", clip_file, "--clips", "dynamic")
    assert run.code == 0
    assert "--model" in run.err


def test_aot_dyn_is_aot_with_dynamic_clips(run_aot: Aot, clip_file: Path, small: tuple[str, ...]) -> None:
    """Also where `aot.clips.mode` says fixed, which is the default."""
    runs = [run_aot("inspect", clip_file, *flags) for flags in (("--clips", "dynamic"), ("--method", "aot-dyn"))]
    assert runs[0].err == runs[1].err
    assert "dynamic groupings depend on the features of a model" in runs[1].err
    flags = (("--clips", "dynamic"), ("--method", "aot-dyn"), ("--method", "aot-dyn", "--clips", "fixed"))
    cuts = ("--set", "aot.clips.segments=3", "--set", "aot.clips.threshold=-1")
    seen = [run_aot("inspect", clip_file, *small, *cuts, *asked, "--json").json["clips"] for asked in flags]
    assert seen[0] == seen[1] == seen[2]
    assert any(len(clip["members"]) > 1 for clip in seen[0])


def test_orientation_and_variable_rate_are_shown(run_aot: Aot) -> None:
    clip = make_videos.write(Path("clip.mp4"), 8)
    turned = make_videos.turn(clip, Path("turned.mp4"), 90)
    assert "90 degrees" in run_aot("inspect", turned).out
    mirrored = make_videos.turn(clip, Path("mirrored.mp4"), 180, mirrored=True)
    assert "left and right" in run_aot("inspect", mirrored).out
    varying = make_videos.write(Path("clip.mkv"), 6, times_ms=[0, 33, 66, 200, 500, 533])
    assert "variable" in run_aot("inspect", varying).out


@pytest.mark.skipif(not NASA.exists(), reason="the shared clips are not here")
def test_the_better_of_two_streams(run_aot: Aot) -> None:
    found = run_aot("inspect", NASA, "--json").json
    assert (found["video"]["width"], found["video"]["frames"]) == (480, 390)


def test_predictions_are_those_of_compression(run_aot: Aot, clip_file: Path) -> None:
    def predicted(*arguments: str) -> tuple[int, object]:
        found = run_aot("inspect", clip_file, "--frames", "8", "--json", *arguments).json
        return len(found["clips"]), found["prediction"]["tokens_after"]

    assert predicted() == (2, 157)
    assert predicted("--method", "none") == predicted("--ratio", "1") == (8, 8 * 196)
    assert predicted("--budget", "paper") == (2, "a number that depends on the content")
    assert predicted("--method", "uniform") == predicted("--method", "frames", "--clips", "dynamic") == (8, 157)
    assert "too few" in run_aot("inspect", clip_file, "--ratio", "0.0001").err
    assert "too few" in run_aot("inspect", clip_file, "--method", "random", "--ratio", "0.0001").err
    assert "too few" not in run_aot("inspect", clip_file, "--method", "random", "--ratio", "0.001").err


def test_methods_without_clips_show_none(run_aot: Aot, small: tuple[str, ...], clip_file: Path) -> None:
    for model in ((), small):
        run = run_aot("inspect", clip_file, "--method", "attention", *model)
        assert "keyframe groupings" not in run.out
        assert "sampled at 0.00" in run.out
        assert " key " not in run.out


def test_groupings_end_with_their_segment(run_aot: Aot, clip_file: Path, small_folder: Path) -> None:
    """What is foretold without a model is what compressing does."""
    settings = ("--frames", "11", "--segment-frames", "5")
    told = run_aot("inspect", clip_file, *settings, "--json").json["clips"]
    assert [clip["keyframe"] for clip in told] == [0, 3, 7]
    done = run_aot("inspect", clip_file, *settings, "--model", small_folder, "--ratio", "0.3", "--json").json["clips"]
    assert told == done
