"""The list of known skips decides whether a run with skips passes."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

SKIPPED = """
    import pytest

    @pytest.mark.parametrize("number", [1, 2])
    def test_on_a_moon(number):
        pytest.skip("no moon at hand")

    @pytest.mark.skipif(True, reason="needs 3 suns (of 1)")
    def test_suns(): ...

    def test_fine(): ...
"""


@pytest.fixture
def suite(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makeconftest((Path(__file__).parent / "skips.py").read_text(encoding="utf-8"))
    pytester.makepyfile(test_space=SKIPPED, test_module='import pytest\npytest.importorskip("no_such_package")')
    return pytester


@pytest.mark.parametrize("processes", ["0", "2"])
def test_reasons_are_counted_and_printed(suite: pytest.Pytester, processes: str) -> None:
    result = suite.runpytest_subprocess("-n", processes)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*4 skipped*", "    2  no moon at hand", "*1 passed, 4 skipped*"])
    result.stdout.fnmatch_lines(["    1  could not import 'no_such_package'*", "    1  needs 3 suns (of 1)"])


@pytest.mark.parametrize(
    ("known", "unknown"),
    [
        (r"# why" + "\n" + r"no moon at hand" + "\n" + r"needs \d suns \(of 1\)" + "\n" + r"could not import .*", None),
        ("no moon\nneeds .*\ncould not import .*\n", "no moon at hand"),  # a whole reason, not its beginning
    ],
)
def test_an_unknown_skip_fails_the_run(suite: pytest.Pytester, known: str, unknown: str | None) -> None:
    Path("known.txt").write_text(known, encoding="utf-8")
    result = suite.runpytest_subprocess("-n", "0", "--known-skips", "known.txt")
    assert result.ret == (0 if unknown is None else 1)
    lines = [line for line in result.outlines if "UNKNOWN" in line]
    assert lines == ([] if unknown is None else [f"UNKNOWN SKIP, not in known.txt: {unknown}"])
