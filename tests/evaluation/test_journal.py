"""Journals that come back from disk damaged: told in a line with a remedy, and no row that is whole is lost."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from aot.errors import ConfigError
from aot.evaluation.journal import Journal
from aot.evaluation.journal_reader import Answered

RUN = {
    "model": {"name": "shapes", "fingerprint": "0123456789abcdef"},
    "config": {"sampling": {"frames": 8, "fps": None}, "model": {"name": "shapes"}, "generation": {"seed": 0}},
    "versions": {"aot": "0.1.0", "torch": "2.13.0"},
    "conditions": {"none": {"method": "none", "ratio": 1.0}, "aot@0.1": {"method": "aot", "ratio": 0.1}},
}
ROW = Answered(
    item="", video="clip.mp4", question="what happens, é?", answer="the star moves", condition="", predicted="a star",
    score=0.5, kept_tokens=51, visual_tokens=512, budget_tokens=51, language_model_load=0.1, decode_ms=1.5,
    encode_ms=2.0, compress_ms=3, first_token_ms=4, answer_ms=5,
)  # fmt: skip
ROWS = [replace(ROW, item=f"{n:016x}", condition=name) for n in range(6) for name in ("none", "aot@0.1")]
VALUES = (
    "",
    "x",
    0,
    -1,
    1.5,
    True,
    None,
    [],
    {},
    2**70,
    float("nan"),
    float("inf"),
    -1e300,
    "\ud800",
    [[1]],
    {"a": {}},
)


def written(folder: Path) -> Path:
    """A folder with a whole journal."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("answers.jsonl", "run.json"):
        (folder / name).unlink(missing_ok=True)
    Journal(folder, RUN).add(ROWS)
    return folder


def lines(folder: Path) -> list[bytes]:
    return (folder / "answers.jsonl").read_bytes().split(b"\n")


def held(journal: Journal) -> set[tuple[str, str]]:
    return set(journal._held)


# --- One fault at a time


def test_a_whole_journal_is_read_back(tmp_path: Path) -> None:
    journal = Journal(written(tmp_path), RUN)
    assert journal.run == 2
    assert held(journal) == {(row.condition, row.item) for row in ROWS}
    assert list(journal._held.values()) == ROWS


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"score": 1.5}, "score must be a finite number in 0 .. 1"),
        ({"score": float("nan")}, "score must be a finite number"),
        ({"kept_tokens": 513}, "kept_tokens must be at most 512"),
        ({"visual_tokens": True}, "visual_tokens must be a whole number"),
        ({"run": 0}, "run must be a whole number in 1"),
        ({"condition": "aot@0.2"}, "condition must be one that run.json describes, not 'aot@0.2'"),
        ({"mood": "good"}, "'mood' is not known"),
        ({"item": ROWS[0].item, "condition": ROWS[0].condition}, "it repeats the question of line 1"),
    ],
)
def test_a_wrong_row_is_named(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    path = written(tmp_path) / "answers.jsonl"
    before = lines(tmp_path)
    before[4] = json.dumps(asdict(ROWS[4]) | change).encode()
    path.write_bytes(b"\n".join(before))
    with pytest.raises(ConfigError) as caught:
        Journal(tmp_path, RUN)
    assert f"answers.jsonl is damaged (line 5: {says}" in str(caught.value)
    assert "delete such lines to ask" in str(caught.value) and "--restart" in str(caught.value)
    assert path.read_bytes() == b"\n".join(before)
    Journal(tmp_path, RUN, restart=True).add(ROWS[:1])  # the remedy
    assert len(held(Journal(tmp_path, RUN))) == 1


@pytest.mark.parametrize("kept", [1, 9, 10, 40, -1])
def test_a_torn_last_line_is_asked_again(tmp_path: Path, kept: int) -> None:
    path = written(tmp_path) / "answers.jsonl"
    *before, last, _ = lines(tmp_path)
    whole = b"\n".join(before) + b"\n"
    path.write_bytes(whole + last[:kept])
    assert held(Journal(tmp_path, RUN)) == {(row.condition, row.item) for row in ROWS[:-1]}
    assert path.read_bytes() == whole


def test_a_last_line_without_its_newline_is_kept(tmp_path: Path) -> None:
    path = written(tmp_path) / "answers.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert len(held(Journal(tmp_path, RUN))) == len(ROWS)
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole.replace(b"\n", b"\r"),
        lambda whole: whole.decode().encode("utf-16"),
        lambda whole: whole.replace(b"\n", b""),
        lambda whole: b"\0" * len(whole),
        lambda whole: b"[" * 100_000 + b"\n",
        lambda whole: b"1" * 10_000 + b"\n",
        lambda whole: b"x" * 5_000_000,
    ],
    ids=["lines end in CR", "UTF-16", "one line", "zeros", "deep", "a long number", "a long line"],
)
def test_what_is_no_journal_is_not_cut_away(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = written(tmp_path) / "answers.jsonl"
    path.write_bytes(damaged := damage(path.read_bytes()))
    with pytest.raises(ConfigError, match="damaged"):
        Journal(tmp_path, RUN)
    assert path.read_bytes() == damaged


def test_answers_without_their_description_are_of_an_unknown_run(tmp_path: Path) -> None:
    (written(tmp_path) / "run.json").unlink()
    with pytest.raises(ConfigError, match=r"run\.json, which describes .* is missing; pass --restart"):
        Journal(tmp_path, RUN)


def test_a_description_of_another_version_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path) / "run.json"
    path.write_text(json.dumps({**RUN, "format": 2}))
    with pytest.raises(ConfigError, match="'format' is not known"):
        Journal(tmp_path, RUN)
    path.write_text(json.dumps({**RUN, "versions": {"aot": "9"}}))
    with pytest.raises(ConfigError, match="with different values of versions"):
        Journal(tmp_path, RUN)


