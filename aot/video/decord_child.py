"""The program of the process that decord runs in; started by `decode_decord`, never imported by the rest of `aot`.

It gets one line of JSON on standard input, whose end means that nobody wants frames any more, and answers on standard
output: one line of JSON for each step and, after that of a frame, its pixels.

request: import_path, file, positions, memory_bytes (the most that decord may use).
answers: {"frames": how many decord counts}, {"shape": [H, W, 3]} per frame; or {"missing": why} where decord cannot be
imported, {"unreadable": why} where it reports an error itself.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from typing import Any, BinaryIO


def main() -> None:
    """Serve the one request, and leave at once: what libraries do at the end of a process may crash too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    request = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    with _only_answers_on_stdout() as answers:
        try:
            _serve(request, answers)
        except Exception as error:
            _tell(answers, unreadable=f"{type(error).__name__}: {error}")
        answers.flush()
    os._exit(0)


def _leave_with_parent() -> None:
    """Also while decord's own code runs, and when the parent was killed."""
    while os.read(0, 1):
        pass
    os._exit(0)


def _only_answers_on_stdout() -> BinaryIO:
    """Return the stream to the parent; what libraries print goes nowhere."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return answers


def _serve(request: dict[str, Any], answers: BinaryIO) -> None:
    sys.path[:] = request["import_path"]
    try:
        import decord
    except (ImportError, OSError) as error:
        _tell(answers, missing=str(error))
        return
    decord.logging.set_level(decord.logging.QUIET)
    _limit_memory(request["memory_bytes"])
    # Tolerating no fault: decord otherwise hands out a neighbour of a damaged frame without a word.
    reader = decord.VideoReader(request["file"], num_threads=1, fault_tol=0)
    _tell(answers, frames=len(reader))
    for position in request["positions"]:
        rgb = reader[position].asnumpy()
        _tell(answers, shape=rgb.shape)
        answers.write(memoryview(rgb).cast("B"))
        answers.flush()


def _limit_memory(limit_bytes: int) -> None:
    """Let decord fail where a damaged header makes it ask for more than this; on Linux."""
    try:
        import resource

        with open("/proc/self/statm", encoding="ascii") as pages:  # noqa: PTH123
            used_bytes = int(pages.read().split()[0]) * resource.getpagesize()
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (used_bytes + limit_bytes, hard))
    except (ImportError, OSError, ValueError):  # no such limits here, or a lower one holds already
        pass


def _tell(answers: BinaryIO, **message: Any) -> None:
    answers.write(json.dumps(message).encode() + b"\n")
    answers.flush()


if __name__ == "__main__":
    main()
