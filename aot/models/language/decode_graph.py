"""A decode step as a CUDA graph: the device replays it, and the host launches no single kernels."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from aot.errors import first_line
from aot.models.language.lean_decoder import LeanDecoder
from aot.models.language.slots import Slots

if TYPE_CHECKING:
    from aot.models.language.decoding import Decoding

__all__ = ["BoundSteps", "GraphSteps"]

_HIDDEN = float("-inf")


class BoundSteps:
    """Steps over slots whose index the device holds: equal operations on the same memory.

    Layers may hold different numbers of rows, so each number of rows has its own mask.
    """

    def __init__(self, decoding: Decoding, through: LeanDecoder) -> None:
        self._decoding, self._through = decoding, through
        self._layers: list[Slots] = decoding.cache.layers
        self._step = torch.zeros(1, dtype=torch.int64, device=decoding.device)
        self._masks: dict[int, Tensor] = {}  # [B, 1, 1, capacity] float32, to be added, by how many rows are held
        self._written = self._done = self._room = 0

    def step(self) -> None:
        """Write one more word of every sequence."""
        if self._done == self._room:
            self._bind()
        self._decoding.prepare()
        self._run()
        self._done += 1

    def _bind(self) -> None:
        """Go on with the slots after those held, when there are none left of the last time."""
        self._step.zero_()
        for layer in self._layers:
            layer.release(self._done)
            layer.bind(self._step)
        self._masks = {layer.held: self._mask(layer) for layer in self._layers}
        self._written += self._done
        self._room, self._done = min(layer.capacity - layer.held for layer in self._layers), 0
        position, like = self._decoding.position + self._written, self._layers[0].keys
        self._turns = self._through.turns(position, like, self._room)

    def _mask(self, layer: Slots) -> Tensor:
        seen = self._decoding.seen
        shape = (len(layer.keys), 1, 1, layer.capacity)
        mask = layer.keys.new_full(shape, _HIDDEN, dtype=torch.float32)
        if seen is None:
            mask[..., : layer.held] = 0
        else:
            mask[..., : layer.held].masked_fill_(seen[:, None, None, : layer.held], 0)
        return mask

    def _run(self) -> None:
        self._words()

    def _words(self) -> None:
        """Launch what the device does in one step."""
        for held, mask in self._masks.items():
            mask[..., held:].index_fill_(-1, self._step, 0)
        masks, turns = [self._masks[layer.held] for layer in self._layers], self._turns.at_index(self._step)
        self._decoding.step(lambda embedded: self._through(embedded, turns, self._layers, masks))
        self._step += 1


class GraphSteps(BoundSteps):
    """Bound steps as a CUDA graph: the first runs as it is to warm up, the second is captured.

    If it cannot be captured, the host launches the operations of every step.
    """

    def __init__(self, decoding: Decoding, through: LeanDecoder) -> None:
        super().__init__(decoding, through)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._warm = self._failed = False

    def _bind(self) -> None:
        super()._bind()
        self._graph = None

    def _run(self) -> None:
        if self._warm and not self._failed and self._graph is None:
            self._capture()
        if self._graph is not None:
            self._graph.replay()
            return
        with _side_stream(self._decoding.device):
            self._words()
        self._warm = True

    def _capture(self) -> None:
        graph = torch.cuda.CUDAGraph()
        try:
            with _side_stream(self._decoding.device), _captured(graph, self._decoding.device):
                self._words()
        except RuntimeError as error:
            self._failed = True
            rule = self._decoding.unfinished_rule
            reason = f"{rule} of generation_config.json" if rule else f"a step ({first_line(error)})"
            self._decoding.note(
                f"the answer is written without a CUDA graph, which is slower: {reason} cannot be captured"
            )
        else:
            self._graph = graph


@contextmanager
def _captured(graph: torch.cuda.CUDAGraph, device: torch.device) -> Iterator[None]:
    graph.capture_begin(capture_error_mode="thread_local")  # other threads may use the device meanwhile
    try:
        yield
    except BaseException:
        with suppress(RuntimeError):  # it says no more than that an error came before
            graph.capture_end()
        _free_generator(device)
        raise
    graph.capture_end()


def _free_generator(device: torch.device) -> None:
    """Give the device's default generator a state that no capture holds; seed and offset stay.

    A capture takes hold of it, and one that fails does not let go: whatever draws next would raise.
    """
    default, fresh = torch.cuda.default_generators[_index(device)], torch.Generator(device)
    fresh.set_state(default.get_state())
    default.graphsafe_set_state(fresh.graphsafe_get_state())


def _index(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index


@contextmanager
def _side_stream(device: torch.device) -> Iterator[None]:
    """Run on another stream, as capturing demands, in order with the work of the current one."""
    stream, lock = _stream(device)
    current = torch.cuda.current_stream(device)
    with lock:
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            yield
        current.wait_stream(stream)


@cache
def _stream(device: torch.device) -> tuple[torch.cuda.Stream, threading.Lock]:
    """Return one stream for all answers: cuBLAS keeps memory for each stream that it has seen."""
    return torch.cuda.Stream(device), threading.Lock()  # type: ignore[no-untyped-call]
