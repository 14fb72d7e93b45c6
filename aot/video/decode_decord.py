"""Decode chosen frames with decord; refuse files from which decord returns wrong frames.

decord runs in a child process, `decord_child`, because it aborts or hangs on some files, which no
exception handler can catch. Pixels arrive through a pipe, one picture at a time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aot.errors import ConfigError, VideoError
from aot.video.picture import Picture

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from aot.video.probe import FrameIndex

__all__ = ["DecordReader"]

_REMEDY = "use --decoder pyav"
_CHILD = Path(__file__).with_name("decord_child.py")

# A child that sends nothing for longer than the slowest decoding takes counts as hanging.
_PATIENCE_S = 30.0
_SLOWEST_PIXELS_PER_S = 2e6
_SLOWEST_BYTES_PER_S = 2e6

_CHILD_BYTES = 1 << 30  # memory that decord may use, apart from pictures
_CHILD_PICTURES = 32  # number of pictures that decord may hold in addition
_LONGEST_LINE = 1 << 16


class DecordReader:
    """Read the frames at `positions` (ascending indices into `index.pts`), in order.

    decord rotates the frames upright. Reading `pictures` raises a ConfigError if decord is not
    installed, or a VideoError if decord fails, hangs or counts a different number of frames.
    """

    def __init__(self, file: Path, index: FrameIndex, positions: Sequence[int]) -> None:
        self._file, self._index, self._positions = file, index, positions
        self._name = index.info.path
        self._rows, self._columns = index.decoded_size or (index.info.height, index.info.width)
        self._process: subprocess.Popen[bytes] | None = None
        self._unwanted = False
        self.pictures = self._pictures()

    def give_up(self) -> None:
        """Kill the child; a thread that waits for a picture then gets an error immediately."""
        self._unwanted = True
        if self._process is not None:
            self._process.kill()

    def _pictures(self) -> Generator[Picture, None, None]:
        if find_spec("decord") is None:
            raise _missing()
        self._refuse_what_decord_mistakes()
        info, done = self._index.info, 0
        with self._child():
            frames = self._answer("frames", _PATIENCE_S + self._file.stat().st_size / _SLOWEST_BYTES_PER_S)
            if frames != info.frames:
                raise VideoError(f"decord sees {frames} frames in {self._name}, not {info.frames}: {_REMEDY}")
            for position in self._positions:
                # The time limit grows with the number of frames that decord decodes for this one.
                decoded = position + 1 - max(done, self._index.keyframe_up_to(position))
                shape = self._answer(
                    "shape", _PATIENCE_S + decoded * self._rows * self._columns / _SLOWEST_PIXELS_PER_S
                )
                if shape != [self._rows, self._columns, 3]:
                    raise VideoError(f"decord reads another stream or size of {self._name}: {_REMEDY}")
                yield Picture(position, self._pixels())
                done = position + 1

    def _refuse_what_decord_mistakes(self) -> None:
        if self._index.info.discarded_frames:
            raise VideoError(f"decord returns wrong frames from trimmed files such as {self._name}: {_REMEDY}")
        if self._index.restarts:
            raise VideoError(f"decord mixes up the parts of {self._name}, whose timestamps restart: {_REMEDY}")
        if self._index.info.mirrored:
            raise VideoError(f"decord does not mirror {self._name}, which is stored mirrored: {_REMEDY}")

    @contextmanager
    def _child(self) -> Iterator[None]:
        """Start the child process and send the request; always kill the child at the end."""
        with subprocess.Popen(
            # Isolated from the current directory and start-up files; the request has sys.path.
            [sys.executable, "-I", "-S", str(_CHILD)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C in a terminal goes to the parent only
        ) as process:
            try:
                self._process = process
                if self._unwanted:
                    process.kill()
                self._send_request()
                yield
            finally:
                process.kill()
                process.wait()  # after Ctrl-C, the end of the Popen block may not wait

    def _send_request(self) -> None:
        request = {
            "import_path": [str(Path(entry).absolute()) for entry in sys.path],
            "file": str(self._file),
            "memory_bytes": _CHILD_BYTES + _CHILD_PICTURES * 3 * self._rows * self._columns,
            "positions": list(map(int, self._positions)),
        }
        assert self._process is not None and self._process.stdin is not None
        unsent = memoryview(json.dumps(request).encode() + b"\n")
        with suppress(OSError):  # if the child has ended, reading its answer raises the error
            while unsent:
                unsent = unsent[os.write(self._process.stdin.fileno(), unsent) :]

    def _answer(self, wanted: str, limit_s: float) -> Any:
        """Return the value of the key `wanted` in the child's next message.

        If the message takes more than `limit_s` seconds, kill the child and raise a VideoError.
        """
        assert self._process is not None and self._process.stdout is not None
        late = threading.Event()
        timer = threading.Timer(limit_s, self._stop_late, (late,))
        timer.daemon = True
        timer.start()
        try:
            line = self._process.stdout.readline(_LONGEST_LINE)
        finally:
            timer.cancel()
            timer.join()
        if late.is_set():
            raise VideoError(f"decord hangs on {self._name}, no picture in {limit_s:.0f} s: {_REMEDY}")
        if not line.endswith(b"\n"):
            raise self._crash()
        message = json.loads(line)
        if "missing" in message:
            raise _missing()
        if wanted not in message:
            raise VideoError(f"decord cannot read {self._name}: {_REMEDY}")
        return message[wanted]

    def _stop_late(self, late: threading.Event) -> None:
        late.set()
        if self._process is not None:
            self._process.kill()

    def _pixels(self) -> NDArray[np.uint8]:
        import numpy as np

        assert self._process is not None and self._process.stdout is not None
        rgb = np.empty((self._rows, self._columns, 3), np.uint8)
        received = self._process.stdout.readinto(rgb.data.cast("B"))  # type: ignore[attr-defined]
        if received != rgb.nbytes:
            raise self._crash()
        return rgb

    def _crash(self) -> VideoError:
        return VideoError(f"decord crashed on {self._name}: {_REMEDY}")


def _missing() -> ConfigError:
    return ConfigError(f"decord is not installed or cannot be loaded: install it, or {_REMEDY}")
