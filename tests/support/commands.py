"""Commands of `aot` in this process: the console script's own function, with its streams caught where C writes too."""

from __future__ import annotations

import atexit
import functools
import gc
import io
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO

import typer.main

from tests.support.cli_run import Run
from tests.support.make_videos import write

__all__ = ["Commands", "keep_bundled_model", "set_streams", "warm_up"]


class Commands:
    """Runs one command after another; from the first one on, file descriptors 0, 1 and 2 are theirs."""

    def __init__(self) -> None:
        self._out, self._err = TemporaryFile(), TemporaryFile()  # noqa: SIM115
        typer.main.get_command = functools.cache(typer.main.get_command)  # most of the time of a quick command

    def run(self, arguments: Sequence[str], environment: Mapping[str, str] | None = None, stdin: str = "") -> Run:
        """Return what `aot ARGUMENTS` gives with these variables added; stdin: a file, by default an empty one."""
        from aot_cli.entry import main

        before = dict(os.environ)
        os.environ.update(environment or {})
        sys.argv = ["aot", *arguments]
        self._redirect(stdin or os.devnull)
        code: object = None
        try:
            main()
        except SystemExit as left:
            code = left.code
        finally:
            os.environ.clear()
            os.environ.update(before)
        return Run(code if isinstance(code, int) else int(code is not None), _text(self._out), _text(self._err))

    def _redirect(self, stdin: str) -> None:
        for caught in (self._out, self._err):
            caught.seek(0)
            caught.truncate()
        descriptor = os.open(stdin, os.O_RDONLY)
        set_streams(descriptor, self._out.fileno(), self._err.fileno())
        os.close(descriptor)


def set_streams(stdin: int, stdout: int, stderr: int) -> None:
    """Make three descriptors the standard streams, for Python and for C."""
    for number, descriptor in enumerate((stdin, stdout, stderr)):
        os.dup2(descriptor, number)
    sys.stdin = _stream(0, "r", "strict")
    sys.stdout, sys.stderr = _stream(1, "w", "strict"), _stream(2, "w", "backslashreplace")


def _stream(descriptor: int, mode: str, errors: str) -> io.TextIOWrapper:
    """As Python opens it where the locale is UTF-8."""
    file = open(descriptor, f"{mode}b", closefd=False)  # noqa: SIM115
    return io.TextIOWrapper(file, encoding="utf-8", errors=errors, write_through=mode == "w")


def _text(caught: BinaryIO) -> str:
    sys.stdout.flush()
    sys.stderr.flush()
    caught.seek(0)
    return caught.read().decode("utf-8", "surrogateescape")


def warm_up(folder: Path) -> None:
    """Import what commands import when they need it, and load the bundled model, so that forked processes need not."""
    keep_bundled_model()
    clip, tokens, page = (str(folder / name) for name in ("warm-up.mp4", "warm-up.pt", "warm-up.html"))
    write(Path(clip), 8, size=(48, 32))
    streams = [os.dup(number) for number in range(3)]
    commands, shapes = Commands(), ("--model", "shapes", "--frames", "2")
    lines = (
        ("compress", clip, "-o", tokens, *shapes, "--method", "nothing"),
        ("compress", clip, "-o", tokens, *shapes, "--method", "aot", "--json"),
        ("inspect", tokens), ("inspect", clip), ("inspect", clip, *shapes, "--html", page), ("ask", tokens, "what?"),
        ("compare", clip, "what?", *shapes, "--methods", "uniform,standout,frames"),
    )  # fmt: skip
    for line in lines:
        commands.run(line)
    set_streams(*streams)
    gc.collect()
    atexit.register(gc.unfreeze)
    gc.freeze()  # collections in forked processes leave what is here alone, and the memory shared


def keep_bundled_model() -> None:
    """Make this process, and those forked from it, load the bundled model once for each way it is asked for."""
    import aot.models
    from aot.config.schema import BUNDLED_MODEL, ModelConfig
    from aot_cli.output.console import prepare_libraries

    prepare_libraries(offline=False)
    load, loaded = aot.models.load_model, dict[ModelConfig, aot.models.VideoModel]()

    def load_once(config: ModelConfig) -> aot.models.VideoModel:
        if config.name != BUNDLED_MODEL:
            return load(config)
        if config not in loaded:
            loaded[config] = load(config)
        return loaded[config]

    aot.models.load_model = load_once
    load_once(ModelConfig(name=BUNDLED_MODEL))
