"""Check the results of methods and inner reductions, from this package and from plug-ins.

A method must return as many tokens of its input video as the budget allows. An inner reduction may
drop visual and newline rows only. Any other result is an error that names the method or reduction.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from aot.compression.ops.clips import CutClips
from aot.compression.ops.grid import pooled_grid
from aot.compression.ops.read_later import Download
from aot.errors import NumericsError
from aot.plugins import blamed, broken_promise, is_plugged_in
from aot.types import BlockMerging, Clip, CompressedTokens, EncoderMerging, Needs, Role, SourceWeights, VisualTokens

if TYPE_CHECKING:
    from aot.compression.in_llm import InnerReduction, Reduction, State
    from aot.compression.methods import Method

__all__ = ["check_encoded", "check_load", "check_reduction", "check_tokens", "needs_of", "problems_of_tokens"]

_PER_TOKEN = {
    "frame": torch.int32, "row": torch.int32, "col": torch.int32, "role": torch.uint8, "mass": torch.float32,
}  # fmt: skip
_ROUNDING = 1e-4  # tolerance for a mass, or a sum of source weights, in float32
_ROUNDED_PER_LAYER = 2  # visual tokens that rounding may add to a layer's share


def needs_of(method: Method) -> Needs:
    """Return `method.needs`: the values to record and the tokens to merge inside the encoder.

    Raises:
        MethodError: If `method.needs` is not a `Needs`, or if the code of a plug-in fails, now or
            later when the returned `merging` is called.
    """
    with blamed(method):
        needs = method.needs
    if not isinstance(needs, Needs):
        raise broken_promise(method, "methods", f"has needs of type {type(needs).__name__}, not aot.types.Needs")
    if needs.merging is None or not is_plugged_in(method):
        return needs
    return replace(needs, merging=_BlamedMerging(method, needs.merging))


@dataclass(frozen=True)
class _BlamedMerging:
    """Call the merging of a plug-in, and raise errors that name the plug-in."""

    method: Method
    merging: EncoderMerging

    def clips(self, frames: int) -> tuple[Clip, ...]:
        """Return `clips` of the plug-in's merging."""
        with blamed(self.method):
            return self.merging.clips(frames)

    def plan(self, frames: int, patches: int, tokens_per_frame: int, blocks: int) -> tuple[BlockMerging, ...]:
        """Return `plan` of the plug-in's merging."""
        with blamed(self.method):
            return self.merging.plan(frames, patches, tokens_per_frame, blocks)


def check_encoded(finite: Tensor | None) -> None:
    """Check the flag `VisualTokens.finite`, if it is set; reading it waits for the device.

    Raises:
        NumericsError: If `finite` is false.
    """
    if finite is not None and not finite:
        raise NumericsError(_ENCODED_NONSENSE)


_ENCODED_NONSENSE = (
    "the vision tower produced NaN or infinite features; try --dtype bfloat16 or --dtype float32, "
    "and check the model's files if it stays"
)


def check_tokens(
    method: Method, kept: CompressedTokens, tokens: VisualTokens, least: int, most: int
) -> CompressedTokens:
    """Return `kept` without gradients if `kept` satisfies the contract of methods.

    If `tokens.finite` was not read yet, the values of `kept` are not read either: their check is
    queued on the device, and the result has it as `unread`.

    Args:
        method: the method that returned `kept`.
        kept: the kept tokens.
        tokens: the input of the method.
        least: the smallest allowed number of kept tokens.
        most: the largest allowed number of kept tokens.

    Raises:
        MethodError: If `kept` breaks the contract.
        NumericsError: If `tokens` are not finite, or a method of this package overflowed.
    """
    known, values = _checked(kept, tokens, least, most)
    if known or values is None or tokens.finite is None:
        _refuse(method, [*known, *(values.problems() if values else ())])
        return _detached(kept)
    return replace(_detached(kept), unread=_CheckOfMethod(method, values))


def _detached(kept: CompressedTokens) -> CompressedTokens:
    return replace(kept, features=kept.features.detach(), mass=kept.mass.detach())


@dataclass(frozen=True, slots=True)
class _CheckOfMethod:
    """The check of the values that `method` returned."""

    method: Method
    values: _QueuedValues

    def read(self) -> None:
        """Wait for the check, and raise the errors of `check_tokens`."""
        _refuse(self.method, list(self.values.problems()))


def _refuse(method: Method, problems: list[str]) -> None:
    if _ENCODED_NONSENSE in problems:
        raise NumericsError(_ENCODED_NONSENSE)
    if problems == [_NOT_FINITE] and not is_plugged_in(method):
        raise NumericsError("compression overflowed; the model's features are too large for float32, check its files")
    if problems:
        raise broken_promise(method, "methods", *problems)


_NOT_FINITE = "returned features with NaN or infinite values"


def problems_of_tokens(kept: object, tokens: VisualTokens, least: int, most: int) -> Iterator[str]:
    """Yield each violation of the contract as a text to print after the name of the method."""
    known, values = _checked(kept, tokens, least, most)
    yield from known
    if values is not None:
        yield from values.problems()


