"""SIGTERM ends a command as Ctrl-C does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from aot_cli.signals import Terminated, terminable
from tests.support.cli_run import Aot
from tests.support.make_videos import write

AOT = Path(sys.executable).parent / "aot"
pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")


@pytest.mark.parametrize("as_json", [False, True])
def test_a_copy_of_standard_input_is_removed(tmp_path: Path, as_json: bool) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    line = [AOT, "inspect", "-", *["--json"] * as_json]
    with subprocess.Popen(
        line, env={**os.environ, "TMPDIR": str(temporary)}, cwd=tmp_path,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        until = time.monotonic() + 60
        while not list(temporary.glob(".aot-*.part")) and time.monotonic() < until:
            time.sleep(0.05)
        assert list(temporary.glob(".aot-*.part"))
        process.terminate()
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (143, "aot: terminated\n")
    assert not list(temporary.iterdir())
    assert [json.loads(text)["exit_code"] for text in [out] * as_json] == [143] * as_json


def test_a_copy_that_kill_9_left_goes_with_the_next(tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    environment = {**os.environ, "TMPDIR": str(temporary)}
    with subprocess.Popen([AOT, "inspect", "-"], env=environment, stdin=subprocess.PIPE) as process:
        until = time.monotonic() + 60
        while not list(temporary.iterdir()) and time.monotonic() < until:
            time.sleep(0.05)
        process.kill()
    assert len(list(temporary.iterdir())) == 1
    subprocess.run([AOT, "inspect", "-"], env=environment, input=b"no video", capture_output=True)
    assert not list(temporary.iterdir())


def test_before_a_command_begins(run_aot: Aot, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise Terminated

    monkeypatch.setattr("aot_cli.main._Commands.resolve_command", interrupted)
    run = run_aot("inspect", "clip.mp4", "--json")
    assert (run.code, run.err, run.json["exit_code"]) == (143, "aot: terminated\n", 143)


def test_the_first_counts() -> None:
    """`timeout` sends it to the program and to its group."""
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with terminable():
            with pytest.raises(Terminated):
                signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGTERM, Terminated), (signal.SIGINT, KeyboardInterrupt)])
def test_one_that_arrives_in_a_finalizer(
    number: signal.Signals, raised: type[BaseException], capfd: pytest.CaptureFixture[str]
) -> None:
    """Python drops what a finalizer raises, after it has printed it."""

    class Finalized:
        def __del__(self) -> None:
            signal.raise_signal(number)

    before = [(each, signal.getsignal(each)) for each in (signal.SIGTERM, signal.SIGINT)]
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(raised) as caught, terminable():
            Finalized()
            time.sleep(10)
    finally:
        for each, handler in before:
            signal.signal(each, handler)
    assert (caught.type, capfd.readouterr().err) == (raised, "")


def test_other_errors_of_finalizers_are_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Finalized:
        def __del__(self) -> None:
            raise ValueError("of a finalizer")

    seen: list[str] = []
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: seen.append(str(unraisable.exc_value)))
    try:
        with terminable():
            Finalized()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == ["of a finalizer"]


def test_one_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with terminable():
            signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def test_ctrl_c_after_the_result() -> None:
    late = (
        "import atexit, os, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background jobs ignore it
        "atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT))\n"
        "sys.argv = ['aot', '--version']\n"
        "from aot_cli.entry import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", late], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")
    assert done.stdout.startswith("aot ")


def _lose_lock(number: signal.Signals) -> None:
    """Raise what a lock raises while a signal passes it."""
    try:
        signal.raise_signal(number)
        time.sleep(10)
    finally:
        threading.Lock().release()


@pytest.mark.parametrize(
    ("number", "message", "code"), [(signal.SIGINT, "interrupted", 130), (signal.SIGTERM, "terminated", 143)]
)
def test_one_that_arrives_at_a_lock(
    run_aot: Aot, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, message: str, code: int
) -> None:
    """The lock raises "release unlocked lock", which a loader takes for a fault of the checkpoint."""
    before = [(each, signal.getsignal(each)) for each in (signal.SIGTERM, signal.SIGINT)]
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    write(Path("clip.mp4"), 4, size=(48, 32))
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", lambda *_, **__: _lose_lock(number))
    try:
        run = run_aot("ask", "clip.mp4", "what?", "--model", "shapes")
    finally:
        for each, handler in before:
            signal.signal(each, handler)
    assert (run.code, run.err.splitlines()[-1]) == (code, f"aot: {message}")
