"""Decode chosen frames with PyAV; stretches between keyframes are decoded side by side."""

from __future__ import annotations

import threading
from bisect import bisect_right
from contextlib import ExitStack, closing, contextmanager
from itertools import groupby
from typing import TYPE_CHECKING

from aot.video.ahead import read_ahead
from aot.video.player import IncompleteError, OvershotError, Player
from aot.video.pyav import side_by_side
from aot.video.source import open_container

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence
    from pathlib import Path

    from aot.video.picture import Picture
    from aot.video.probe import FrameIndex

__all__ = ["PyavReader"]

_Stretch = tuple[int, ...]  # positions of frames that are decoded from the same keyframe


class PyavReader:
    """Read the frames at `positions` (ascending indices into `index.pts`), in order.

    Frames that cannot be decoded are left out.
    """

    def __init__(self, file: Path, index: FrameIndex, positions: Sequence[int]) -> None:
        self._file, self._index = file, index
        self._unwanted = threading.Event()
        self.pictures = self._pictures(positions)

    def give_up(self) -> None:
        """End all decoding at the next packet."""
        self._unwanted.set()

    def _pictures(self, positions: Sequence[int]) -> Generator[Picture, None, None]:
        """Yield the pictures; seek to keyframes if the file supports it.

        Frames are found by their presentation times, or by counting if `index.counted`. If a seek
        ends after its target, the remaining frames are decoded from the start of the file.
        """
        done = -1
        if not self._index.counted and not self._index.restarts:
            stretches = [tuple(group) for _, group in groupby(positions, self._index.keyframe_up_to)]
            try:
                with closing(self._side_by_side(stretches)) as pictures:
                    for picture in pictures:
                        done = picture.position
                        yield picture
                        del picture  # its memory is free for the next one
                return
            except OvershotError:
                pass
        with self._player() as player:
            yield from player.in_order(positions[bisect_right(positions, done) :], seeking=False)

    def _side_by_side(self, stretches: Sequence[_Stretch]) -> Generator[Picture, None, None]:
        """Yield the pictures of all stretches in order; each thread decodes every n-th stretch."""
        info = self._index.info
        lanes = max(1, min(len(stretches) // 2, side_by_side(info.width * info.height)))
        with ExitStack() as stack:
            readers = [self._lane(stretches[first::lanes], lanes) for first in range(lanes)]
            if lanes > 1:
                readers = [read_ahead(reader) for reader in readers]
            for reader in readers:
                stack.enter_context(closing(reader))
                next(reader)  # starts its thread
            try:
                for number in range(len(stretches)):
                    while (picture := next(readers[number % lanes])) is not None:
                        yield picture
                        del picture
            except GeneratorExit:
                self.give_up()
                raise

    def _lane(self, stretches: Sequence[_Stretch], lanes: int) -> Generator[Picture | None, None, None]:
        """Yield None at the beginning, and after the pictures of each stretch."""
        with self._player(lanes) as player:
            yield None
            for stretch in stretches:
                yield from self._stretch(player, stretch, lanes)
                yield None

    def _stretch(self, player: Player, stretch: _Stretch, lanes: int) -> Iterator[Picture]:
        """Yield the pictures of `stretch`; after a damaged one, decode it again in full."""
        done = 0
        try:
            for picture in player.only_needed(stretch):
                yield picture
                done += 1
                del picture
        except IncompleteError:
            if self._unwanted.is_set():
                return
            player.rest()
            with self._player(lanes) as another:
                yield from another.in_order(stretch[done:], seeking=True)

    @contextmanager
    def _player(self, lanes: int = 1) -> Iterator[Player]:
        with open_container(self._file, self._index.info.path) as container:
            yield Player(container, self._index, unwanted=self._unwanted, lanes=lanes)