def _checked(kept: object, tokens: VisualTokens, least: int, most: int) -> tuple[Sequence[str], _QueuedValues | None]:
    """Return the problems that the host knows, and the queued check of values if possible."""
    if not isinstance(kept, CompressedTokens):
        return [f"returned a {type(kept).__name__}, not aot.types.CompressedTokens"], None
    # Values can only be checked if shapes, dtypes and devices are right.
    misshapen = list(_misshapen(kept, tokens))
    if misshapen:
        return misshapen, None
    known, count = list(_wrong_layout(kept, tokens)), len(kept.features)
    if not least <= count <= most:
        allowed = f"exactly {most}" if least == most else f"{least} to {most}"
        known.insert(0, f"kept {count} tokens where {allowed} were due")
    return known, _QueuedValues(kept, tokens)


def _misshapen(kept: CompressedTokens, tokens: VisualTokens) -> Iterator[str]:
    """Yield a text for each wrong shape, dtype or device, without reading values."""
    features = kept.features
    width, dtype, device = tokens.features.shape[-1], tokens.features.dtype, tokens.features.device
    if not isinstance(features, Tensor) or features.ndim != 2 or features.shape[1] != width:
        yield f"returned features {_described(features)}, not [K, {width}]"
        return
    for name, wanted in {"features": dtype, **_PER_TOKEN}.items():
        values = getattr(kept, name)
        if not isinstance(values, Tensor) or (name != "features" and values.shape != features.shape[:1]):
            yield f"returned {name} {_described(values)}, not [{len(features)}]"
        elif values.dtype != wanted:
            yield f"returned {name} in {values.dtype}, not {wanted}"
        elif values.device != device:
            yield f"returned {name} on {values.device}, not on {device}"


def _described(values: Any) -> str:
    return str(list(values.shape)) if isinstance(values, Tensor) else f"of type {type(values).__name__}"


class _QueuedValues:
    """Check values of `kept`, facts and sources; `problems` waits for the device."""

    def __init__(self, kept: CompressedTokens, tokens: VisualTokens) -> None:
        # `tokens` are not held, because they are much larger than `kept`.
        wrong = _wrong_values(kept, tokens)
        # One copy to the host for all checks.
        self._problems, self._found = list(wrong), Download(torch.stack(list(wrong.values())))
        self._facts, self._sources, self._count = kept.facts, kept.sources, len(kept.features)
        self._total = len(tokens.timestamps_s) * math.prod(pooled_grid(tokens.grid, tokens.pool))

    def problems(self) -> Iterator[str]:
        """Yield a text for each check that fails."""
        found = self._found.read().tolist()
        yield from (problem for problem, holds in zip(self._problems, found, strict=True) if holds)
        yield from _wrong_facts(self._facts)
        if self._sources is not None and not any(found):  # NaN has no sources
            yield from _wrong_sources(self._sources, self._count, self._total)


def _wrong_values(kept: CompressedTokens, tokens: VisualTokens) -> Mapping[str, Tensor]:
    """Return for each check of values its text, and a bool [] that is true if the check fails."""
    # 1. Features, frames, cells and roles in their ranges.
    rows, cols = pooled_grid(tokens.grid, tokens.pool)
    sizes = {"frame": len(tokens.timestamps_s), "row": rows, "col": cols, "role": len(Role)}
    wrong = {} if tokens.finite is None else {_ENCODED_NONSENSE: ~tokens.finite}
    wrong[_NOT_FINITE] = ~kept.features.isfinite().all()
    for name, size in sizes.items():
        values = getattr(kept, name)
        wrong[f"returned a {name} outside of 0 .. {size - 1}"] = ((values < 0) | (values >= size)).any()
    # 2. Masses: a token above 1 has the role MERGED.
    mass = kept.mass
    wrong["returned a mass that is not a finite number above 0"] = ~((mass > 0) & mass.isfinite()).all()
    unmerged = (mass > 1 + _ROUNDING) & (kept.role != int(Role.MERGED))
    wrong["returned a token of mass above 1 whose role is not MERGED"] = unmerged.any()
    return wrong


def _wrong_layout(kept: CompressedTokens, tokens: VisualTokens) -> Iterator[str]:
    grid, frames = pooled_grid(tokens.grid, tokens.pool), len(tokens.timestamps_s)
    if tuple(kept.grid) != grid:
        yield f"returned the grid {kept.grid}, not the pooled {grid}"
    if tuple(kept.timestamps_s) != tuple(tokens.timestamps_s):
        yield "returned other timestamps than it was given"
    # `CutClips` cover all frames whatever they are, and reading them would wait.
    if not isinstance(kept.clips, CutClips) and not _cover(kept.clips, frames):
        yield f"returned clips that do not cover frames 0 .. {frames - 1}, each once"


