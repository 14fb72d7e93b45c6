"""Simulate several devices on the CPU: every tensor has the name of a device.

Mixing two devices, or passing a tensor of another device than the CPU to numpy, is an error as on
GPUs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.weak import WeakIdKeyDictionary

__all__ = ["PretendDevices", "spread"]

_CPU = torch.device("cpu")
_READS = (
    *(Tensor.tolist, Tensor.item, Tensor.nonzero, torch.nonzero, Tensor.__bool__, Tensor.__int__, Tensor.__float__),
    *(Tensor.__index__, Tensor.masked_select),
)


class PretendDevices(TorchFunctionMode):
    """Track the simulated device of every tensor in a context; all computation is on the CPU.

    `moves` counts copies between devices, and `reads` what makes the host wait for a device.
    """

    def __init__(self) -> None:
        super().__init__()
        self._places = WeakIdKeyDictionary()
        self.moves = 0
        self.reads: Counter[str] = Counter()

    def put(self, tensor: Tensor, device: str | torch.device) -> None:
        """Set the simulated device of a tensor."""
        self._places[tensor] = torch.device(device)

    def of(self, tensor: Tensor) -> torch.device:
        """Return the simulated device of a tensor."""
        return self._places.get(tensor, _CPU)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = dict(kwargs or {})
        if func == Tensor.device.__get__:
            return self.of(args[0])
        if func in _READS and self.of(args[0]).type != "cpu":
            self.reads[resolve_name(func)] += 1
        self.reads["mask"] += func in (Tensor.__getitem__, Tensor.__setitem__) and self._is_mask(args[1])
        if func in (Tensor.to, Tensor.cpu):
            return self._moved((*args, _CPU) if func == Tensor.cpu else args, named)
        if func in (Tensor.numpy, Tensor.__array__) and self.of(args[0]).type != "cpu":
            raise TypeError(f"can't convert {self.of(args[0])} device type tensor to numpy")
        asked = named.pop("device", None)
        inputs = [each for each in tree_leaves((args, named)) if isinstance(each, Tensor)]
        place = torch.device(asked) if asked is not None else self._common(func, inputs)
        found = func(*args, **named)
        for each in tree_leaves(found):
            if isinstance(each, Tensor) and not any(each is one for one in inputs):
                self._places[each] = place
        return found

    def _is_mask(self, index: Any) -> bool:
        """Return whether an index has a mask on a device; its number of rows must be read."""
        masks = (each for each in tree_leaves(index) if isinstance(each, Tensor) and each.dtype == torch.bool)
        return any(self.of(each).type != "cpu" for each in masks)

    def _moved(self, args: tuple[Any, ...], named: dict[str, Any]) -> Tensor:
        tensor, *rest = args
        wanted = [each for each in rest if isinstance(each, (torch.device, str))]
        wanted += [self.of(each) for each in rest if isinstance(each, Tensor)]
        device = named.pop("device", None) or (wanted[0] if wanted else None)
        place = self.of(tensor) if device is None else torch.device(device)
        dtypes = [each.dtype if isinstance(each, Tensor) else each for each in (named.get("dtype"), *rest)]
        dtype = next((each for each in dtypes if isinstance(each, torch.dtype)), tensor.dtype)
        found = tensor.to(dtype)
        if place != self.of(tensor):
            self.moves += 1
            self.reads["copy to the host"] += place.type == "cpu" and not named.get("non_blocking")
            found = found.clone() if found is tensor else found
        self._places[found] = place
        return found

    def _common(self, func: Callable[..., Any], inputs: list[Tensor]) -> torch.device:
        """Return the device of all inputs; scalars and indices may be on the CPU.

        Raises:
            RuntimeError: If the inputs are on several devices.
        """
        indexes = func in (Tensor.__getitem__, Tensor.__setitem__)
        places = {self.of(each) for each in (inputs[:1] if indexes else inputs) if each.dim()}
        allowed = {*places, _CPU}
        if len(places) > 1 or (indexes and not {self.of(each) for each in inputs} <= allowed):
            raise RuntimeError(f"{resolve_name(func)}: expected one device, got {sorted(map(str, places))}")
        return next(iter(places), self.of(inputs[0]) if inputs else _CPU)


def spread(devices: PretendDevices, module: nn.Module, places: Mapping[str, str]) -> None:
    """Put the parts of a module on devices, by the longest matching prefix of their names.

    Every part then moves its inputs to its device, as accelerate's hooks do.
    """

    def move(part: nn.Module, args: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        device = next(part.parameters()).device
        stays = {name: named.pop(name) for name in ("cache", "past_key_values") if name in named}
        args, named = tree_map_only(Tensor, lambda each: each.to(device), (args, named))
        return args, {**named, **stays}

    for name, part in module.named_modules():
        known = [beginning for beginning in places if name.startswith(beginning)]
        if not known:
            continue
        for tensor in (*part.parameters(recurse=False), *part.buffers(recurse=False)):
            devices.put(tensor, places[max(known, key=len)])
        if any(True for _ in part.parameters()):
            part.register_forward_pre_hook(move, with_kwargs=True)