# --- Many at random


def mutated(text: bytes, chance: random.Random) -> bytes:
    """The file with one to three faults."""
    for _ in range(chance.randint(1, 3)):
        text = chance.choice(FAULTS)(text, chance)
    return text


def _flip(text: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(text) or 1)
    return text[:at] + bytes([chance.randrange(256)]) + text[at + 1 :]


def _cut(text: bytes, chance: random.Random) -> bytes:
    return text[: chance.randrange(len(text) or 1)]


def _of_lines(text: bytes, chance: random.Random) -> bytes:
    rows = text.split(b"\n")
    at = chance.randrange(len(rows))
    match chance.randrange(4):
        case 0:
            del rows[at]
        case 1:
            rows.insert(chance.randrange(len(rows)), rows[at])
        case 2:
            rows[at] = rows[at][: chance.randrange(len(rows[at]) or 1)]
        case _:
            chance.shuffle(rows)
    return b"\n".join(rows)


def _of_values(text: bytes, chance: random.Random) -> bytes:
    """Another value, or none, somewhere in a row or the description."""
    rows = text.split(b"\n") if text.startswith(b'{"item') else [text]
    at = chance.randrange(len(rows))
    try:
        group = whole = json.loads(rows[at])
        while isinstance(group, dict) and group:
            key = chance.choice(list(group))
            if not isinstance(group[key], dict) or chance.random() < 0.3:
                break
            group = group[key]
        if chance.random() < 0.2:
            del group[key]
        else:
            group[key] = chance.choice(VALUES)
        rows[at] = json.dumps(whole).encode()
    except (ValueError, TypeError, UnboundLocalError, RecursionError):
        pass
    return b"\n".join(rows)


def _encode(text: bytes, chance: random.Random) -> bytes:
    encoding = chance.choice(["utf-16", "utf-16-le", "utf-32", "latin-1", "utf-8-sig", "utf-7"])
    return text.decode("utf-8", "replace").encode(encoding, "replace")


FAULTS = [_flip, _flip, _flip, _cut, _of_lines, _of_lines, _of_values, _of_values, _of_values, _encode]


def damage_and_read(folder: Path, seed: int) -> str:
    """Damage a journal and read it; return "refused", or "read" where no whole row is lost."""
    chance = random.Random(seed)
    path = written(folder) / chance.choice(["answers.jsonl", "answers.jsonl", "run.json"])
    path.write_bytes(damaged := mutated(path.read_bytes(), chance))
    try:
        journal = Journal(folder, RUN)
    except ConfigError as error:
        assert "--restart" in str(error) and "\n" not in str(error) and len(str(error)) < 2000, seed
        assert path.read_bytes() == damaged, seed
        return "refused"
    whole = {json.dumps(asdict(replace(row, run=1)), ensure_ascii=False).encode() for row in ROWS}
    expected = whole & set((folder / "answers.jsonl").read_bytes().split(b"\n") if path.name == "run.json" else ())
    expected |= whole & set(damaged.split(b"\n"))
    keys = {(row["condition"], row["item"]) for row in map(json.loads, expected)}
    assert keys <= held(journal), seed
    assert expected <= set(lines(folder)), seed
    journal.add([replace(ROW, item="f" * 16, condition="none")])  # the next row begins at a line of its own
    assert held(Journal(folder, RUN)) == held(journal), seed
    return "read"


def test_damaged_journals_are_refused_or_lose_nothing(tmp_path: Path) -> None:
    outcomes = [damage_and_read(tmp_path / "results", seed) for seed in range(250)]
    assert 10 < outcomes.count("read") < 240
