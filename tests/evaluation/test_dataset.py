from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from aot.errors import ConfigError
from aot.evaluation.dataset import Item, by_video, load_dataset
from aot.evaluation.scoring import score


def write(folder: Path, *rows: object) -> Path:
    for name in ("a.mp4", "b.mp4"):
        (folder / name).touch()
    path = folder / "questions.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return path


def row(video: str = "a.mp4", **more: object) -> dict[str, object]:
    return {"video": video, "question": "what?", "answer": "this", **more}


def problems(path: Path) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load_dataset(path)
    return caught.value.problems


def test_rows_become_items_grouped_by_video(tmp_path: Path) -> None:
    path = write(tmp_path, row(), row("b.mp4", id="mine", family="count"), "", row(question="who?"))
    one, two, three = load_dataset(path)
    assert (one.id, one.video, one.family) == ("1", tmp_path / "a.mp4", "all")
    assert (two.id, two.question) == ("4", "who?")
    assert (three.id, three.video, three.family) == ("mine", tmp_path / "b.mp4", "count")
    assert by_video([one, two, three]) == {tmp_path / "a.mp4": [one, two], tmp_path / "b.mp4": [three]}
    assert len(load_dataset(path, limit_videos=1)) == 2


def test_all_answers_or_none(tmp_path: Path) -> None:
    bare = row()
    del bare["answer"]
    path = write(tmp_path, bare, row("b.mp4", answer=None, options=["x", "y"]))
    (problem,) = problems(path)
    assert "2 of 2 questions have no answer, for instance 'what?'" in problem and "--reference full" in problem
    one, two = load_dataset(path, needs_answers=False)
    assert (one.answer, two.answer, two.right_option, score(two, "x")) == (None, None, None, None)
    assert one.fingerprint != replace(one, answer="this").fingerprint
    path = write(tmp_path, row(), bare)
    for needs_answers in (True, False):
        with pytest.raises(ConfigError, match="1 of 2 questions have no answer"):
            load_dataset(path, needs_answers=needs_answers)


def test_every_problem_is_told_with_its_line(tmp_path: Path) -> None:
    path = write(
        tmp_path, "{", [1], {"video": "a.mp4"}, row(answer=3), row(options="ab"), row(options=["x", "y"], answer="z"),
        row("none.mp4"), row(family=4), row("none.mp4"), row("x" * 300), row(id=True), row(question="\ud800"),
        row(options=["x", "x"]),
    )  # fmt: skip
    assert problems(path) == (
        "questions.jsonl, line 1: not a JSON object (invalid JSON at character 2)",
        "questions.jsonl, line 2: not a JSON object",
        "questions.jsonl, line 3: question must be given",
        "questions.jsonl, line 4: answer must be text",
        "questions.jsonl, line 5: options must be a list",
        "questions.jsonl, line 6: the answer 'z' is not one of the options",
        f"questions.jsonl, line 7: there is no video {tmp_path / 'none.mp4'}",
        "questions.jsonl, line 8: family must be text",
        f"questions.jsonl, line 10: there is no video {tmp_path / ('x' * 300)}",
        "questions.jsonl, line 11: id must be text",
        "and 2 more",
    )


def test_ids_are_unique(tmp_path: Path) -> None:
    said = problems(write(tmp_path, row(id="x"), row(id="x"), row(), row(id=3)))
    assert said == (
        "questions.jsonl, line 2: the id 'x' is not unique",
        "questions.jsonl, line 4: the id '3' is not unique",
    )


def test_lines_end_at_newlines_only(tmp_path: Path) -> None:
    path = write(tmp_path, '{"video": "a.mp4", "question": "what\u2028is\u0085this?", "answer": "it"}')
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes() + b"\r\n")
    (item,) = load_dataset(path)
    assert item.question == "what\u2028is\u0085this?"


def test_ten_problems_are_enough(tmp_path: Path) -> None:
    said = problems(write(tmp_path, *["{"] * 14))
    assert len(said) == 11
    assert said[-1] == "and 4 more"


def test_files_that_are_no_data_set(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "latin.jsonl").write_bytes(b"\xff\xfe\xff")
    assert "holds no questions" in problems(tmp_path / "empty.jsonl")[0]
    assert "UTF-8" in problems(tmp_path / "latin.jsonl")[0]
    assert "cannot be read" in problems(tmp_path / "missing.jsonl")[0]


def item(answer: str, *options: str) -> Item:
    return Item("1", Path("a.mp4"), "which?", answer, options)


def test_multiple_choice_is_asked_with_letters() -> None:
    assert item("red").prompt == "which?"
    assert item("red", "red", "blue").prompt == (
        "which?\nA. red\nB. blue\nAnswer with the option's letter from the given choices directly."
    )


@pytest.mark.parametrize(
    ("answer", "options", "right"),
    [("blue", ("red", "blue"), 1), ("B", ("red", "blue"), 1), ("b", ("red", "blue"), 1), ("C", ("red", "blue"), None),
     ("B", ("B", "A"), 0), ("green", ("red", "blue"), None)],
)  # fmt: skip
def test_the_right_option_is_named_by_text_or_letter(answer: str, options: tuple[str, ...], right: int | None) -> None:
    assert item(answer, *options).right_option == right


def test_the_fingerprint_is_of_the_questions(tmp_path: Path) -> None:
    one = load_dataset(write(tmp_path, row(), row("b.mp4")))
    (tmp_path / "elsewhere").mkdir()
    moved = load_dataset(write(tmp_path / "elsewhere", row(), row("b.mp4")))
    other = load_dataset(write(tmp_path, row(), row("b.mp4", answer="that")))
    assert [item.fingerprint for item in one] == [item.fingerprint for item in moved]
    assert [a.fingerprint == b.fingerprint for a, b in zip(one, other, strict=True)] == [True, False]
    (tmp_path / "a.mp4").write_bytes(b"another video")
    again = load_dataset(tmp_path / "questions.jsonl")
    assert [a.fingerprint == b.fingerprint for a, b in zip(other, again, strict=True)] == [False, True]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"[" * 50_000, "line 1: not a JSON object (it is nested too deeply)"),
        (b"1" * 10_000, "line 1: not a JSON object (Exceeds the limit"),
        (b"x" * 2_000_000, "is not a JSONL file (line 1 is longer than 1 MiB)"),
        (b'{"video": "a.mp4", "video": "b.mp4"}', "line 1: not a JSON object (it has a key twice)"),
        (b'{"video": NaN, "question": "what?", "answer": "it"}', "line 1: video must be text"),
    ],
)
def test_what_a_parser_cannot_take_is_a_problem_like_any_other(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "questions.jsonl").write_bytes(content)
    assert says in str(problems(tmp_path / "questions.jsonl")[0])


def test_an_endless_file_is_not_read_whole() -> None:
    assert "line 1 is longer than 1 MiB" in problems(Path("/dev/zero"))[0]
