"""`aot batch`: a row per video and question, errors as rows, and runs that go on where they were."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aot.errors import NumericsError
from aot.pipeline.run import Pipeline
from aot.reports.retention import Compression
from aot.serving import ahead
from aot.serving.batch import parquet
from aot.storage.tokens_file import load_tokens
from tests.support.cli_run import Aot
from tests.support.make_videos import write

SHORT = ("--max-new-tokens", "2")
TIMES = ("decode_ms", "encode_ms", "compress_ms", "first_token_ms", "answer_ms")


@pytest.fixture
def videos(run_aot: Aot) -> Path:
    """A folder with three videos, the second of which is damaged."""
    folder = Path("videos")
    folder.mkdir()
    for number in (1, 3):
        write(folder / f"{number}.mp4", 8, size=(48, 32), first=number)
    (folder / "2.mp4").write_bytes(b"\0" * 1000)
    return folder


def rows(folder: str = "out") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(folder) / "results.jsonl").read_text("utf-8").splitlines()]


def untimed(folder: str = "out") -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows(folder)]


def test_a_damaged_video_is_a_row_with_its_error(run_aot: Aot, videos: Path, small: tuple[str, ...]) -> None:
    run = run_aot("batch", videos, "-o", "out", "-q", "what?", "-q", "who?", *small, *SHORT)
    assert run.code == 1
    assert run.out.splitlines()[0].startswith("2 of 3 videos done, 1 failed; 4 answers; kept ")
    assert run.out.splitlines()[1] == "out/results.jsonl, out/tokens"
    assert "aot: note: 2.mp4 failed: videos/2.mp4 is not a video" in run.err
    found = rows()
    assert [(row["id"], row["question"]) for row in found] == [
        (f"{n}.mp4", q) for n in (1, 2, 3) for q in ("what?", "who?")
    ]
    assert all((row["answer"] is None) == (row["error"] is not None) == (row["id"] == "2.mp4") for row in found)
    assert all(row["kept_tokens"] and row["answer_ms"] > 0 and row["output_tokens"] for row in found if row["answer"])
    # The rows and the tokens are those of the other commands.
    for number in (1, 3):
        asked = run_aot("ask", videos / f"{number}.mp4", "what?", "-q", "who?", *small, *SHORT, "--json").json
        of_video = [row for row in found if row["id"] == f"{number}.mp4"]
        for name in ("question", "answer", "prompt_tokens", "output_tokens"):
            assert [row[name] for row in of_video] == [answer[name] for answer in asked["answers"]]
        tokens = load_tokens(Path("out") / of_video[0]["tokens_file"])
        assert tokens.report.kept_tokens == of_video[0]["kept_tokens"] == asked["kept_tokens"]


def test_a_list_asks_questions_of_its_own(run_aot: Aot, videos: Path, small: tuple[str, ...]) -> None:
    lines = ({"video": "1.mp4", "id": 1, "questions": ["who?"]}, {"video": "3.mp4", "id": "3"})
    Path("videos/list.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = run_aot("batch", "videos/list.jsonl", "-o", "out", "--reports", *small, *SHORT)
    assert run.code == 0, run.err
    assert [(row["id"], row["question"], row["answer"] is None) for row in rows()] == [
        ("1", "who?", False), ("3", None, True),
    ]  # fmt: skip
    report = json.loads(Path("out", rows()[1]["report_file"]).read_text("utf-8"))
    assert report["kept_tokens"] == rows()[1]["kept_tokens"]
    assert len(list(Path("out/tokens").iterdir())) == 2


def test_the_same_command_goes_on_and_another_is_refused(
    run_aot: Aot, videos: Path, small: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = ("batch", videos / "1.mp4", videos / "2.mp4", "-q", "what?", "-o", "out", *small, *SHORT)
    assert run_aot(*line).code == 1
    before = rows()
    monkeypatch.setattr("aot_cli.commands.batch.load_pipeline", None)  # nothing is left to do
    again = run_aot(*line, "--json")
    assert again.code == 1 and rows() == before
    assert again.json["earlier"] == 2 and again.json["failures"][0]["id"] == "videos/2.mp4"
    for change, says in (
        (("--ratio", "0.5"), "holds answers of a run with different values of config.ratio"),
        (("--no-tokens",), "different values of outputs.tokens"),
    ):
        refused = run_aot(*line, *change)
        assert refused.code == 2 and says in refused.err and "--restart" in refused.err
    other = run_aot("batch", videos / "1.mp4", "-q", "who?", "-o", "out", *small, *SHORT)
    assert other.code == 2
    assert 'holds 2 of 2 rows that are not in this list (first: "what?" about videos/1.mp4)' in other.err
    assert rows() == before


def test_a_list_may_grow_and_its_files_may_be_mended(run_aot: Aot, videos: Path, small: tuple[str, ...]) -> None:
    names = [videos / f"{number}.mp4" for number in (1, 2, 3)]
    options = ("-o", "out", *small, *SHORT)
    assert run_aot("batch", *names[:2], "-q", "what?", *options).code == 1
    first = rows()[0]
    again = run_aot("batch", *names, "-q", "what?", *options)
    assert again.code == 1
    assert f"failed in earlier runs: 1 (first: {names[1]}: " in again.err and "--retry-failed" in again.err
    assert rows()[0] == first and [row["video"] for row in rows()] == list(map(str, names))
    shutil.copy(names[0], names[1])
    mended = run_aot("batch", *names, "-q", "what?", *options)
    assert mended.code == 0 and "the file has changed since the last run: 1 videos" in mended.err
    assert [row["video"] for row in rows()] == [str(names[number]) for number in (0, 2, 1)]
    # One more question about each video: all are done again, because one run answers all questions.
    assert run_aot("batch", *names, "-q", "what?", "-q", "who?", *options).code == 0
    assert len(rows()) == 6
    assert run_aot("batch", names[0], "-q", "who?", *options, "--restart").code == 0
    assert [(row["video"], row["question"]) for row in rows()] == [(str(names[0]), "who?")]


def test_a_tokens_file_is_no_video(run_aot: Aot, videos: Path, small: tuple[str, ...]) -> None:
    assert run_aot("batch", "kept.pt", "-o", "out", *small).code == 1
    assert rows()[0]["error"] == "kept.pt is already a tokens file; give a video"


def test_failures_can_be_limited_and_repeated(
    run_aot: Aot, videos: Path, small: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    compress = Pipeline.compress

    def broken(self: Pipeline, video: Any, *given: Any) -> Any:
        if video.index.info.path.endswith("3.mp4"):
            raise ZeroDivisionError("x")

        def report() -> Any:  # what a GPU has found shows when the report is read
            raise NumericsError("not finite")

        return Compression(compress(self, video, *given).tokens, report)

    monkeypatch.setattr(Pipeline, "compress", broken)
    line = ("batch", videos, "-o", "out", *small, *SHORT)
    run = run_aot(*line, "--max-failures", "1", "--json")
    assert run.code == 1 and (run.json["failed"], run.json["not_done"]) == (2, 1)
    assert run_aot(*line).code == 1
    errors = {row["id"]: row["error"] for row in rows()}
    assert errors["1.mp4"] == "not finite" and errors["3.mp4"].startswith("internal error (ZeroDivisionError: x)")
    monkeypatch.setattr(Pipeline, "compress", compress)
    assert run_aot(*line).code == 1 and len(rows()) == 3
    again = run_aot(*line, "--retry-failed", "--json")
    assert again.code == 1 and (again.json["failed"], again.json["earlier"]) == (1, 0)
    assert sorted(row["id"] for row in rows()) == ["1.mp4", "2.mp4", "3.mp4"]


@pytest.mark.parametrize("cut", [1, 40, -1])
def test_rows_that_a_kill_left_incomplete_are_written_again(
    run_aot: Aot, videos: Path, small: tuple[str, ...], cut: int
) -> None:
    line = ("batch", videos / "1.mp4", videos / "3.mp4", "-q", "a?", "-q", "b?", "-o", "out", *small, *SHORT)
    assert run_aot(*line).code == 0
    whole, path = untimed(), Path("out/results.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:3]) + lines[3][:cut])
    run = run_aot(*line, "--json")
    assert run.code == 0 and run.json["earlier"] == 1 + (cut == -1) and untimed() == whole


def test_parquet_has_the_same_rows(
    run_aot: Aot, videos: Path, small: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    read_table = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed").read_table
    line = ("batch", videos, "-q", "what?", "-o", "out", *small, *SHORT, "--results", "parquet")
    assert run_aot(*line).code == 1
    assert read_table("out/results.parquet").to_pylist() == rows()
    monkeypatch.setattr(parquet, "find_spec", lambda name: None)
    refused = run_aot(*line)
    assert refused.code == 2 and "--results parquet needs pyarrow: pip install pyarrow" in refused.err


def test_wrong_lines_are_refused_before_anything_is_loaded(run_aot: Aot, videos: Path) -> None:
    for line, says in (
        ((videos, "-o", "out", "--no-tokens"), "nothing is asked or written"),
        ((videos, "-o", "out", "--select-frames", "2"), "--select-frames chooses frames by the question"),
        ((videos / "1.mp4", videos / "1.mp4", "-o", "out"), "is not unique"),
        ((videos, "-o", videos / "1.mp4"), "is a file; name a folder"),
    ):
        run = run_aot("batch", *line, "--model", "shapes")
        assert run.code in (1, 2) and says in run.err, run.err
    assert not Path("out").exists()


def test_the_next_video_is_decoded_meanwhile(
    run_aot: Aot, videos: Path, small: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first video waits until the second has begun, or the test would end here."""
    import threading

    begun = {str(videos / f"{number}.mp4"): threading.Event() for number in (1, 2, 3)}
    begin, compress = ahead.begun_video, Pipeline.compress

    def noted(source: str, *given: Any) -> Any:
        begun[source].set()
        return begin(source, *given)

    def patient(self: Pipeline, video: Any, *given: Any) -> Any:
        following = {"1.mp4": "2.mp4", "3.mp4": "3.mp4"}[Path(video.index.info.path).name]
        assert begun[str(videos / following)].wait(60)
        return compress(self, video, *given)

    monkeypatch.setattr(ahead, "begun_video", noted)
    monkeypatch.setattr(Pipeline, "compress", patient)
    assert run_aot("batch", videos, "-o", "out", *small).code == 1
    assert [row["error"] is None for row in rows()] == [True, False, True]


