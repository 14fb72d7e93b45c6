"""Record the encoded chunks of videos, and play them to later runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from aot.errors import OutputError
from aot.pipeline.stream import EncodedVideo
from aot.runtime.temporary_files import temporary_file
from aot.types import Needs, VisualTokens

__all__ = ["Recordings"]

_MOST_BYTES_IN_MEMORY = 256 * 2**20

Encode = Callable[[Needs, Callable[[VisualTokens], None]], EncodedVideo]


@dataclass(frozen=True, slots=True)
class _Chunk:
    """A recorded chunk: all values but tensors, and how to read these."""

    plain: VisualTokens
    read: Callable[[], dict[str, Tensor]]
    device: torch.device

    def play(self) -> VisualTokens:
        tensors = {path: tensor.to(self.device) for path, tensor in self.read().items()}
        return _joined(self.plain, tensors)


class Recordings:
    """Encode each video once for all pipelines that run the vision tower in the same way.

    The first run over a video records its chunks for all of `needs`; later runs get them played.
    Chunks beyond 256 MiB are in a temporary file, which is removed with the context. What only one
    of `needs` can use is encoded each time, and not recorded.

    Args:
        needs: what all pipelines need, one element each.
        folder: folder of the temporary file.
    """

    def __init__(self, needs: Sequence[Needs], folder: Path) -> None:
        self._needs, self._folder = needs, folder
        # The key has the video's id; the video itself is held, so that no other can get this id.
        self._held: dict[tuple[int, int], tuple[object, EncodedVideo, list[_Chunk]]] = {}
        self._bytes_in_memory = 0
        self._open = ExitStack()
        self._file: Any = None

    def __enter__(self) -> Recordings:
        return self

    def __exit__(self, *exc: object) -> None:
        self._held.clear()
        self._open.close()

    def encoded(
        self, video: object, needs: Needs, encode: Encode, on_chunk: Callable[[VisualTokens], None]
    ) -> EncodedVideo:
        """Play the chunks of `video` to `on_chunk`, or encode and record them.

        Args:
            video: the video; a later call with the same object gets its recorded chunks.
            needs: what the receivers of the chunks need.
            encode: encodes the video with given needs, and passes on the chunks.
            on_chunk: receives each chunk.

        Raises:
            OutputError: If there is no space for the temporary file.
        """
        alike = [each for each in self._needs if each.runs_tower_like(needs)]
        if len(alike) < 2:
            return encode(needs, on_chunk)
        key = (id(video), self._needs.index(alike[0]))
        if key in self._held:
            _, encoded, held = self._held[key]
            for chunk in held:
                on_chunk(chunk.play())
            return encoded
        chunks: list[_Chunk] = []

        def record(visual: VisualTokens) -> None:
            chunks.append(self._recorded(visual))
            on_chunk(visual)

        encoded = encode(Needs.union(alike), record)
        self._held[key] = video, encoded, chunks
        return encoded

    def _recorded(self, visual: VisualTokens) -> _Chunk:
        plain, tensors = _divided(visual)
        device, on_host = visual.features.device, {path: tensor.cpu() for path, tensor in tensors.items()}
        size = sum(tensor.nbytes for tensor in on_host.values())
        if self._bytes_in_memory + size <= _MOST_BYTES_IN_MEMORY:
            self._bytes_in_memory += size
            return _Chunk(plain, lambda: on_host, device)
        return _Chunk(plain, self._spooled(on_host), device)

    def _spooled(self, tensors: dict[str, Tensor]) -> Callable[[], dict[str, Tensor]]:
        """Append `tensors` to the temporary file; return a function that reads them."""
        content = save({path: tensor.contiguous() for path, tensor in tensors.items()})
        try:
            if self._file is None:
                path = self._open.enter_context(temporary_file(self._folder))
                self._file = self._open.enter_context(path.open("r+b", buffering=0))
            first = self._file.seek(0, 2)
            self._file.write(content)
        except OSError as error:
            raise OutputError(
                f"the encoded videos could not be kept in {self._folder}: {error.strerror}; free some space, choose "
                "another folder with -o, or give fewer videos"
            ) from error

        def read() -> dict[str, Tensor]:
            self._file.seek(first)
            tensors: dict[str, Tensor] = load(self._file.read(len(content)))
            return tensors

        return read


def _divided(visual: VisualTokens) -> tuple[VisualTokens, dict[str, Tensor]]:
    """Return `visual` without its tensors, and the tensors by their paths."""
    plain: dict[str, Any] = {}
    tensors: dict[str, Tensor] = {}
    for field in fields(visual):
        value = getattr(visual, field.name)
        if isinstance(value, Tensor):
            tensors[field.name], plain[field.name] = value, None
        elif field.name in ("saliency", "keys"):
            tensors |= {f"{field.name}.{layer}": tensor for layer, tensor in value.items()}
            plain[field.name] = {}
    return replace(visual, **plain), tensors


def _joined(plain: VisualTokens, tensors: dict[str, Tensor]) -> VisualTokens:
    whole: dict[str, Any] = {"saliency": {}, "keys": {}}
    for path, tensor in tensors.items():
        name, _, layer = path.partition(".")
        if layer:
            whole[name][int(layer)] = tensor
        else:
            whole[name] = tensor
    return replace(plain, **whole)
