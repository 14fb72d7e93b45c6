"""A decode step as a CUDA graph: the device repeats it, and the host no longer launches a thousand kernels a word."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from aot.models.lean_decoder import LeanDecoder
from aot.models.slots import Slots

if TYPE_CHECKING:
    from aot.models.decoding import Decoding

__all__ = ["BoundSteps", "GraphSteps"]

_HIDDEN = float("-inf")


class BoundSteps:
    """Steps over slots whose place the device knows: equal kernels with equal arguments each time.

    Layers may hold different numbers of rows, so each number of them has a mask of its own.
    """

    def __init__(self, decoding: Decoding, through: LeanDecoder) -> None:
        self._decoding, self._through = decoding, through
        self._layers: list[Slots] = decoding.cache.layers
        self._step = torch.zeros(1, dtype=torch.int64, device=decoding.device)
        self._masks: dict[int, Tensor] = {}  # [B, 1, 1, capacity], to be added, by how many rows are held
        self._done = self._room = 0

    def step(self) -> None:
        if self._done == self._room:
            self._bind()
        self._decoding.prepare()
        self._run()
        self._done += 1

    def _bind(self) -> None:
        """Begin with the slots behind those held, after the room of the last time is used up."""
        self._step.zero_()
        for layer in self._layers:
            layer.release(self._done)
            layer.bind(self._step)
        self._masks = {layer.held: self._mask(layer) for layer in self._layers}
        self._room, self._done = min(layer.capacity - layer.held for layer in self._layers), 0

    def _mask(self, layer: Slots) -> Tensor:
        seen = self._decoding.seen
        mask = layer.keys.new_full((len(layer.keys), 1, 1, layer.capacity), _HIDDEN)
        if seen is None:
            mask[..., : layer.held] = 0
        else:
            mask[..., : layer.held].masked_fill_(seen[:, None, None, : layer.held], 0)
        return mask

    def _run(self) -> None:
        self._words()

    def _words(self) -> None:
        """What the device does in one step."""
        for held, mask in self._masks.items():
            mask[..., held:].index_fill_(-1, self._step, 0)
        masks = [self._masks[layer.held] for layer in self._layers]
        self._decoding.step(lambda embedded, position: self._through(embedded, position, self._layers, masks))
        self._step += 1


class GraphSteps(BoundSteps):
    """Such steps, captured once they have run by themselves once, which warms up, and replayed from there on. Where
    they cannot be captured, the host goes on launching them.
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
        with _beside(self._decoding.device):
            self._words()
        self._warm = True

    def _capture(self) -> None:
        graph = torch.cuda.CUDAGraph()
        try:
            with _beside(self._decoding.device):
                graph.capture_begin(capture_error_mode="thread_local")  # other threads may use the device meanwhile
                try:
                    self._words()
                finally:
                    graph.capture_end()
        except RuntimeError as error:
            self._failed = True
            reason = str(error).strip().splitlines()[0]
            self._decoding.note(f"words are written without a CUDA graph, which is slower: {reason}")
        else:
            self._graph = graph


@contextmanager
def _beside(device: torch.device) -> Iterator[None]:
    """On a stream that is not the current one, as capturing demands, in order with what goes before and behind."""
    stream, lock = _stream(device)
    current = torch.cuda.current_stream(device)
    with lock:
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            yield
        current.wait_stream(stream)


@cache
def _stream(device: torch.device) -> tuple[torch.cuda.Stream, threading.Lock]:
    """One for all answers: cuBLAS keeps memory for each stream that it has seen."""
    return torch.cuda.Stream(device), threading.Lock()  # type: ignore[no-untyped-call]
