"""The list of a batch: files, folders, addresses and JSONL files, read strictly."""

from __future__ import annotations

from pathlib import Path

import pytest

from aot.errors import ConfigError
from aot.serving.batch.jobs import Job, load_jobs


def test_each_kind_of_source_gives_its_videos_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("all/b.MP4", "all/sub/a.mkv", "all/._b.mp4", "all/notes.txt"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(b"x")
    Path("all/list.jsonl").write_text(
        '\ufeff{"video": "sub/a.mkv", "questions": ["who?", "what?"], "id": 7}\n\n'
        '{"video": "https://example.org/c.mp4?x=1"}\n'
    )
    jobs = load_jobs(["z.mp4", "all", "all/list.jsonl"], ["what?"])
    assert jobs == (
        Job("z.mp4", "z.mp4", ("what?",)),
        Job("b.MP4", "all/b.MP4", ("what?",)),
        Job("sub/a.mkv", "all/sub/a.mkv", ("what?",)),
        Job("7", "all/sub/a.mkv", ("what?", "who?")),
        Job("https://example.org/c.mp4?x=1", "https://example.org/c.mp4?x=1", ("what?",)),
    )


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "list.jsonl, line 2: not a JSON object (invalid JSON"),
        ("[]", "list.jsonl, line 2: not a JSON object"),
        ('{"questions": []}', "list.jsonl, line 2: video must be given"),
        ('{"video": " "}', "list.jsonl, line 2: video must be text"),
        ('{"video": "b.mp4", "question": "what?"}', "list.jsonl, line 2: 'question' is not known"),
        ('{"video": "b.mp4", "questions": "what?"}', "list.jsonl, line 2: questions must be a list"),
        ('{"video": "b.mp4", "questions": ["\\ud800"]}', "list.jsonl, line 2: questions[0] must be text"),
        ('{"video": "a.mp4"}', 'list.jsonl, line 2: the id "a.mp4" is not unique'),
        ('{"video": "b.mp4", "id": "a.mp4"}', 'list.jsonl, line 2: the id "a.mp4" is not unique'),
        ('{"video": "b.mp4", "video": "c.mp4"}', "list.jsonl, line 2: not a JSON object (it has a key twice)"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, says: str) -> None:
    path = tmp_path / "list.jsonl"
    path.write_text('{"video": "a.mp4"}\n' + line + "\n")
    with pytest.raises(ConfigError) as caught:
        load_jobs([str(path)])
    assert str(caught.value).startswith(says)


def test_a_batch_without_videos_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    for source, says in (
        (tmp_path, "has no videos"),
        (tmp_path / "empty.jsonl", "has no videos"),
        (tmp_path / "absent.jsonl", "cannot be read"),
        ("-", "cannot read a video from standard input"),
    ):
        with pytest.raises(ConfigError, match=says):
            load_jobs([str(source)])
    with pytest.raises(ConfigError, match="a question is empty"):
        load_jobs(["a.mp4"], [" "])


def test_names_of_files_depend_on_the_id_alone_and_differ() -> None:
    ids = ["a.mp4", "x/a.mp4", "y/a.mp4", "../a.mp4", "a b.mp4", "a_b.mp4", "é.mp4", "..", "n" * 300, "q?x=1", "q_x=1"]
    stems = [Job(each, "").file_stem for each in ids]
    assert stems[0] == "a.mp4" and stems[1].startswith("a.mp4-")
    assert len(set(stems)) == len(ids)
    assert all(set(stem) <= set("abcdefnmpqx.0123456789_-") and len(stem) <= 109 for stem in stems), stems
