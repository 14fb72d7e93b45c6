"""Commands of the program in environments as they come: in containers, services, pipes and on full disks.

`python -m tests.support.environments` runs them all and prints one line of figures. Most run in forks of one
process (`Fork`), where nothing is imported twice.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["BROKEN", "CLOSED", "ENVIRONMENTS", "FULL", "LINES", "Environment", "Fork", "Outcome", "make_files", "run"]

ROOT = Path(__file__).parents[2]
CLOSED, FULL, BROKEN = "closed", "/dev/full", "broken"
_STREAMS = ("stdin", "stdout", "stderr")
_NEW_MOUNTS = 0x00020000  # CLONE_NEWNS, and below MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE: of Linux
_READ_ONLY, _AGAIN, _BIND, _RECURSIVE, _PRIVATE = 1, 32, 4096, 16384, 1 << 18


@dataclass(frozen=True)
class Environment:
    """What differs from a shell's own. streams: of stdin, stdout and stderr, where they lead. variables: None takes one
    away. interpreter: flags of Python's. memory_bytes: of address space. setup: what else the process does first.
    """

    name: str
    streams: dict[str, str] = field(default_factory=dict)
    variables: dict[str, str | None] = field(default_factory=dict)
    interpreter: tuple[str, ...] = ()
    memory_bytes: int | None = None
    setup: str | None = None

    @property
    def can_fork(self) -> bool:
        """Whether it can be made of a process that has begun as usual."""
        return not self.interpreter and self.memory_bytes is None


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


# --- What a process does to itself before it begins


def _mount(source: str, target: str, kind: str | None, flags: int = 0, data: str | None = None) -> None:
    """Mount something for this process and its children alone.

    Raises:
        PermissionError: it may not.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    texts = [None if text is None else text.encode() for text in (source, target, kind, data)]
    for failed in (
        libc.unshare(_NEW_MOUNTS),
        libc.mount(b"none", b"/", None, _RECURSIVE | _PRIVATE, None),
        libc.mount(*texts[:3], flags, texts[3]),
    ):
        if failed:
            raise PermissionError(ctypes.get_errno(), f"{target} cannot be mounted here")


def _no_proc() -> None:
    _mount("none", "/proc", "tmpfs")


def _little_space() -> None:
    """The folder for temporary files holds 64 KiB."""
    _mount("none", os.environ["TMPDIR"], "tmpfs", data="size=64k")


def _nobody() -> None:
    """The user has no entry in the list of users, and so no home."""
    _mount(os.devnull, "/etc/passwd", None, _BIND)


def _read_only() -> None:
    """Nobody can write to the current folder, the superuser neither."""
    here = str(Path.cwd())
    _mount(here, here, None, _BIND)
    _mount(here, here, None, _BIND | _READ_ONLY | _AGAIN)
    os.chdir(here)


SETUPS: dict[str, Callable[[], None]] = {
    "no /proc": _no_proc,
    "little space": _little_space,
    "nobody": _nobody,
    "read only": _read_only,
}

