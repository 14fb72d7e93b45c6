"""Run decord in a child process. `decode_decord` starts this file as a program.

The child reads a request, one line of JSON, from standard input; it exits when the input ends.
It writes answers, one line of JSON each, to standard output. Pixels follow each "shape" answer.

Keys of the request: import_path, file, positions, memory_bytes (the limit for decord).
Answers: {"frames": number of frames by decord's count}, then {"shape": [H, W, 3]} per frame; or
{"missing": reason} if decord cannot be imported, {"unreadable": reason} if decord fails.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from typing import Any, BinaryIO


def main() -> None:
    """Serve one request, then exit without running exit handlers, because they may crash."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    request = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    with _only_answers_on_stdout() as answers:
        try:
            _serve(request, answers)
        except Exception as error:
            _send(answers, unreadable=f"{type(error).__name__}: {error}")
        answers.flush()
    os._exit(0)


def _leave_with_parent() -> None:
    """Exit when standard input ends, even if the parent was killed or decord is busy."""
    while os.read(0, 1):
        pass
    os._exit(0)


def _only_answers_on_stdout() -> BinaryIO:
    """Return a stream that writes answers to the parent; anything else on stdout goes to stderr."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return answers


def _serve(request: dict[str, Any], answers: BinaryIO) -> None:
    sys.path[:] = request["import_path"]
    try:
        import decord
    except (ImportError, OSError) as error:
        _send(answers, missing=str(error))
        return
    decord.logging.set_level(decord.logging.QUIET)
    _limit_memory(request["memory_bytes"])
    # With fault tolerance, decord returns a neighbor of a damaged frame without a warning.
    reader = decord.VideoReader(request["file"], num_threads=1, fault_tol=0)
    _send(answers, frames=len(reader))
    for position in request["positions"]:
        rgb = reader[position].asnumpy()
        _send(answers, shape=rgb.shape)
        answers.write(memoryview(rgb).cast("B"))
        answers.flush()


def _limit_memory(limit_bytes: int) -> None:
    """Limit further memory to `limit_bytes` (Linux only): a damaged header can request any size."""
    try:
        import resource

        with open("/proc/self/statm", encoding="ascii") as pages:  # noqa: PTH123
            used_bytes = int(pages.read().split()[0]) * resource.getpagesize()
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (used_bytes + limit_bytes, hard))
    except (ImportError, OSError, ValueError):  # not supported, or a lower limit is set already
        pass


def _send(answers: BinaryIO, **message: Any) -> None:
    answers.write(json.dumps(message).encode() + b"\n")
    answers.flush()


if __name__ == "__main__":
    main()
