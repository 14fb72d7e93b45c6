"""Bytes that are not UTF-8 are refused in questions, and marked in what is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from aot.config.schema import SamplingConfig
from aot.errors import ConfigError
from aot.pipeline.frame_selection import check_questions
from aot.runtime.atomic_writes import write_text
from aot.text import as_utf8, is_utf8

NAME = b"caf\xe9.mp4".decode("utf-8", "surrogateescape")


@pytest.mark.parametrize("text", ["", "what?", "caf\u00e9", "\u65e5\u672c", "\U0001f600"])
def test_text_is_left_alone(text: str) -> None:
    assert is_utf8(text)
    assert as_utf8(text) == text


def test_a_byte_that_is_not_utf_8(tmp_path: Path) -> None:
    assert not is_utf8(NAME)
    write_text(tmp_path / "a.txt", NAME, overwrite=False)
    assert (tmp_path / "a.txt").read_text("utf-8") == as_utf8(NAME) == "caf\ufffd.mp4"


def test_a_question_that_chooses_frames() -> None:
    with pytest.raises(ConfigError, match="not valid UTF-8"):
        check_questions(SamplingConfig(select_frames=2), [NAME])