ENVIRONMENTS = (
    Environment("as usual"),
    Environment("stdin closed", {"stdin": CLOSED}),
    Environment("stdout closed", {"stdout": CLOSED}),
    Environment("stderr closed", {"stderr": CLOSED}),
    Environment("all closed", dict.fromkeys(_STREAMS, CLOSED)),
    Environment("stdout full", {"stdout": FULL}),
    Environment("stderr full", {"stderr": FULL}),
    Environment("both full", {"stdout": FULL, "stderr": FULL}),
    Environment("stdout broken", {"stdout": BROKEN}),
    Environment("stderr broken", {"stderr": BROKEN}),
    Environment("LANG=C", variables={"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
    Environment("ASCII", variables={"PYTHONIOENCODING": "ascii"}),
    Environment("no home", variables={"HOME": None}, setup="nobody"),
    Environment("read-only folder", setup="read only"),
    Environment("no TMPDIR", variables={"TMPDIR": "/no/such/folder"}),
    Environment("little TMPDIR", variables={"TMPDIR": "tmp"}, setup="little space"),
    Environment("no /proc", setup="no /proc"),
    Environment("-OO", interpreter=("-OO",)),
    Environment("ulimit -v", memory_bytes=600 * 2**20),
)

# For every command a line that needs no model, or nothing but an error; the program's own words are what is tested.
LINES = {
    "ask": ("ask", "nope.mp4", "what?"),
    "chat": ("chat", "nope.mp4"),
    "compress": ("compress", "text.mp4", "-o", "t.pt", "--model", "shapes"),
    "batch": ("batch", "nope.jsonl", "-o", "out"),
    "serve": ("serve", "--allow", "text.mp4"),
    "export": ("export", "shapes", "-o", "text.mp4"),
    "inspect": ("inspect", "clip.mp4", "--frames", "4"),
    "compare": ("compare", "text.mp4", "what?", "--json"),
    "eval": ("eval", "nope.jsonl", "-o", "out"),
    "tune": ("tune", "nope.mp4", "-q", "what?"),
    "bench video": ("bench", "video", "nope.mp4", "--json"),
    "bench compressor": ("bench", "compressor", "--ratio", "2"),
    "demo": ("demo", "-o", "text.mp4"),
    "doctor": ("doctor",),
    "methods": ("methods",),
    "presets list": ("presets", "list", "--json"),
    "presets show": ("presets", "show", "default"),
    "settings": ("settings", "--show"),
    "help": ("help", "ask"),
    "version": ("version",),
}
# Others that stand for what commands have in common, and the work itself.
MORE_LINES = (
    ("--help",), ("--version",), ("ask", "--help"), ("nonsense",), ("ask",), ("inspect", "clip.mp4", "--nonsense"),
    ("inspect", "clip.mp4", "--json"), ("inspect", "-"), ("ask", "clip.mp4"),
)  # fmt: skip
REAL_LINES = (
    ("ask", "clip.mp4", "what happens?", "--model", "shapes", "--frames", "4"),
    ("ask", "tokens.pt", "what happens?", "--json"),
    ("compress", "clip.mp4", "--model", "shapes", "--frames", "4"),
    ("inspect", "clip.mp4", "--model", "shapes", "--frames", "4", "--html", "p.html"),
    ("compare", "clip.mp4", "what happens?", "--model", "shapes", "--frames", "4", "--methods", "none,aot"),
    ("eval", "questions.jsonl", "-o", "out", "--model", "shapes", "--frames", "4", "--methods", "none", "-r", "1"),
    ("tune", "clip.mp4", "-q", "what?", "--model", "shapes", "--frames", "4", "--methods", "uniform", "-r", "1"),
    ("batch", "clip.mp4", "-q", "what happens?", "-o", "out", "--model", "shapes", "--frames", "4"),
    ("bench", "video", "clip.mp4", "--model", "shapes", "--rounds", "1", "--max-new-tokens", "2"),
    ("bench", "compressor", "--frames", "4", "--width", "32", "--rounds", "1"),
    ("demo",),
)


# --- Running


def make_files(folder: Path, clip: Path) -> None:
    """Fill a folder, which every user may read, with what the lines name."""
    folder.mkdir(mode=0o755, exist_ok=True)
    shutil.copy(clip, folder / "clip.mp4")
    (folder / "text.mp4").write_text("no video")
    (folder / "questions.jsonl").write_text(json.dumps({"video": "clip.mp4", "question": "what?", "answer": "no"}))
    (folder / "tmp").mkdir(exist_ok=True)
    for path in (folder, *folder.iterdir()):
        path.chmod(0o777 if path.is_dir() else 0o644)


def run(line: tuple[str, ...], environment: Environment, folder: Path, *, fork: Fork | None = None) -> Outcome:
    """Run a command in a folder, in a process of its own or in a fork.

    Raises:
        PermissionError: this machine does not let us make the environment.
    """
    with tempfile.TemporaryDirectory() as seen:
        Path(seen).chmod(0o755)
        order = {"line": line, "folder": str(folder), "seen": seen, "environment": asdict(environment)}
        if fork is None:
            words = [sys.executable, *environment.interpreter, str(Path(__file__)), json.dumps(order)]
            code = subprocess.run(words, env=_variables(environment)).returncode
        else:
            code = fork.run(order)
        out, err = (_text(Path(seen, name)) for name in ("stdout", "stderr"))
    if code == 77 and err.startswith("PermissionError"):
        raise PermissionError(err)
    return Outcome(code, out, err)


def _text(path: Path) -> str:
    """What was printed, without the lines that say every ten seconds that a slow machine is not done yet, and without
    one that a library in C writes where there is no /proc.
    """
    text = path.read_bytes().decode("utf-8", "replace") if path.exists() else ""
    return re.sub(r"^(aot: \d+ s: |Error in cpuinfo: ).*\n", "", text, flags=re.MULTILINE)


def _variables(environment: Environment) -> dict[str, str]:
    base = {name: value for name, value in os.environ.items() if not name.startswith(("AOT_", "LC_"))}
    base |= {
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(ROOT),
    }
    changed = base | environment.variables
    return {name: value for name, value in changed.items() if value is not None}


class Fork:
    """A process that has imported the program and forks for every command."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, "serve"], env=_variables(Environment("")), stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, order: dict[str, Any]) -> int:
        assert self._process.stdin is not None and self._process.stdout is not None
        print(json.dumps(order), file=self._process.stdin, flush=True)
        return int(self._process.stdout.readline())

    def close(self) -> None:
        self._process.communicate(timeout=60)


def _serve() -> None:
    import torch

    from aot_cli import main  # noqa: F401

    torch.set_num_threads(1)
    for text in sys.stdin:
        child = os.fork()
        if child == 0:
            _begin(json.loads(text), is_fork=True)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _begin(order: dict[str, Any], *, is_fork: bool) -> None:
    """Become the command, in its environment."""
    environment = Environment(**order["environment"])
    os.chdir(order["folder"])
    if is_fork:
        os.environ.update({name: value for name, value in environment.variables.items() if value is not None})
        for name in [name for name, value in environment.variables.items() if value is None]:
            os.environ.pop(name, None)
        tempfile.tempdir = None
    _redirect(environment.streams, Path(order["seen"]))
    try:
        if environment.setup:
            SETUPS[environment.setup]()
    except PermissionError as error:
        os.write(2, f"PermissionError: {error}".encode())
        os._exit(77)
    if environment.memory_bytes:
        resource.setrlimit(resource.RLIMIT_AS, (environment.memory_bytes, environment.memory_bytes))
    if not is_fork:
        os.execv(sys.executable, [sys.executable, *environment.interpreter, "-m", "aot_cli", *order["line"]])
    _run_here(order["line"])


def _redirect(streams: dict[str, str], seen: Path) -> None:
    """Let the three streams lead elsewhere; all are opened before one is closed, whose number the next would get."""
    opened: list[int | None] = []
    for number, name in enumerate(_STREAMS):
        target = streams.get(name) or (os.devnull if name == "stdin" else str(seen / name))
        if target == BROKEN:
            reading, writing = os.pipe()
            os.close(reading)
            opened.append(writing)
        else:
            how = os.O_RDONLY if number == 0 else os.O_WRONLY | (0 if target == FULL else os.O_CREAT)
            opened.append(None if target == CLOSED else os.open(target, how, 0o644))
    for number, descriptor in enumerate(opened):
        if descriptor is None:
            os.close(number)
        else:
            os.dup2(descriptor, number)
            os.close(descriptor)


def _run_here(line: list[str]) -> None:
    """As a fresh interpreter would: streams of the descriptors, the script, then the end of Python."""
    import atexit

    for number, name in enumerate(_STREAMS):
        try:
            os.fstat(number)
            encoding = os.environ.get("PYTHONIOENCODING", "utf-8")
            stream: Any = open(number, "w" if number else "r", encoding=encoding, closefd=False)  # noqa: SIM115
        except OSError:
            stream = None
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    sys.argv = ["aot", *line]
    code: Any = 0
    try:
        from aot_cli.entry import main

        main()
    except SystemExit as left:
        code = left.code or 0
    except BaseException:
        import traceback

        os.write(2, traceback.format_exc().encode())
        code = 1
    atexit._run_exitfuncs()
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except OSError as error:
        os.write(2, f"Exception ignored while flushing: {error}".encode()) if sys.stderr else None
        code = 120
    os._exit(code)


# --- What is expected


def faults(line: tuple[str, ...], environment: Environment, found: Outcome, usual: Outcome) -> list[str]:
    """Return what is wrong with the outcome, given that of the same line as usual."""
    wrong = [f"{word} in {text!r}" for word in _WORDS for text in (found.out, found.err) if word in text]
    code, err = expected(line, environment, usual)
    if found.code not in code:
        wrong.append(f"exit code {found.code}, not {' or '.join(map(str, code))}")
    new = _kinds(found.err) - _kinds(usual.err)
    is_drawn_anew = usual.code == 2 or environment.name in ("ASCII", "LANG=C")  # boxes and tables in other letters
    if err not in found.err or (len(new) > 1 and not is_drawn_anew):
        wrong.append(f"stderr {found.err!r}")
    return wrong


def _kinds(text: str) -> set[str]:
    """Return the lines without their figures, which differ from run to run."""
    return {re.sub(r"[0-9.]+", "0", line) for line in text.splitlines()}


_WORDS = ("Traceback", "internal error", "Exception ignored", "hf_secret")


def expected(line: tuple[str, ...], environment: Environment, usual: Outcome) -> tuple[tuple[int, ...], str]:
    """Return the exit codes that are right, and what stderr says."""
    streams = environment.streams
    if usual.out and streams.get("stdout") == FULL:
        says = "" if usual.code or streams.get("stderr") else "the output cannot be written: no space left on device"
        return (usual.code or 1,), says
    if usual.out and streams.get("stdout") == BROKEN:
        return (usual.code or 1,), ""
    if environment.memory_bytes:
        return (usual.code, 5), ""
    if environment.interpreter and line in REAL_LINES:
        return (usual.code, 4), ""
    if environment.name == "read-only folder" and (line in REAL_LINES or "-o" in line):
        return (usual.code, 1), ""
    return (usual.code,), ""


def _main() -> None:
    import time

    from aot.shapes.clips import encode_clip
    from aot.shapes.world import sample_scene

    begun, count, wrong = time.perf_counter(), 0, 0
    lines = [*LINES.values(), *MORE_LINES, *REAL_LINES]
    fork = Fork()
    with tempfile.TemporaryDirectory() as root:
        Path(root).chmod(0o755)
        clip = Path(root) / "clip.mp4"
        encode_clip(sample_scene(1), clip, 120)
        for line in lines:
            usual = None
            for environment in ENVIRONMENTS:
                folder = Path(root) / "here"
                shutil.rmtree(folder, ignore_errors=True)
                make_files(folder, clip)
                if "tokens.pt" in line:
                    shutil.copy(_tokens(Path(root), clip), folder)
                found = run(line, environment, folder, fork=fork if environment.can_fork else None)
                usual = usual or found
                count += 1
                told = faults(line, environment, found, usual)
                wrong += bool(told)
                if told:
                    print(f"{environment.name}: aot {' '.join(line)}: {'; '.join(told)}", flush=True)
    fork.close()
    print(f"{count} runs, {wrong} wrong, {time.perf_counter() - begun:.0f} s")


def _tokens(root: Path, clip: Path) -> Path:
    path = root / "tokens.pt"
    if not path.exists():
        line = ["compress", clip, "-o", path, "--model", "shapes", "--frames", "4"]
        subprocess.run([sys.executable, "-m", "aot_cli", *map(str, line)], check=True, env=_variables(ENVIRONMENTS[0]))
        path.chmod(0o644)
    return path


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        _serve()
    elif len(sys.argv) == 2 and sys.argv[1].startswith("{"):
        _begin(json.loads(sys.argv[1]), is_fork=False)
    else:
        _main()