def test_videos_that_were_opened_ahead_are_closed(
    run_aot: Aot, videos: Path, small: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    from contextlib import contextmanager

    held: set[str] = set()
    begin = ahead.begun_video

    @contextmanager
    def counted(source: str, *given: Any) -> Iterator[Any]:
        with begin(source, *given) as video:
            held.add(source)
            yield video
            held.remove(source)

    def interrupted(self: Pipeline, *given: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(ahead, "begun_video", counted)
    monkeypatch.setattr(Pipeline, "compress", interrupted)
    run = run_aot("batch", videos / "1.mp4", videos / "3.mp4", "-o", "out", *small)
    assert run.code == 130 and not held


def test_frames_can_be_chosen_by_the_questions(run_aot: Aot, videos: Path, small: tuple[str, ...]) -> None:
    questions, video = ("-q", "a red car", "-q", "a dog"), videos / "1.mp4"
    line = (video, *questions, *small, *SHORT, "--select-frames", "3")
    assert run_aot("batch", *line, "-o", "out").code == 0
    asked = run_aot("ask", *line, "--json").json
    assert [row["answer"] for row in rows()] == [answer["answer"] for answer in asked["answers"]]
    assert load_tokens(Path("out") / rows()[0]["tokens_file"]).report.facts == asked["facts"]


@pytest.mark.parametrize("stage", ["compress", "answers"])
def test_an_interruption_is_no_row(
    run_aot: Aot, videos: Path, small: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    """A signal that passes a lock comes out as a RuntimeError; the next run must answer the question."""

    def interrupted(*_: object) -> None:
        try:
            raise KeyboardInterrupt
        finally:
            raise RuntimeError("release unlocked lock")

    with monkeypatch.context() as patched:
        patched.setattr(Pipeline, stage, interrupted)
        run = run_aot("batch", videos / "1.mp4", "-o", "out", "-q", "what?", *small, *SHORT)
    assert run.code == 130
    assert run_aot("batch", videos / "1.mp4", "-o", "out", "-q", "what?", *small, *SHORT).code == 0
    assert [row["error"] for row in rows()] == [None]
