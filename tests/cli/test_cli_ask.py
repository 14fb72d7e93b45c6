"""`aot ask` on real files of many kinds, on tokens, and with several questions."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from tests.support import make_videos
from tests.support.cli_run import Aot

SHORT = ("--max-new-tokens", "6")


def test_answer_is_all_there_is_on_stdout(run_aot: Aot, small: tuple[str, ...], clip_file: Path) -> None:
    run = run_aot("ask", clip_file, "what happens?", *small, *SHORT, "--ratio", "0.5")
    assert run.code == 0
    assert run.out.strip()
    assert run.out.count("\n") == 1
    assert run.err == ""


def test_tokens_answer_as_the_video_does(
    run_aot: Aot, small: tuple[str, ...], clip_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = run_aot("ask", clip_file, "what happens?", *small, *SHORT).out
    for name in ("t.pt", "t.safetensors"):
        assert run_aot("compress", clip_file, "-o", name, *small).code == 0
    monkeypatch.setattr("aot.video.open_video", None)  # neither decoded nor encoded again
    for name in ("t.pt", "t.safetensors"):
        assert run_aot("ask", name, "what happens?", *small[:2], *SHORT).out == asked


def test_json(run_aot: Aot, small: tuple[str, ...], clip_file: Path) -> None:
    run = run_aot("ask", clip_file, "what happens?", *small, *SHORT, "--json", "--ratio", "0.25")
    found = run.json
    assert found["kept_tokens"] == round(0.25 * found["visual_tokens"])
    assert found["answer"] == found["answers"][0]["answer"]
    assert 1 <= found["answers"][0]["output_tokens"] <= 6
    assert found["answers"][0]["prompt_tokens"] > found["kept_tokens"]
    assert set(found["stage_ms"]) == {"decode", "encode", "compress"}
    assert found["config"]["ratio"] == 0.25
    assert found["answers"][0]["first_token_ms"] <= found["answers"][0]["answer_ms"]


def test_what_slows_an_answer_is_a_notice(
    run_aot: Aot, small: tuple[str, ...], clip_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aot.models.language.decoding import Decoding, WholeSteps

    def pick(decoding: Decoding) -> WholeSteps:
        decoding.note("it is slow")
        return WholeSteps(decoding, decoding._model.body)

    monkeypatch.setattr(Decoding, "_pick_steps", pick)
    run = run_aot("ask", clip_file, "one?", "-q", "two?", *small, *SHORT, "--json")
    assert run.json["notices"].count("it is slow") == 1
    assert run.err.count("it is slow") == 1


def test_several_questions_encode_once(
    run_aot: Aot, small: tuple[str, ...], clip_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import aot.models.families.llava as family

    calls = []
    encode = family.Llava.encode
    monkeypatch.setattr(family.Llava, "encode", lambda *a, **k: calls.append(1) or encode(*a, **k))
    run = run_aot("ask", clip_file, "one?", "-q", "two?", "-q", "three?", *small, *SHORT)
    assert run.out.count("Q: ") == run.out.count("A: ") == 3
    assert len(calls) == 1


def test_questions_on_stdin(
    run_aot: Aot, small: tuple[str, ...], clip_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("one?\n\n two? \n"))
    found = run_aot("ask", clip_file, *small, *SHORT, "--json").json
    assert [entry["question"] for entry in found["answers"]] == ["one?", "two?"]


def test_video_on_stdin(run_aot: Aot, small: tuple[str, ...], clip_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stdin:
        buffer = io.BytesIO(clip_file.read_bytes())

    expected = run_aot("ask", clip_file, "hi?", *small, *SHORT).out
    monkeypatch.setattr(sys, "stdin", Stdin)
    run = run_aot("ask", "-", "hi?", *small, *SHORT)
    assert run.out == expected


@pytest.mark.parametrize("kind", ["webm", "vfr", "rotated", "damaged"])
def test_files_of_every_kind(run_aot: Aot, small: tuple[str, ...], kind: str) -> None:
    clip = make_videos.write(Path("clip.mp4"), 24)
    match kind:
        case "webm":
            clip = make_videos.write(Path("clip.webm"), 24, codec="libvpx-vp9")
        case "vfr":
            clip = make_videos.write(Path("clip.mkv"), 24, times_ms=[n * (33 if n < 12 else 90) for n in range(24)])
        case "rotated":
            clip = make_videos.turn(clip, Path("turned.mp4"), 90)
        case "damaged":
            clip = make_videos.overwrite_packets(clip, Path("damaged.mp4"), [9, 10])
    run = run_aot("ask", clip, "what happens?", *small, *SHORT)
    assert run.code == 0
    assert run.out.strip()
    assert ("note:" in run.err) == (kind == "damaged")


def test_ratio_one_and_method_none_keep_everything(run_aot: Aot, small: tuple[str, ...], clip_file: Path) -> None:
    runs = [run_aot("ask", clip_file, "hi?", *small, *SHORT, "--json", *extra).json
            for extra in (("--ratio", "1"), ("--method", "none"))]  # fmt: skip
    assert all(run["kept_tokens"] == run["visual_tokens"] for run in runs)
    assert runs[0]["answer"] == runs[1]["answer"]


def test_fewer_frames_than_asked_is_said(run_aot: Aot, small: tuple[str, ...], clip_file: Path) -> None:
    run = run_aot("ask", clip_file, "hi?", *small, "--frames", "200", *SHORT)
    assert run.code == 0
    assert "instead of 200" in run.err


def test_precedence(run_aot: Aot, small: tuple[str, ...], clip_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ratio(*extra: str) -> float:
        return float(run_aot("ask", clip_file, "hi?", *small, *SHORT, "--json", *extra).json["config"]["ratio"])

    assert ratio("--preset", "paper/onevision-r25") == 0.25
    Path("aot.yaml").write_text("ratio: 0.4\n")
    assert ratio("--preset", "paper/onevision-r25") == 0.4
    monkeypatch.setenv("AOT_RATIO", "0.5")
    assert ratio() == 0.5
    assert ratio("--ratio", "0.6") == 0.6
    assert ratio("--ratio", "0.6", "--set", "ratio=0.7") == 0.7


def test_settings_that_come_too_late_are_named(run_aot: Aot, small: tuple[str, ...], clip_file: Path) -> None:
    run_aot("compress", clip_file, "-o", "t.pt", "--ratio", "0.2", *small)
    run = run_aot("ask", "t.pt", "hi?", *small[:2], *SHORT, "--ratio", "0.9", "--frames", "3", "--json")
    assert "already compressed" in run.err
    assert "ratio, sampling" in run.err
    assert run.json["config"]["ratio"] == 0.2
    assert run.json["config"]["sampling"]["frames"] == 8


def test_frames_undo_an_fps_set_below(run_aot: Aot, clip_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("aot.yaml").write_text("sampling: {fps: 1}\n")
    assert len(run_aot("inspect", clip_file, "--json").json["timestamps_s"]) == 3
    assert len(run_aot("inspect", clip_file, "--json", "--frames", "6").json["timestamps_s"]) == 6


def test_first_token_comes_before_the_end(run_aot: Aot, small: tuple[str, ...], clip_file: Path) -> None:
    (answer,) = run_aot("ask", clip_file, "hi?", *small, *SHORT, "--json").json["answers"]
    assert 0 < answer["first_token_ms"] <= answer["answer_ms"]


def test_a_question_without_quotes(run_aot: Aot, small: tuple[str, ...], clip_file: Path) -> None:
    found = run_aot("ask", clip_file, "what", "happens?", *small, *SHORT, "-q", "and then?", "--json").json
    assert [entry["question"] for entry in found["answers"]] == ["what happens?", "and then?"]


def test_several_quoted_questions_are_not_run_together(run_aot: Aot, clip_file: Path) -> None:
    run = run_aot("ask", clip_file, "what happens?", "who is it?")
    assert (run.code, run.out) == (2, "")
    assert "'what happens?' 'who is it?' are several questions" in run.err
    assert "-q" in run.err


def test_a_file_among_the_words_is_refused(run_aot: Aot, clip_file: Path) -> None:
    for words in ((clip_file, "what happens?"), ("what", clip_file), (clip_file,)):
        run = run_aot("ask", clip_file, *words)
        assert run.code == 2
        assert f"the question {clip_file} is a file" in run.err
