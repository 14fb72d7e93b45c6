"""Count the work of each stage from its operations, on any device.

An operation is what torch dispatches to the device; views and allocations are not counted. Waits
are operations for which the host needs a value, so that it would wait for a device with a queue.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["ALLOCATIONS", "StageWork", "StageWorks", "assigns_number", "counted_operations", "needs_values"]

# Views and tensors without values need no launch.
ALLOCATIONS = {
    "alias", "detach", "empty", "empty_like", "empty_strided", "lift_fresh", "new_empty", "new_empty_strided",
}  # fmt: skip
# Operations whose result, or the shape of it, the host must know. In inference mode some operations
# are dispatched under the names of their methods.
_WAITS = {
    "_local_scalar_dense", "_unique", "_unique2", "allclose", "argwhere", "bincount", "equal", "histc", "is_nonzero",
    "item", "masked_select", "nonzero", "nonzero_numpy", "unique_consecutive", "unique_dim",
}  # fmt: skip
# Methods that read values from a device and that the dispatcher does not see on a CPU.
_READS = {"tolist", "numpy", "cpu"}


@dataclass(slots=True)
class StageWork:
    """The work of one stage.

    Attributes:
        launches: number of operations; for what the host of a CUDA device launches, see `launches`.
        waits: number of waits, by the name of the operation.
        flops: number of floating-point operations of matrix products, convolutions and attention.
    """

    launches: int = 0
    waits: Counter[str] = field(default_factory=Counter)
    flops: int = 0


class StageWorks:
    """The work of each stage of a run; `begin` names the stage that follows."""

    def __init__(self) -> None:
        self.stages: dict[str, StageWork] = {}
        self.begin("")

    def begin(self, stage: str) -> None:
        """Count what follows for `stage`; a stage may begin several times."""
        self.now = self.stages.setdefault(stage, StageWork())


@contextmanager
def counted_operations() -> Iterator[StageWorks]:
    """Yield the work of this thread in the `with` block; times are not meaningful there."""
    works = StageWorks()
    with _Reads(works), _Operations(works):
        yield works


class _Reads(TorchFunctionMode):
    def __init__(self, works: StageWorks) -> None:
        super().__init__()
        self._works = works

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(function, "__name__", "")
        if name in _READS or assigns_number(function, args):
            self._works.now.waits[name] += 1
        return function(*args, **(kwargs or {}))


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, works: StageWorks) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._works = works

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found, now, named = function(*args, **(kwargs or {})), self._works.now, kwargs or {}
        name = function.__name__.split(".")[0]
        if needs_values(name, args, named):
            now.waits[name] += 1
        elif not function.is_view and name not in ALLOCATIONS:
            now.launches += 1
        if "backward" not in name:
            now.flops += _flops(name, args, named, found)
        return found


def assigns_number(function: Any, args: Any) -> bool:
    """Return whether `function` assigns a number so that the host would wait: `x[-1] = 2`.

    CUDA makes a tensor of the number on the host and copies it, unless the index is of slices
    alone. On other devices the operations show nothing of it.
    """
    if function is not Tensor.__setitem__ or isinstance(args[2], Tensor):
        return False
    index = args[1] if isinstance(args[1], tuple) else (args[1],)
    # `needs_values` counts masks.
    by_indices = any(isinstance(each, Tensor | list) and getattr(each, "dtype", None) != torch.bool for each in index)
    return by_indices or sum(isinstance(each, int) for each in index) == args[0].ndim


def needs_values(name: str, args: Any, named: Mapping[str, Any]) -> bool:
    """Return whether the host needs the values of an operation, or the shape that they decide."""
    if name == "where":
        return len(args) == 1
    if name == "segment_reduce":  # checks the lengths
        return not named.get("unsafe", False)
    if name == "repeat_interleave":
        repeats = args[min(len(args), 2) - 1]
        return isinstance(repeats, Tensor) and named.get("output_size") is None
    if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
        # True values of a mask that serves as an index must be counted.
        return any(isinstance(each, Tensor) and each.dtype == torch.bool for each in args[1])
    return name in _WAITS


def _flops(name: str, args: Any, named: Mapping[str, Any], found: Any) -> int:
    """Return the floating-point operations of an operation; 0 if it multiplies no matrices."""
    if "scaled_dot_product" in name:
        return _of_attention(*args[:3], is_causal=named.get("is_causal", False) or True in args[3:])
    of_product = _PRODUCTS.get(name)
    return of_product(args, found) if of_product else 0


def _of_attention(query: Tensor, key: Tensor, value: Tensor, *, is_causal: bool) -> int:
    """Return the operations of both products; a causal attention needs half of them."""
    rows = math.prod(query.shape[:-1])
    whole = 2 * rows * key.shape[-2] * (query.shape[-1] + value.shape[-1])
    return whole // 2 if is_causal else whole


def _inner(number: int) -> Callable[[Any, Tensor], int]:
    """Return a rule for products whose argument `number` has the summed axis last."""
    return lambda args, found: 2 * found.numel() * int(args[number].shape[-1])


_PRODUCTS: Mapping[str, Callable[[Any, Any], int]] = {
    **dict.fromkeys(("mm", "bmm", "matmul", "linear"), _inner(0)),
    **dict.fromkeys(("addmm", "baddbmm"), _inner(1)),
    # Every output value sums over one filter, args[1][0].
    **dict.fromkeys(
        ("convolution", "_convolution", "conv2d", "conv3d"),
        lambda args, found: 2 * found.numel() * math.prod(args[1].shape[1:]),
    ),
}
