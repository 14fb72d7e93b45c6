"""Count the operations that make the host wait for a device, and the launches, without a device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from aot.bench.operations import ALLOCATIONS, assigns_number, needs_values
from aot.compression.ops.read_later import Download


def _uploads(function: Any, args: tuple[Any, ...], result: Any) -> bool:
    """Return whether a copy to the device came from memory that is not pinned, see `ops.uploads`."""
    name = function.__name__.split(".")[0]
    if name in ("index", "index_put", "index_put_"):  # indices and values on the CPU are copied
        given = (*(each for each in args[1] if isinstance(each, Tensor) and each.ndim), *args[2:3])
        return any(each.device != args[0].device for each in given)
    return name in ("_to_copy", "copy_", "copy") and _is_on("meta", result) and _is_on("cpu", args)


def _is_on(device: str, values: Any) -> bool:
    return any(each.device.type == device for each in tree_leaves(values) if isinstance(each, Tensor))


class _Watched(TorchDispatchMode):
    """Count waits and launches of operations on `device`."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device
        self.waits: Counter[str] = Counter()
        self.launches = 0
        self._uploading = False

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = function.__name__.split(".")[0]
        if _is_on(self.device, args) and needs_values(name, args, kwargs):
            self.waits[name] += 1
        result = function(*args, **kwargs)
        if _uploads(function, args, result) and not self._uploading:
            self.waits["upload"] += 1
        is_view = any(each.alias_info and not each.alias_info.is_write for each in function._schema.returns)
        self.launches += _is_on(self.device, result) and not is_view and name not in ALLOCATIONS
        return result

    def upload(self, values: Tensor, device: torch.device) -> Tensor:
        """Stand in for `uploaded`, which does not wait."""
        self._uploading = True
        try:
            return values.to(device)
        finally:
            self._uploading = False


class _Called(TorchFunctionMode):
    """Count the waits of methods that dispatch nothing on this device which shows them."""

    def __init__(self, watched: _Watched) -> None:
        super().__init__()
        self.watched = watched

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        waits = function is Tensor.tolist or assigns_number(function, args)
        if waits and args[0].device.type == self.watched.device:
            self.watched.waits[function.__name__.strip("_")] += 1
        return function(*args, **(kwargs or {}))


@contextmanager
def counted_syncs() -> Iterator[Counter[str]]:
    """Yield a counter of the operations within the context that read values from a device."""
    watched = _Watched("cpu")
    with _Called(watched), watched:
        yield watched.waits


def moved(given: Any, device: str) -> Any:
    """Return a copy of `given`, a dataclass of tensors, on `device`."""
    if isinstance(given, Tensor):
        return given.to(device)
    if isinstance(given, dict):
        return {name: moved(each, device) for name, each in given.items()}
    if is_dataclass(given) and not isinstance(given, type):
        return replace(given, **{each.name: moved(getattr(given, each.name), device) for each in fields(given)})
    return given


def without_values(given: Any) -> Any:
    """Return a copy of `given` on a device without values: reading one is an error."""
    return moved(given, "meta")


@contextmanager
def queued() -> Iterator[_Watched]:
    """Yield the waits and launches of what runs on the device of `without_values` in the context."""
    watched = _Watched("meta")
    made = torch.tensor

    def tensor(data: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Make a tensor; values of the host that go to a device are copied, and the host waits."""
        device = kwargs.get("device")
        if device is not None and torch.device(device).type == "meta":
            watched.waits["upload"] += 1
        return made(data, *args, **kwargs)

    modules = [name for name, module in list(_modules()) if hasattr(module, "uploaded")]
    no_copy = patch.object(Download, "__init__", lambda self, values: None)  # queued, see `ops.read_later`
    with _patched(modules, watched.upload), patch.object(torch, "tensor", tensor), no_copy, _Called(watched), watched:
        yield watched


def _modules() -> Iterator[tuple[str, Any]]:
    import sys

    yield from ((name, module) for name, module in list(sys.modules.items()) if name.startswith("aot.compression"))


@contextmanager
def _patched(modules: list[str], upload: Any) -> Iterator[None]:
    from contextlib import ExitStack

    with ExitStack() as stack:
        for name in modules:
            stack.enter_context(patch(f"{name}.uploaded", upload))
        yield
