"""A method's source weights times the pooled tokens are the features of the kept tokens."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from test_every_method import COMPRESSING, SHAPES, total, video
from torch.nn import functional

from aot.compression.aot import token_weights
from aot.compression.methods import Method, build_method
from aot.compression.ops import source_weights
from aot.compression.ops.grid import cells_of_patches, pool
from aot.compression.ops.source_weights import of_kept
from aot.config.schema import AOTConfig, Config, InterConfig, IntraConfig
from aot.errors import BudgetError
from aot.reports.fates import Fate, fates
from aot.types import CompressedTokens, SourceWeights, VisualTokens
from tests.support.tolerances import assert_close

Shape = tuple[int, tuple[int, int]]  # frames, grid

RATIOS = (0.03, 0.1, 0.5, 0.9)
SUBSETS = (
    "random", "uniform", "attention", "frames", "standout", "vidcom2", "evs", "dycoke", "floc", "vcast", "earlytom",
    "echoprune",
)  # fmt: skip
IN_TOWER = ("tome", "tempme")
AOT = ("aot", "aot-dyn")
OF_POOLED = tuple(name for name in COMPRESSING if name not in (*IN_TOWER, *AOT, "vqtoken"))
SCALED = ("visionzip", "prumerge")  # sums rather than means
PUBLISHED = ("visionzip", "prumerge", "prunevid", "holitom", "fastvid", "flashvid", "kitoke", "ottvid")
TAG = 1e-9  # too small for any decision to hang on it


def kept_of(method: Method, tokens: VisualTokens, ratio: float) -> CompressedTokens:
    """What is left of a share of the traced tokens; where the method refuses it, of the least share that it names."""
    tokens, whole = replace(tokens, traced=True), total(len(tokens.timestamps_s), tokens.grid)
    try:
        return method.compress(tokens, max(1, round(ratio * whole)))
    except BudgetError as refused:
        least = re.search(r"use --ratio ([\d.]+) or more", str(refused))
        assert least is not None
        return method.compress(tokens, round(float(least[1]) * whole))


def weights_of(kept: CompressedTokens) -> torch.Tensor:
    """The source weights as a matrix [K, F * n], after a check of what holds for all."""
    sources, total = of_kept(kept), total_of(kept)
    assert sources.token.unique().tolist() == list(range(len(kept.features)))
    assert 0 <= sources.source.min() <= sources.source.max() < total
    assert 0 < sources.weight.min() <= sources.weight.max() <= 1
    assert sources.weight.dtype == torch.float32
    assert len((sources.token * total + sources.source).unique()) == len(sources.weight)
    found = matrix(sources, total)
    assert_close(found.sum(1), torch.ones(len(found)), "float32")
    assert (found.gather(1, kept.cell[:, None]) > 0).all()
    return found


def matrix(sources: SourceWeights, total: int) -> torch.Tensor:
    found = torch.zeros(sources.count, total, dtype=torch.float64)
    return found.index_put_((sources.token, sources.source), sources.weight.double())


def total_of(kept: CompressedTokens) -> int:
    return len(kept.timestamps_s) * kept.grid[0] * kept.grid[1]


def with_a_constant(tokens: VisualTokens) -> VisualTokens:
    """The first channel 1, so that it becomes the sum of weights."""
    features = tokens.features.clone()
    features[..., 0] = 1
    return replace(tokens, features=features)


def assert_sums(kept: CompressedTokens, pooled: torch.Tensor) -> None:
    """Every token is the weighted sum of the pooled ones [F, n, D], but for a factor."""
    assert_close(kept.features, kept.features[:, :1] * (weights_of(kept) @ pooled.flatten(0, 1)), "float32")


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize(("frames", "grid"), SHAPES)
@pytest.mark.parametrize("name", OF_POOLED)
def test_a_token_is_a_sum_of_pooled_tokens(name: str, frames: int, grid: tuple[int, int], ratio: float) -> None:
    method = build_method(Config(method=name, ratio=ratio))
    tokens = with_a_constant(video(method, frames, grid, torch.float64))
    kept = kept_of(method, tokens, ratio)
    assert_sums(kept, pool(tokens.features, grid, tokens.pool))
    if name not in SCALED:
        assert_close(kept.features[:, 0], torch.ones(len(kept.features)), "float64")
    if name in SUBSETS:
        assert kept.sources is None


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize(("frames", "grid"), [(1, (5, 5)), (7, (15, 15)), (13, (8, 6))])
@pytest.mark.parametrize("name", PUBLISHED)
def test_as_published(name: str, frames: int, grid: tuple[int, int], ratio: float) -> None:
    method = build_method(Config(method=name, ratio=ratio, methods={name: {"paper_exact": True}}))
    tokens = with_a_constant(video(method, frames, grid, torch.float64))
    assert_sums(kept_of(method, tokens, ratio), pool(tokens.features, grid, tokens.pool))


@pytest.mark.parametrize(
    ("name", "setting", "value"),
    [
        ("prumerge", "plus", True),
        ("prumerge", "neighbors", 0),
        ("visionzip", "dominant_share", 0.3),
        ("holitom", "center_share", 1.0),
        ("fastvid", "own_weight", 0.0),
        ("fastvid", "own_weight", 1.0),
        ("flashvid", "link_similarity", 0.2),
        ("framefusion", "threshold", -1.0),
        ("tome-pooled", "merged_share", 0.1),
    ],
)
def test_with_other_settings(name: str, setting: str, value: float) -> None:
    method = build_method(Config(method=name, ratio=0.2, methods={name: {setting: value}}))
    tokens = with_a_constant(video(method, 7, (15, 15), torch.float64))
    assert_sums(kept_of(method, tokens, 0.2), pool(tokens.features, tokens.grid, tokens.pool))


def test_half_of_a_contextual_token_is_its_target() -> None:
    method = build_method(Config(method="visionzip", ratio=0.2))
    kept = kept_of(method, video(method, 7, (15, 15), torch.float64), 0.2)
    gathered = kept.mass > 1
    assert gathered.any()
    own = weights_of(kept).gather(1, kept.cell[:, None])[:, 0]
    assert_close(own[gathered], torch.full((int(gathered.sum()),), 0.5), "float32")


def test_centers_that_are_nothing_but_the_mean_of_the_others() -> None:
    """HoliTom with center_share 0: a token need not hold its own cell, but one without others is itself."""
    method = build_method(Config(method="holitom", ratio=0.3, methods={"holitom": {"center_share": 0.0}}))
    tokens = with_a_constant(video(method, 7, (15, 15), torch.float64))
    kept = kept_of(method, tokens, 0.3)
    weights = matrix(of_kept(kept), total_of(kept))
    assert_close(kept.features, weights @ pool(tokens.features, tokens.grid, tokens.pool).flatten(0, 1), "float32")


def tagged(tokens: VisualTokens) -> VisualTokens:
    """A channel more for each pooled token, with how much of its patches a token holds."""
    frames, cells = len(tokens.timestamps_s), cells_of_patches(tokens.grid, tokens.pool)
    own = torch.arange(frames)[:, None] * total(1, tokens.grid) + cells
    tags = functional.one_hot(own, total(frames, tokens.grid)).double()
    if tokens.merged is not None:
        members = functional.one_hot(tokens.merged.owner.flatten()).double()
        tags = members.T @ tags.flatten(0, 1) / members.sum(0)[:, None]
    return replace(tokens, features=torch.cat([tokens.features, TAG * tags], -1))


def assert_tags(kept: CompressedTokens) -> None:
    assert_close(kept.features[:, -total_of(kept) :] / TAG, weights_of(kept), "float32")


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize(("frames", "grid"), SHAPES)
@pytest.mark.parametrize("name", IN_TOWER)
def test_tokens_merged_in_the_tower(name: str, frames: int, grid: tuple[int, int], ratio: float) -> None:
    method = build_method(Config(method=name, ratio=ratio))
    tokens = video(method, frames, grid, torch.float64)
    assert_tags(kept_of(method, tagged(tokens), ratio))


@pytest.mark.parametrize("settings", [{}, {"length": "adaptive", "most_tokens": 14}, {"paper_exact": True}], ids=str)
@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize(("frames", "grid"), SHAPES)
def test_codebooks(frames: int, grid: tuple[int, int], ratio: float, settings: dict[str, object]) -> None:
    method = build_method(Config(method="vqtoken", ratio=ratio, methods={"vqtoken": settings}))
    tokens = video(method, frames, grid, torch.float64)
    tokens = replace(tokens, features=functional.normalize(tokens.features, dim=-1))  # published: means of unit vectors
    assert_tags(kept_of(method, tagged(tokens), ratio))


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("keyframe", ["both", "original", "merged"])
@pytest.mark.parametrize("name", AOT)
class TestAnchorTransport:
    def test_both_phases(
        self, name: str, keyframe: str, shape: Shape, ratio: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Exactly without the threshold, and with it only weights below are left out."""
        method = build_method(Config(method=name, ratio=ratio, aot=settings(keyframe, intra=True)))
        tokens = tagged(video(method, *shape, torch.float64))
        found = matrix(of_kept(kept_of(method, tokens, ratio)), total(*shape))
        least = token_weights._LEAST_SHARE
        monkeypatch.setattr(token_weights, "_LEAST_SHARE", 0.0)
        kept = kept_of(method, tokens, ratio)
        assert_tags(kept)
        everything = weights_of(kept)
        assert torch.equal(found, everything.where(everything > least, 0.0))

    def test_phase_two_alone(
        self, name: str, keyframe: str, shape: Shape, ratio: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(token_weights, "_LEAST_SHARE", 0.0)
        method = build_method(Config(method=name, ratio=ratio, aot=settings(keyframe, intra=False)))
        tokens = with_a_constant(video(method, *shape, torch.float64))
        assert_sums(kept_of(method, tokens, ratio), pool(tokens.features, tokens.grid, tokens.pool))


def settings(keyframe: str, *, intra: bool) -> AOTConfig:
    return AOTConfig(intra=IntraConfig(enabled=intra), inter=InterConfig(keyframe=keyframe))  # type: ignore[arg-type]


@pytest.mark.parametrize("ratio", (0.1, 0.5))
@pytest.mark.parametrize("name", COMPRESSING)
def test_fates_of_all_tokens(name: str, ratio: float) -> None:
    """Those whose cell a kept one has are kept in some way; what is in none is discarded."""
    method = build_method(Config(method=name, ratio=ratio))
    kept = kept_of(method, video(method, 7, (15, 15)), ratio)
    sources = of_kept(kept)
    fate = fates(replace(kept, sources=sources)).flatten()
    assert fate.shape == (total_of(kept),)
    assert (fate >= Fate.KEPT).nonzero()[:, 0].tolist() == kept.cell.unique().tolist()
    in_none = matrix(sources, total_of(kept)).sum(0) == 0
    assert (fate[in_none] == Fate.DISCARDED).all()
    if name in SUBSETS:
        assert set(fate.tolist()) == {Fate.DISCARDED, Fate.KEPT}
    if name in ("simplecluster", "tome-pooled", "vqtoken", *IN_TOWER):  # every token is in one, whole
        assert Fate.DISCARDED not in fate


@pytest.mark.parametrize("name", COMPRESSING)
def test_only_traced_tokens_have_sources(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise none are computed."""
    method = build_method(Config(method=name, ratio=0.3))
    tokens = video(method, 8, (6, 6))
    budget = round(0.3 * total(8, (6, 6)))
    with monkeypatch.context() as patched:
        for module in (source_weights, token_weights):
            patched.setattr(module, "SourceWeights", None)
        assert method.compress(tokens, budget).sources is None
    traced = method.compress(replace(tokens, traced=True), budget).sources
    assert (traced is None) == (name in SUBSETS)