def _wrong_facts(facts: Mapping[str, object]) -> Iterator[str]:
    for name, value in facts.items():
        if not isinstance(value, (bool, int, float, str, type(None))):
            yield f"returned the fact {name} of type {type(value).__name__}, which no report can hold"
        elif isinstance(value, float) and not math.isfinite(value):
            yield f"returned the fact {name} {value}, which no report can hold"


def _cover(clips: Sequence[Clip], frames: int) -> bool:
    """Return whether `clips` hold the frames 0 .. `frames` - 1, each once and in order."""
    edges = [0, *(edge for clip in clips for edge in (clip.first, clip.stop)), frames]
    return edges[::2] == edges[1::2] and all(len(clip) > 0 for clip in clips)


def _wrong_sources(sources: object, count: int, total: int) -> Iterator[str]:
    """Yield the first defect of `sources`, if any; reading values waits for the device.

    `count` is the number of kept tokens, `total` the number of pooled tokens of the video.
    """
    if not isinstance(sources, SourceWeights):
        yield f"returned sources of type {type(sources).__name__}, not aot.types.SourceWeights"
        return
    entries = token, source, weight = sources.token, sources.source, sources.weight
    if not all(isinstance(each, Tensor) and each.shape == (token.numel(),) for each in entries):
        yield "returned sources whose token, source and weight are not all [E]"
    elif {token.dtype, source.dtype} != {torch.int64} or not weight.is_floating_point():
        yield f"returned sources in {token.dtype}, {source.dtype} and {weight.dtype}, not in int64, int64 and floats"
    elif sources.count != count or set(token.tolist()) != set(range(count)):
        yield "returned sources that lack kept tokens, or name others"
    elif not bool(((source >= 0) & (source < total)).all()):
        yield f"returned a source outside of 0 .. {total - 1}"
    else:
        sums = weight.new_zeros(count).index_add_(0, token, weight)
        if not bool((weight > 0).all() & (sums <= 1 + _ROUNDING).all()):
            yield "returned source weights that are not positive, or that sum to more than 1 in a token"


def check_reduction(reduction: InnerReduction, found: Reduction, state: State) -> None:
    """Check the result of a reduction inside the language model.

    Raises:
        MethodError: If `found` drops text rows, rows that do not exist, or a row twice, or if the
            hidden states in `found` differ in shape, dtype or device from `state`, or are not
            finite.
    """
    problems = list(_problems_of_reduction(found, state))
    if problems:
        raise broken_promise(reduction, "inner", *problems)


def _problems_of_reduction(found: object, state: State) -> Iterator[str]:
    dropped, hidden = getattr(found, "dropped", None), getattr(found, "hidden", None)
    if not isinstance(dropped, Tensor) or dropped.ndim != 1 or dropped.dtype != torch.int64:
        yield "did not return a Reduction with the numbers of the dropped rows, int64 [R]"
        return
    # Check shapes, dtypes and devices first: the host knows them without a copy.
    rows, device = state.hidden.shape[1], state.hidden.device
    if dropped.device != device:
        yield f"returned dropped rows on {dropped.device}, not on {device}"
        return
    if hidden is not None and (hidden.shape, hidden.dtype, hidden.device) != (
        state.hidden.shape,
        state.hidden.dtype,
        device,
    ):
        yield f"returned hidden states {_described(hidden)} in {hidden.dtype} on {hidden.device}, not those of the rows"
        return
    # Each visual and newline row may be dropped once, other rows never.
    inside = ((dropped >= 0) & (dropped < rows)).all()
    droppable = torch.zeros(rows, dtype=torch.int64, device=device)
    droppable[state.visual], droppable[state.newline] = 1, 1
    times = torch.zeros(rows, dtype=torch.int64, device=device)
    times.index_add_(0, dropped.clamp(0, rows - 1), torch.ones_like(dropped))
    finite = inside if hidden is None else hidden.isfinite().all()
    # One copy to the host for all checks.
    is_inside, is_allowed, is_finite = torch.stack([inside, (times <= droppable).all(), finite]).tolist()
    if not is_inside:
        yield f"dropped a row outside of 0 .. {rows - 1}"
    elif not is_allowed:
        yield "dropped a row of text, or one row twice"
    if hidden is not None and not is_finite:
        yield "returned hidden states with NaN or infinite values"


def check_load(reduction: InnerReduction, layer_tokens: tuple[int, ...], visual: int) -> None:
    """Check that a reduction left the layers no more visual tokens than `reduction.load` allows.

    `layer_tokens` has the number of visual tokens in each layer, `visual` the number before any.

    Raises:
        MethodError: If the mean share over layers exceeds `reduction.load` by more than rounding.
    """
    layers = len(layer_tokens)
    with blamed(reduction, "inner"):
        promised = reduction.load(layers) * visual * layers
    if sum(layer_tokens) > promised + _ROUNDED_PER_LAYER * layers:
        read = sum(layer_tokens) / (visual * layers) if visual else 0.0
        raise broken_promise(
            reduction,
            "inner",
            f"left the layers {read:.1%} of the visual tokens in the mean, not {reduction.load(layers):.1%}",
        )
