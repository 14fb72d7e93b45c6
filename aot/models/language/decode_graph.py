"""Run a decode step as a CUDA graph: the host launches one graph instead of many kernels."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
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
    """Decode steps that all run the same operations on the same memory, as a CUDA graph requires.

    The index of the next slot is a tensor on the device. Attention reads every slot, and a mask
    hides the empty slots. Layers may hold different numbers of rows; each number has a separate
    mask.
    """

    def __init__(self, decoding: Decoding, through: LeanDecoder) -> None:
        self._decoding, self._through = decoding, through
        self._layers: list[Slots] = decoding.cache.layers
        self._step = torch.zeros(1, dtype=torch.int64, device=decoding.device)
        # Masks by number of held rows: [B, 1, 1, capacity] float32, added to attention scores.
        self._masks: dict[int, Tensor] = {}
        # Steps before the last `_bind`, steps after it, and steps for which `_bind` made room.
        self._written = self._done = self._room = 0

    def step(self) -> None:
        """Generate one more token of every sequence."""
        if self._done == self._room:
            self._bind()
        self._decoding.prepare()
        self._run()
        self._done += 1

    def _bind(self) -> None:
        """Bind free slots for the next steps, once all bound slots are used."""
        # 1. Count the rows of past steps as held, and let each layer provide free slots.
        self._step.zero_()
        for layer in self._layers:
            layer.release(self._done)
            layer.bind(self._step)
        self._masks = {layer.held: self._mask(layer) for layer in self._layers}
        # 2. The layer with the fewest free slots limits the number of steps.
        self._written += self._done
        self._room, self._done = min(layer.capacity - layer.held for layer in self._layers), 0
        # 3. Rotary embeddings of all these steps.
        position, like = self._decoding.position + self._written, self._layers[0].keys
        self._rotations = self._through.rotations(position, like, self._room)

    def _mask(self, layer: Slots) -> Tensor:
        """Return a layer's attention mask: 0 for filled slots but padding, otherwise -inf."""
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
        """Launch the operations of one step."""
        # Before attention, the mask reveals the slot that this step writes.
        for held, mask in self._masks.items():
            mask[..., held:].index_fill_(-1, self._step, 0)
        masks, rotations = [self._masks[layer.held] for layer in self._layers], self._rotations.at_index(self._step)
        self._decoding.step(lambda embedded: self._through(embedded, rotations, self._layers, masks))
        self._step += 1


class GraphSteps(BoundSteps):
    """Bound steps that replay a CUDA graph, which holds one step.

    The first answer of its kind launches a step to warm up: libraries allocate workspaces and load
    kernels, which a capture may forbid. Later answers of the model capture their first step. If a
    capture fails after a warm-up, the host launches the operations of every step.
    """

    def __init__(self, decoding: Decoding, through: LeanDecoder) -> None:
        super().__init__(decoding, through)
        self._replay: Callable[[], None] | None = None
        self._is_warm = decoding.kind in decoding.warmed
        self._launched = self._failed = False

    def _bind(self) -> None:
        super()._bind()
        self._replay = None  # the graph holds the addresses of the old slots and masks

    def _run(self) -> None:
        if self._is_warm and not self._failed and self._replay is None:
            self._capture()
        if self._replay is not None:
            self._replay()
            return
        with _side_stream(self._decoding.device):
            self._words()
        self._is_warm = self._launched = True

    def _capture(self) -> None:
        """Capture a step; if this fails, warm up, or add a notice with the reason after that."""
        try:
            self._replay = self._record()
        except RuntimeError as error:
            self._is_warm = False
            if not self._launched:
                return
            # An operation that waits for the device cannot be captured, for instance a filter's.
            self._failed = True
            rule = self._decoding.unfinished_rule
            reason = f"{rule} of generation_config.json" if rule else f"a step ({first_line(error)})"
            self._decoding.note(
                f"the answer is written without a CUDA graph, which is slower: {reason} cannot be captured"
            )
        else:
            self._decoding.warmed.add(self._decoding.kind)

    def _record(self) -> Callable[[], None]:
        """Capture a step without running it; return the function that runs it."""
        graph = torch.cuda.CUDAGraph()
        with _side_stream(self._decoding.device), _captured(graph, self._decoding.device):
            self._words()
        return graph.replay


@contextmanager
def _captured(graph: torch.cuda.CUDAGraph, device: torch.device) -> Iterator[None]:
    graph.capture_begin(capture_error_mode="thread_local")  # other threads may use the device
    try:
        yield
    except BaseException:
        with suppress(RuntimeError):  # this error only repeats that the capture has failed
            graph.capture_end()
        _free_generator(device)
        raise
    graph.capture_end()


def _free_generator(device: torch.device) -> None:
    """Give the device's default generator a new state object with the same seed and offset."""
    # A capture registers the state, and a failed capture does not release the state. Then the next
    # random number that any code draws on the device would raise an error.
    default, fresh = torch.cuda.default_generators[_index(device)], torch.Generator(device)
    fresh.set_state(default.get_state())
    default.graphsafe_set_state(fresh.graphsafe_get_state())


def _index(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index


@contextmanager
def _side_stream(device: torch.device) -> Iterator[None]:
    """Run the `with` body on a side stream, because a capture cannot use the default stream.

    The body runs after the work that is already queued on the current stream. Work that is queued
    there later runs after the body.
    """
    stream, lock = _stream(device)
    current = torch.cuda.current_stream(device)
    with lock:
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            yield
        current.wait_stream(stream)


@cache
def _stream(device: torch.device) -> tuple[torch.cuda.Stream, threading.Lock]:
    """Return one stream and its lock for all answers: cuBLAS keeps memory for each stream."""
    return torch.cuda.Stream(device), threading.Lock()  # type: ignore[no-untyped-call]
