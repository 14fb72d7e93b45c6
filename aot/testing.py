"""Test methods of other packages against the contract of a method, on small synthetic videos.

    from aot.testing import check_method
    from my_package import MyMethod


    def test_my_method() -> None:
        check_method(MyMethod)

The test needs no model, no file and no GPU, and takes seconds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from aot.compression.contract import problems_of_tokens
from aot.compression.in_tower.token_merging import MergingTokens
from aot.compression.methods import Method, make_method
from aot.compression.ops.grid import pool, pooled_grid
from aot.config.schema import Config
from aot.errors import BudgetError, ConfigError, Problem
from aot.models.vision.merging_tower import MergedVideo
from aot.plugins import find
from aot.types import CompressedTokens, EncoderMerging, Needs, Pooling, VisualTokens

__all__ = ["Case", "check_method", "merged_video", "problems_of_method", "synthetic_video"]

_MOST_PROBLEMS = 12
_WIDTH = 12
_BLOCKS = 6  # of the simulated tower that merges
_RATIOS = (0.03, 0.1, 0.25, 0.5, 0.9, 1.0)
_POOLED: tuple[tuple[int, tuple[int, int], Pooling], ...] = (
    (1, (5, 5), Pooling("bilinear")),
    (2, (6, 6), Pooling("bilinear")),
    (7, (15, 15), Pooling("bilinear")),
    (13, (8, 6), Pooling("bilinear")),
    (3, (9, 9), Pooling("average")),
)
_UNPOOLED: tuple[tuple[int, tuple[int, int], Pooling], ...] = (
    (5, (12, 20), Pooling("none")),
    (3, (1, 7), Pooling("none")),
    (2, (1, 1), Pooling("none")),
)
_STILL = "still, of equal tokens"


@dataclass(frozen=True, slots=True)
class Case:
    """A synthetic video (if `still`, all its tokens are equal), and the ratio of tokens to keep."""

    frames: int
    grid: tuple[int, int]
    pool: Pooling
    ratio: float
    dtype: torch.dtype = torch.float32
    still: bool = False

    @property
    def total(self) -> int:
        """Return F * n, the number of pooled tokens."""
        return self.frames * math.prod(pooled_grid(self.grid, self.pool))

    def budget(self, ratio: float) -> int:
        """Return the token budget at `ratio`, at least one token."""
        return max(1, round(ratio * self.total))

    def __str__(self) -> str:
        rows, cols = self.grid
        kind = f", {str(self.dtype).removeprefix('torch.')}" if self.dtype != torch.float32 else ""
        still = f", {_STILL}" if self.still else ""
        return (
            f"{self.frames} frames of {rows} x {cols} patches, pooling {self.pool.kind}{kind}{still}, "
            f"ratio {self.ratio:g} ({self.budget(self.ratio)} of {self.total} tokens)"
        )


def check_method(method: type | str, settings: Mapping[str, Any] | None = None) -> None:
    """Check a method on videos of several shapes, poolings and dtypes, at ratios from 0.03 to 1.

    A method must return exactly as many tokens as the budget (at most as many if the method's card
    has exact=False), finite features of the input's width and dtype, positions inside the pooled
    grid, and the same tokens in every run. It must change neither the input nor torch's global
    generator. If the input is `traced`, it must return `sources`, unless every kept token equals
    the pooled token at its position. It may refuse a budget with a `BudgetError` if its card names
    a `least` ratio; the message must contain "use --ratio X", and the ratio X must work.

    Args:
        method: the class, or the name under which it is installed.
        settings: settings of the method by name; with `paper_exact`, the budget is not checked.

    Raises:
        AssertionError: If the method breaks its contract; each line names the video, the ratio and
            the problem.
    """
    first: Exception | None = None
    lines = []
    for line, error in problems_of_method(method, settings):
        lines.append(line)
        first = first or error
        if len(lines) == _MOST_PROBLEMS:
            lines.append("there may be more; fix these first")
            break
    if lines:
        name = method if isinstance(method, str) else method.__qualname__
        raise AssertionError(
            "\n".join([f"{name} breaks the contract of aot.compression.methods.Method:", *lines])
        ) from first


def problems_of_method(
    method: type | str, settings: Mapping[str, Any] | None = None
) -> Iterator[tuple[str, Exception | None]]:
    """Yield (line, the raised exception or None) for each problem that `check_method` reports."""
    trial = _Trial(find(method) if isinstance(method, str) else method, dict(settings or {}))
    for case in trial.cases():
        try:
            for problem in trial.problems(case):
                yield f"- {case}: it {problem}", None
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            yield f"- {case}: it raised {reason}", error


class _Trial:
    """Check the method class `kind`, built with `settings`, on synthetic videos."""

    def __init__(self, kind: Any, settings: Mapping[str, Any]) -> None:
        self._kind, self._settings = kind, settings
        self._free = bool(settings.get("paper_exact"))

    def cases(self) -> Iterator[Case]:
        """Yield the cases: all shapes at all ratios, half precision, and one with equal tokens."""
        merges = self._made(0.5).needs.merging is not None
        for shape in _POOLED if merges else (*_POOLED, *_UNPOOLED):
            for ratio in _RATIOS:
                yield Case(*shape, ratio)
        for dtype in (torch.bfloat16, torch.float16):
            yield Case(7, (15, 15), Pooling("bilinear"), 0.5, dtype)
        yield Case(6, (6, 6), Pooling("bilinear"), 0.5, still=True)

    def _made(self, ratio: float) -> Method:
        """Return the method, built for `ratio`."""
        # `Config` accepts settings only of known methods, so the name of a known method is used.
        config = Config(ratio=ratio, method="uniform", methods={"uniform": self._settings} if self._settings else {})
        try:
            return make_method(self._kind, config, "uniform")
        except ConfigError as error:
            raise ConfigError(*map(_of_no_name, error.problems)) from None

    def problems(self, case: Case) -> Iterator[str]:
        """Yield each problem with `case` as a clause without subject, e.g. "changed its input"."""
        # 1. Compress once, and record the input and the generator's state.
        method = self._made(case.ratio)
        tokens = synthetic_video(method.needs, case)
        before, generator = _copied(tokens), torch.get_rng_state()
        try:
            kept = method.compress(tokens, case.budget(case.ratio))
        except BudgetError as error:
            yield from self._wrong_refusal(case, error)
            return
        # 2. Check the result, then the side effects.
        found = list(problems_of_tokens(kept, tokens, *self._allowed(method, case)))
        yield from found
        if not torch.equal(generator, torch.get_rng_state()):
            yield "draws from torch's global generator, or seeds it; use a separate torch.Generator"
        if not _same(before, _copied(tokens)):
            yield "changed its input"
        # 3. If the result is valid, compare it with a second run, which is traced.
        if not found:
            again = self._made(case.ratio).compress(replace(tokens, traced=True), case.budget(case.ratio))
            if not _same(_tensors(kept), _tensors(again)):
                yield "kept different tokens of the same video in a second run"
            yield from problems_of_tokens(again, tokens, *self._allowed(method, case))
            if again.sources is None and not _unchanged(again, tokens):
                yield "returned features that differ from the pooled tokens at their positions, but no sources"

    def _allowed(self, method: Method, case: Case) -> tuple[int, int]:
        """Return the fewest and the most tokens that the method may keep."""
        budget = case.budget(case.ratio)
        if self._free:
            return 1, 2 * case.total  # published counts depend on the content, and may keep tokens twice
        return (budget if method.card.exact else 1), budget

    def _wrong_refusal(self, case: Case, error: BudgetError) -> Iterator[str]:
        """Yield the problems of a refusal: `card.least` must be set, and the remedy must work."""
        if self._free and "paper_exact" in str(error):
            return  # the published algorithm refuses this budget, and the message names the setting
        if not self._kind.card.least:
            yield f"refused its budget ({error}), and its card names no least ratio"
            return
        remedy = re.search(r"--ratio (\d*\.?\d+)", str(error))
        if remedy is None:
            yield f'refused its budget without a remedy, "use --ratio X": {error}'
            return
        ratio = float(remedy[1])
        if not case.ratio < ratio <= 1:
            yield f"refused its budget and recommended --ratio {ratio:g}, not in ({case.ratio:g}, 1]: {error}"
            return
        allowed = replace(case, ratio=ratio)
        method = self._made(ratio)
        tokens = synthetic_video(method.needs, allowed)
        try:
            kept = method.compress(tokens, case.budget(ratio))
        except BudgetError as again:
            yield f"also refused the ratio {ratio:g}, which its error recommended: {again}"
            return
        for problem in problems_of_tokens(kept, tokens, *self._allowed(method, allowed)):
            yield f"at the ratio {ratio:g}, which its error recommended, {problem}"


def _of_no_name(problem: str | Problem) -> str | Problem:
    """Return `problem` with the prefix "methods.uniform." (see `_made`) removed from its path."""
    if isinstance(problem, str):
        return problem
    return replace(problem, path=problem.path.removeprefix("methods.uniform."))


def synthetic_video(needs: Needs, case: Case) -> VisualTokens:
    """Return a noisy video of three scenes, with all encoder outputs that `needs` lists."""
    frames, grid, dtype = case.frames, case.grid, case.dtype
    generator = torch.Generator().manual_seed(frames * 100 + grid[0])
    patches = grid[0] * grid[1]

    def noise(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator)

    scene = torch.arange(frames) * 3 // max(frames, 1)
    features = noise(3, patches, _WIDTH)[scene] + 0.3 * noise(frames, patches, _WIDTH)
    if case.still:
        features = torch.ones_like(features)
    if needs.merging is not None:
        return merged_video(needs.merging, features.to(dtype), grid, case.pool)
    attention = torch.rand(frames, patches, generator=generator) + 0.1
    return VisualTokens(
        features=features.to(dtype),
        grid=grid,
        pool=case.pool,
        timestamps_s=tuple(float(k) for k in range(frames)),
        saliency={layer: torch.rand(frames, patches, generator=generator) + 0.1 for layer in needs.saliency_layers},
        keys={layer: noise(frames, patches, 2, 4).to(dtype) for layer in needs.key_layers},
        frame_embeddings=features.mean(1).to(dtype) if needs.frame_embeddings else None,
        pooling_attention=attention / attention.sum(-1, keepdim=True) if needs.pooling_attention else None,
        question=noise(5, _WIDTH).to(dtype) if needs.question else None,
    )


def merged_video(
    merging: EncoderMerging, features: Tensor, grid: tuple[int, int], pooling: Pooling = _POOLED[0][2]
) -> VisualTokens:
    """Return a video of `features` [F, N, D], merged as by a tower whose blocks change no token.

    Tokens are compared by their features instead of keys.
    """
    frames, patches, _ = features.shape
    video = MergedVideo()
    for clip in merging.clips(frames):
        plan = merging.plan(len(clip), patches, math.prod(pooled_grid(grid, pooling)), _BLOCKS)
        tokens = MergingTokens.of(features[clip.first : clip.stop])
        for step in plan:
            tokens = tokens.joined(step.join)
            for merges in (step.before, step.after):
                tokens = tokens.merge(tokens.states, merges, by_similarity=step.by_similarity)
        video.add(tokens, tokens.states, plan, patches)
    times = tuple(float(k) for k in range(frames))
    merged = video.patches()
    return VisualTokens(
        torch.cat(video.features), grid, pooling, times, {}, frame_embeddings=torch.cat(video.embeddings), merged=merged
    )


def _unchanged(kept: CompressedTokens, tokens: VisualTokens) -> bool:
    """Return whether every kept token equals the pooled token in the same cell."""
    if tokens.merged is not None:
        return True  # tokens were merged in the tower, so there are no pooled tokens to compare
    return torch.equal(kept.features, pool(tokens.features, tokens.grid, tokens.pool).flatten(0, 1)[kept.cell])


def _tensors(kept: CompressedTokens) -> list[Tensor]:
    return [kept.features, kept.frame, kept.row, kept.col, kept.role, kept.mass]


def _copied(tokens: VisualTokens) -> list[Tensor]:
    """Return copies of all tensors of a video."""
    optional = [tokens.frame_embeddings, tokens.pooling_attention, tokens.question]
    merged = [] if tokens.merged is None else [tokens.merged.owner, tokens.merged.anchor]
    given = [tokens.features, *tokens.saliency.values(), *tokens.keys.values(), *merged]
    return [each.clone() for each in (*given, *(each for each in optional if each is not None))]


def _same(some: list[Tensor], others: list[Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(some, others, strict=True))
