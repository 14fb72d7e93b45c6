"""The report: counts that add up, and two forms that others can read."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict, fields

import pytest
import torch

from aot.config.schema import Config
from aot.reports.retention import FrameRetention, ModelRecord, RetentionReport, frame_retention, versions
from aot.types import Clip, CompressedTokens, Role, VideoInfo

FRAME = [0, 0, 1, 1, 1, 2, 0, 3, 3]
ROLE = [
    *[Role.KEYFRAME] * 2,
    *[Role.DISTINCT] * 4,
    Role.MERGED,
    *[Role.KEPT] * 2,
]
PLACEMENT = {
    "device": "cpu", "dtype": "float32", "attention": "sdpa", "vision_blocks": 2, "positions": "packed",
    "pooling": "none",
}  # fmt: skip


def tokens() -> CompressedTokens:
    count = len(FRAME)
    return CompressedTokens(
        features=torch.zeros(count, 4),
        frame=torch.tensor(FRAME, dtype=torch.int32),
        row=torch.zeros(count, dtype=torch.int32),
        col=torch.zeros(count, dtype=torch.int32),
        role=torch.tensor(ROLE, dtype=torch.uint8),
        mass=torch.ones(count),
        grid=(2, 5),
        timestamps_s=(0.0, 0.5, 1.0, 1.5),
        clips=(Clip(0, 3), Clip(3, 4)),
    )


@pytest.fixture
def report() -> RetentionReport:
    return RetentionReport(
        visual_tokens=40,
        budget_tokens=9,
        kept_tokens=9,
        retention=9 / 40,
        frames=frame_retention(tokens(), 10, [0.25, 0.5, -0.75]),
        stage_ms={"decode": 1.5},
        peak_bytes={"host": 1},
        facts={"note": "a, \"b\"\n'c'", "none": None},
        model=ModelRecord("é", None, "f" * 16, False, 4, PLACEMENT, (1, 3)),
        video=VideoInfo("a.mp4", "mp4", "h264", 64, 48, 0, 0, 1, 4, 4, 0, 1, 2.0, 2.0, False, False),
        config=Config(ratio=0.1),
        versions=versions(),
        notices=("one", "two"),
    )


def test_counts_by_frame(report: RetentionReport) -> None:
    assert [asdict(frame) for frame in report.frames] == [
        dict(zip([f.name for f in fields(FrameRetention)], row, strict=True))
        for row in [
            (0, 0.0, 0, True, None, 2, 0, 1, 3, 0.3),
            (1, 0.5, 0, False, 0.25, 0, 3, 0, 3, 0.3),
            (2, 1.0, 0, False, 0.5, 0, 1, 0, 1, 0.1),
            (3, 1.5, 1, True, -0.75, 2, 0, 0, 2, 0.2),
        ]
    ]
    assert sum(frame.kept for frame in report.frames) == report.kept_tokens


def test_csv_reads_back(report: RetentionReport) -> None:
    text = report.to_csv()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert list(rows[0]) == [f.name for f in fields(FrameRetention)]
    expected = [
        {name: "" if value is None else str(value) for name, value in asdict(frame).items()} for frame in report.frames
    ]
    assert rows == expected
    assert "\r" not in text and text.endswith("\n")


def test_dict_is_json(report: RetentionReport) -> None:
    plain = report.to_dict()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert list(plain) == [f.name for f in fields(RetentionReport)]
    assert plain["frames"][3] == asdict(report.frames[3])


def test_a_report_that_was_written_is_the_same_object_again(report: RetentionReport) -> None:
    plain = json.loads(json.dumps(report.to_dict()))
    assert RetentionReport.from_dict(plain) == report
    assert RetentionReport.from_dict({**plain, "source": "a.mp4", "clips": []}) == report  # as in `--report a.json`
    with pytest.raises(ValueError, match=r"report\.kept_tokens must be"):
        RetentionReport.from_dict({**plain, "kept_tokens": 41})


def test_a_model_that_compressed_nothing_has_no_width_and_no_blocks() -> None:
    record = ModelRecord("m", "abc", "f" * 16, False, None, PLACEMENT)
    assert record.to_dict() == {
        "name": "m", "revision": "abc", "fingerprint": "f" * 16, "toy_model": False, **PLACEMENT,
    }  # fmt: skip
    assert str(record) == "m on cpu, float32"


def test_versions_name_what_the_numbers_depend_on() -> None:
    found = versions()
    assert found["torch"] == torch.__version__
    assert {"python", "platform", "aot", "transformers", "av"} <= found.keys()


def test_a_package_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import PackageNotFoundError

    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("aot.reports.retention.version", missing)
    assert versions()["decord"] == "not installed"
