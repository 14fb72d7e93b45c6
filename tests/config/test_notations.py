"""Numbers as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aot.config.notations import read_seconds, read_share
from aot.config.schema import build_config
from aot.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("75", 75), ("75.5", 75.5), (" 75 ", 75), ("1:00", 60), ("0:30", 30), ("90:00", 5400), ("1:02:03.5", 3723.5),
        ("90s", 90), ("1.5s", 1.5), ("1m30s", 90), ("1m", 60), ("2h", 7200), ("1h2m3.5s", 3723.5), ("1 min 5 sec", 65),
        ("1M30S", 90), ("0", 0),
    ],
)  # fmt: skip
def test_times(text: str, seconds: float) -> None:
    assert read_seconds(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", "abc", "1:75", "1:60:00", "1:2:3:4", ":30", "1:", "s", "30s1m", "-5", "1e3", "1,5", "m", "1::2", "٣", "nan"],
)
def test_no_times(text: str) -> None:
    assert read_seconds(text) is None


@given(st.integers(0, 99), st.integers(0, 59), st.integers(0, 59))
def test_clocks_and_units_say_the_same(hours: int, minutes: int, seconds: int) -> None:
    clock = read_seconds(f"{hours}:{minutes:02}:{seconds:02}")
    assert clock == read_seconds(f"{hours}h{minutes}m{seconds}s") == 3600 * hours + 60 * minutes + seconds


@pytest.mark.parametrize(("text", "share"), [("10%", 0.1), ("12.5 %", 0.125), ("0.1%", 0.001), ("100%", 1.0)])
def test_percent(text: str, share: float) -> None:
    assert read_share(text) == share


@pytest.mark.parametrize("text", ["", "10", "0.1", "%", "-10%", "ten%", "10%%", "1e1%"])
def test_no_percent(text: str) -> None:
    assert read_share(text) is None


def test_settings_take_them() -> None:
    config = build_config({"ratio": "25%", "sampling": {"start_s": "1m30s", "end_s": "0:02:00"}})
    assert (config.ratio, config.sampling.start_s, config.sampling.end_s) == (0.25, 90, 120)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"ratio": "ten"}, r"ratio must be a number such as 0.1 or 10%, got 'ten'"),
        ({"ratio": "120%"}, r"ratio must be in \(0, 1\], got 1.2"),
        ({"sampling": {"start_s": "1:75"}}, "sampling.start_s must be a time such as .*1:02:03.5 or null, got '1:75'"),
        ({"sampling": {"frames": "1m"}}, "sampling.frames must be a whole number, got '1m'"),
    ],
)
def test_others_are_refused_with_examples(settings: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        build_config(settings)
