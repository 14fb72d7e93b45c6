"""What tokens say they are made of is what they are made of: shares of the pooled tokens give their features."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from test_every_method import COMPRESSING, SHAPES, total, video
from torch.nn import functional

from aot.compression.aot import token_weights as composition
from aot.compression.methods import Method, build_method
from aot.compression.ops.grid import cells_of_patches, pool
from aot.config.schema import AOTConfig, Config, InterConfig, IntraConfig
from aot.errors import BudgetError
from aot.reports.provenance import Fate, fates, origin_of
from aot.types import CompressedTokens, Provenance, VisualTokens
from tests.support.tolerances import assert_close

Shape = tuple[int, tuple[int, int]]  # frames, grid

RATIOS = (0.03, 0.1, 0.5, 0.9)
SUBSETS = ("random", "uniform", "attention", "frames", "standout", "vidcom2", "evs", "dycoke")
IN_TOWER = ("tome", "tempme")
AOT = ("aot", "aot-dyn")
OF_POOLED = tuple(name for name in COMPRESSING if name not in (*IN_TOWER, *AOT, "vqtoken"))
SCALED = ("visionzip", "prumerge")  # sums rather than means
PUBLISHED = ("visionzip", "prumerge", "prunevid", "holitom", "fastvid", "flashvid")
TAG = 1e-9  # too small for any decision to hang on it


def kept_of(method: Method, tokens: VisualTokens, ratio: float) -> CompressedTokens:
    """What is left of a share of the tokens; where the method refuses it, of the least share that it says it keeps."""
    whole = total(len(tokens.timestamps_s), tokens.grid)
    try:
        return method.compress(tokens, max(1, round(ratio * whole)))
    except BudgetError as refused:
        least = re.search(r"use --ratio ([\d.]+) or more", str(refused))
        assert least is not None
        return method.compress(tokens, round(float(least[1]) * whole))


def shares_of(kept: CompressedTokens) -> torch.Tensor:
    """What is claimed, as a matrix [K, F * n], after a look at what is promised of any claim."""
    origin, places = origin_of(kept), total_of(kept)
    assert origin.token.unique().tolist() == list(range(len(kept.features)))
    assert 0 <= origin.place.min() <= origin.place.max() < places
    assert 0 < origin.share.min() <= origin.share.max() <= 1
    assert origin.share.dtype == torch.float32
    assert len((origin.token * places + origin.place).unique()) == len(origin.share)
    claimed = matrix(origin, len(kept.features), places)
    assert_close(claimed.sum(1), torch.ones(len(claimed)), "float32")
    assert (claimed.gather(1, kept.place[:, None]) > 0).all()
    return claimed


def matrix(origin: Provenance, tokens: int, places: int) -> torch.Tensor:
    claimed = torch.zeros(tokens, places, dtype=torch.float64)
    claimed[origin.token, origin.place] = origin.share.double()
    return claimed


def total_of(kept: CompressedTokens) -> int:
    return len(kept.timestamps_s) * kept.grid[0] * kept.grid[1]


def with_a_constant(tokens: VisualTokens) -> VisualTokens:
    """The first channel 1, so that it becomes the sum of weights."""
    features = tokens.features.clone()
    features[..., 0] = 1
    return replace(tokens, features=features)


def assert_sums(kept: CompressedTokens, pooled: torch.Tensor) -> None:
    """Every token is its claimed shares of the pooled ones [F, n, D], but for a factor."""
    assert_close(kept.features, kept.features[:, :1] * (shares_of(kept) @ pooled.flatten(0, 1)), "float32")


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize(("frames", "grid"), SHAPES)
@pytest.mark.parametrize("name", OF_POOLED)
def test_a_token_is_its_shares_of_pooled_tokens(name: str, frames: int, grid: tuple[int, int], ratio: float) -> None:
    method = build_method(Config(method=name, ratio=ratio))
    tokens = with_a_constant(video(method, frames, grid, torch.float64))
    kept = kept_of(method, tokens, ratio)
    assert_sums(kept, pool(tokens.features, grid, tokens.pool))
    if name not in SCALED:
        assert_close(kept.features[:, 0], torch.ones(len(kept.features)), "float64")
    if name in SUBSETS:
        assert kept.provenance is None


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
        ("prumerge", "neighbours", 0),
        ("visionzip", "dominant_share", 0.3),
        ("holitom", "centre_share", 1.0),
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
    own = shares_of(kept).gather(1, kept.place[:, None])[:, 0]
    assert_close(own[gathered], torch.full((int(gathered.sum()),), 0.5), "float32")


def test_centres_that_are_nothing_but_the_mean_of_the_others() -> None:
    """HoliTom with centre_share 0: a token need not hold its own place, but one without others is itself."""
    method = build_method(Config(method="holitom", ratio=0.3, methods={"holitom": {"centre_share": 0.0}}))
    tokens = with_a_constant(video(method, 7, (15, 15), torch.float64))
    kept = kept_of(method, tokens, 0.3)
    claimed = matrix(origin_of(kept), len(kept.features), total_of(kept))
    assert_close(kept.features, claimed @ pool(tokens.features, tokens.grid, tokens.pool).flatten(0, 1), "float32")


def tagged(tokens: VisualTokens, cells: torch.Tensor) -> VisualTokens:
    """A channel more for each pooled token, which tells how much of the patches in `cells` [N] a token holds."""
    frames = len(tokens.timestamps_s)
    own = torch.arange(frames)[:, None] * total(1, tokens.grid) + cells
    tags = functional.one_hot(own, total(frames, tokens.grid)).double()
    if tokens.merged is not None:
        members = functional.one_hot(tokens.merged.owner.flatten()).double()
        tags = members.T @ tags.flatten(0, 1) / members.sum(0)[:, None]
    return replace(tokens, features=torch.cat([tokens.features, TAG * tags], -1))


def assert_tags(kept: CompressedTokens) -> None:
    assert_close(kept.features[:, -total_of(kept) :] / TAG, shares_of(kept), "float32")


def patch_cells(tokens: VisualTokens) -> torch.Tensor:
    return cells_of_patches(tokens.grid, tokens.pool)


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize(("frames", "grid"), SHAPES)
@pytest.mark.parametrize("name", IN_TOWER)
def test_tokens_merged_in_the_tower(name: str, frames: int, grid: tuple[int, int], ratio: float) -> None:
    method = build_method(Config(method=name, ratio=ratio))
    tokens = video(method, frames, grid, torch.float64)
    assert_tags(kept_of(method, tagged(tokens, patch_cells(tokens)), ratio))


@pytest.mark.parametrize("settings", [{}, {"length": "adaptive", "most_tokens": 14}, {"paper_exact": True}], ids=str)
@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize(("frames", "grid"), SHAPES)
def test_codebooks(frames: int, grid: tuple[int, int], ratio: float, settings: dict[str, object]) -> None:
    method = build_method(Config(method="vqtoken", ratio=ratio, methods={"vqtoken": settings}))
    tokens = video(method, frames, grid, torch.float64)
    tokens = replace(tokens, features=functional.normalize(tokens.features, dim=-1))  # published: means of unit vectors
    assert_tags(kept_of(method, tagged(tokens, patch_cells(tokens)), ratio))


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("keyframe", ["both", "original", "merged"])
@pytest.mark.parametrize("name", AOT)
class TestAnchorTransport:
    def test_both_phases(
        self, name: str, keyframe: str, shape: Shape, ratio: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Exactly without the threshold, and with it only shares below are left out."""
        method = build_method(Config(method=name, ratio=ratio, aot=settings(keyframe, intra=True)))
        tokens = video(method, *shape, torch.float64)
        kept = kept_of(method, tagged(tokens, patch_cells(tokens)), ratio)
        assert kept.provenance is not None
        said = kept.provenance()
        least = composition._LEAST_SHARE
        monkeypatch.setattr(composition, "_LEAST_SHARE", 0.0)
        assert_tags(kept)
        everything = shares_of(kept)
        expected = everything.where(everything > least, 0.0)
        assert torch.equal(matrix(said, len(expected), expected.shape[1]), expected)

    def test_phase_two_alone(
        self, name: str, keyframe: str, shape: Shape, ratio: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(composition, "_LEAST_SHARE", 0.0)
        method = build_method(Config(method=name, ratio=ratio, aot=settings(keyframe, intra=False)))
        tokens = with_a_constant(video(method, *shape, torch.float64))
        assert_sums(kept_of(method, tokens, ratio), pool(tokens.features, tokens.grid, tokens.pool))


def settings(keyframe: str, *, intra: bool) -> AOTConfig:
    return AOTConfig(intra=IntraConfig(enabled=intra), inter=InterConfig(keyframe=keyframe))  # type: ignore[arg-type]


@pytest.mark.parametrize("ratio", (0.1, 0.5))
@pytest.mark.parametrize("name", COMPRESSING)
def test_what_became_of_all_tokens(name: str, ratio: float) -> None:
    """Those whose place a kept one has are kept in some way; what is in none is discarded."""
    method = build_method(Config(method=name, ratio=ratio))
    kept = kept_of(method, video(method, 7, (15, 15)), ratio)
    fate = fates(kept, origin_of(kept)).flatten()
    assert fate.shape == (total_of(kept),)
    assert (fate >= Fate.KEPT).nonzero()[:, 0].tolist() == kept.place.unique().tolist()
    in_none = matrix(origin_of(kept), len(kept.features), total_of(kept)).sum(0) == 0
    assert (fate[in_none] == Fate.DISCARDED).all()
    if name in SUBSETS:
        assert set(fate.tolist()) == {Fate.DISCARDED, Fate.KEPT}
    if name in ("simplecluster", "tome-pooled", "vqtoken", *IN_TOWER):  # every token is in one, whole
        assert Fate.DISCARDED not in fate


@pytest.mark.parametrize("name", [name for name in COMPRESSING if name not in (*SUBSETS, *AOT)])
def test_what_is_told_later_does_not_hold_features(name: str) -> None:
    method = build_method(Config(method=name, ratio=0.3))
    tokens = video(method, 7, (15, 15))
    kept = kept_of(method, tokens, 0.3)
    assert kept.provenance is not None
    held = tensors_in(kept.provenance, set())
    assert held
    assert not [each.shape for each in held if tokens.features.shape[-1] in each.shape]


def tensors_in(found: object, seen: set[int]) -> list[torch.Tensor]:
    """All that a function's closure or a partial call's arguments lead to."""
    if id(found) in seen:
        return []
    seen.add(id(found))
    if isinstance(found, torch.Tensor):
        return [found]
    inside: list[object] = []
    if isinstance(found, (list, tuple)):
        inside = list(found)
    elif isinstance(found, dict):
        inside = list(found.values())
    elif hasattr(found, "func"):
        inside = [found.func, *found.args]
    elif getattr(found, "__closure__", None):
        inside = [cell.cell_contents for cell in found.__closure__]  # type: ignore[attr-defined]
    elif hasattr(found, "__dataclass_fields__") and not isinstance(found, type):
        inside = [getattr(found, name) for name in found.__dataclass_fields__]
    return [tensor for each in inside for tensor in tensors_in(each, seen)]
