from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aot.compression.aot.method import AnchorTransport
from aot.compression.methods import build_method
from aot.compression.methods.none import NoCompression
from aot.compression.ops.grid import pool, pooled_grid
from aot.config.schema import (
    AnchorConfig,
    AOTConfig,
    ClipConfig,
    Config,
    InterConfig,
    IntraConfig,
    TransportConfig,
)
from aot.errors import ConfigError
from aot.types import Clip, CompressedTokens, Pooling, Role, VisualTokens
from tests.support import oracle
from tests.support import synthetic_tokens as synthetic
from tests.support.synthetic_tokens import labels, random_tokens, visual_tokens
from tests.support.tolerances import assert_close

golden = pytest.mark.parametrize("row", oracle.GOLDEN, ids=lambda row: f"M{row.count}-{row.pool_kind}")
both_poolings = pytest.mark.parametrize("kind", ["bilinear", "average"])


def paper(count: int, keep_ratio: float, **inter: Any) -> AnchorTransport:
    """The published rule: what is kept follows the content."""
    config = AOTConfig(
        budget="paper", anchors=AnchorConfig(count=count), inter=InterConfig(keep_ratio=keep_ratio, **inter)
    )
    return AnchorTransport(config, ratio=0.1)


def assert_is_emitted(kept: CompressedTokens, expected: Sequence[oracle.Emitted], name: str) -> None:
    assert labels(kept) == [emitted[:4] for emitted in expected]
    assert_close(kept.features, np.stack([emitted[4] for emitted in expected]), name)


# The golden table


@cache
def golden_emitted(row: oracle.Golden, narrow: oracle.Narrow | None = None) -> list[oracle.Emitted]:
    return oracle.aot_paper(
        *oracle.golden_input(),
        oracle.GOLDEN_GRID,
        row.count,
        row.keep_ratio,
        oracle.GOLDEN_CLIP_FRAMES,
        row.pool_kind,
        narrow,
    )


def decided_otherwise(row: oracle.Golden, kept: CompressedTokens) -> oracle.Narrow | None:
    """The row's narrow decision if rounding has taken it the other way, as float32 may on another processor."""
    if row.narrow is None or (row.narrow.frame, *row.narrow.other, "distinct") not in labels(kept):
        return None
    assert kept.features.dtype == torch.float32
    return row.narrow


@cache
def golden_kept(row: oracle.Golden, dtype: torch.dtype) -> CompressedTokens:
    tokens = visual_tokens(*oracle.golden_input(), kind=row.pool_kind, dtype=dtype)
    return paper(row.count, row.keep_ratio).compress(tokens, budget=0)


@golden
def test_golden_tokens_in_float64(row: oracle.Golden) -> None:
    assert_is_emitted(golden_kept(row, torch.float64), golden_emitted(row), "inter")


@golden
def test_golden_tokens_in_float32(row: oracle.Golden) -> None:
    kept = golden_kept(row, torch.float32)
    assert kept.features.dtype == torch.float32
    assert_is_emitted(kept, golden_emitted(row, decided_otherwise(row, kept)), "float32")


def test_both_outcomes_of_a_narrow_decision_pass() -> None:
    """An input one rounding away takes the other one; the golden tests know both by name."""
    row = oracle.GOLDEN[2]
    tokens = visual_tokens(*oracle.golden_input(), kind=row.pool_kind, dtype=torch.float32)
    noise = 1e-7 * torch.randn(tokens.features.shape, generator=torch.Generator().manual_seed(0))
    kept = paper(row.count, row.keep_ratio).compress(replace(tokens, features=tokens.features * (1 + noise)), budget=0)
    assert_is_emitted(kept, golden_emitted(row, decided_otherwise(row, kept)), "float32")
    assert_has_golden_sums(row, kept)


@golden
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_golden_counts(row: oracle.Golden, dtype: torch.dtype) -> None:
    kept = golden_kept(row, dtype)
    roles = [role for *_, role in labels(kept)]
    assert len(set(labels(kept))) == len(labels(kept))
    assert len(kept.features) == row.emitted_total
    assert (roles.count("keyframe"), roles.count("merged")) == (row.emitted_keyframe, row.emitted_merged)
    assert tuple(int((kept.frame == frame).sum()) for frame in (1, 2, 3)) == row.emitted_distinct
    assert kept.facts["anchors_per_frame"] == row.anchors_per_frame
    assert kept.facts["intra_iterations"] == row.intra_iterations


def assert_has_golden_sums(row: oracle.Golden, kept: CompressedTokens) -> None:
    after = decided_otherwise(row, kept) or row
    sums = {"keyframe": row.keyframe_sum, "distinct": after.distinct_sum, "merged": after.merged_sum}
    for role, expected in sums.items():
        chosen = torch.tensor([name == role for *_, name in labels(kept)])
        assert_close(kept.features[chosen].double().sum(), expected, "sum")
    merged = kept.features[kept.role == Role.MERGED]
    assert_close(merged[0, :4], after.first_merged, "float32")


@golden
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_golden_sums(row: oracle.Golden, dtype: torch.dtype) -> None:
    assert_has_golden_sums(row, golden_kept(row, dtype))


def test_the_golden_formula_for_any_number_of_frames() -> None:
    for ours, theirs in zip(synthetic.golden_like(4), oracle.golden_input(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-14, rtol=0)


# The published rule on other videos


@both_poolings
@pytest.mark.parametrize("frames", [1, 5, 9])
def test_any_number_of_frames_is_the_oracles(frames: int, kind: oracle.PoolKind) -> None:
    shallow, deep, features = synthetic.golden_like(frames)
    expected = oracle.aot_paper(shallow, deep, features, oracle.GOLDEN_GRID, 126, 0.3, 4, kind)
    kept = paper(126, 0.3).compress(visual_tokens(shallow, deep, features, kind=kind), budget=0)
    assert_is_emitted(kept, expected, "inter")
    assert [(clip.first, clip.stop) for clip in kept.clips] == oracle.fixed_clips(frames, 4)


@both_poolings
@pytest.mark.parametrize("grid", [(9, 9), (8, 14), (5, 5)])
@pytest.mark.parametrize(("share", "keep_ratio"), [(0.01, 0.3), (0.3, 0.1), (0.9, 0.7), (1.0, 0.5)])
def test_any_grid_and_anchors_are_the_oracles(
    grid: synthetic.Grid, share: float, keep_ratio: float, kind: oracle.PoolKind
) -> None:
    rng, count = np.random.default_rng(0), max(1, int(share * grid[0] * grid[1]))
    shallow, deep = synthetic.random_saliency(rng, 5, grid), synthetic.random_saliency(rng, 5, grid)
    features = synthetic.random_features(rng, 5, grid)
    expected = oracle.aot_paper(shallow, deep, features, grid, count, keep_ratio, 4, kind)
    kept = paper(count, keep_ratio).compress(visual_tokens(shallow, deep, features, grid, kind), budget=0)
    assert_is_emitted(kept, expected, "inter")
    assert kept.grid == oracle.pooled_grid(grid, kind)


@pytest.mark.parametrize(("keyframe", "missing"), [("original", "merged"), ("merged", "keyframe")])
def test_one_of_the_two_keyframes_can_be_left_out(keyframe: Any, missing: str) -> None:
    video = synthetic.golden_like(5)
    expected = oracle.aot_paper(*video, oracle.GOLDEN_GRID, 126, 0.3, 4, "bilinear")
    expected = [emitted for emitted in expected if emitted[0] == 4 or emitted[3] != missing]
    if keyframe == "merged":  # it then takes the original's place, first in its clip
        clip_of_one = [emitted for emitted in expected if emitted[0] == 4]
        first = [emitted for emitted in expected if emitted[3] == "merged"]
        expected = first + [emitted for emitted in expected if emitted[3] == "distinct"] + clip_of_one
    kept = paper(126, 0.3, keyframe=keyframe).compress(visual_tokens(*video), budget=0)
    assert_is_emitted(kept, expected, "inter")


def test_the_threshold_rule_at_its_ends() -> None:
    tokens = visual_tokens(*synthetic.golden_like(4))
    none, all_ = (paper(126, 0.3, distinct="threshold", tau=tau).compress(tokens, 0) for tau in (0.0, 1.0))
    quantile_none = paper(126, 0.0).compress(tokens, 0)
    assert not (none.role == Role.DISTINCT).any()
    assert torch.equal(none.features, quantile_none.features)
    assert tuple(int((all_.frame == frame).sum()) for frame in range(4)) == (68, 33, 32, 26)
    assert all_.mass.eq(1).all()


UNUSUAL_TRANSPORT = TransportConfig(epsilon=0.2, max_iterations=30, tolerance=1e-4)
UNUSUAL = AOTConfig(
    budget="paper",
    anchors=AnchorConfig(count=40, local_ratio=0.7, windows_per_side=2),
    intra=IntraConfig(
        spatial_weight=0.3, nearest_blend=0.4, lambda_intra=0.8, mass="token", transport=UNUSUAL_TRANSPORT
    ),
    inter=InterConfig(sigma_frames=2.5, lambda_inter=0.6, keep_ratio=0.4, transport=UNUSUAL_TRANSPORT),
    clips=ClipConfig(frames=3),
)


def by_the_oracle(tokens: VisualTokens) -> oracle.Array:
    """The features that UNUSUAL emits, by the oracle's steps; its arguments are spelled out once more."""
    transport = {"epsilon": 0.2, "max_iterations": 30, "tolerance": 1e-4}
    shallow, deep = (tokens.saliency[layer].numpy() for layer in (synthetic.SHALLOW, synthetic.DEEP))
    anchors = [oracle.select_anchors(s, d, tokens.grid, 40, 0.7, 2) for s, d in zip(shallow, deep, strict=True)]
    changed, _ = oracle.intra(tokens.features.numpy(), anchors, tokens.grid, 0.3, 0.4, 0.8, "token", **transport)
    pooled = oracle.pool_features(changed, tokens.grid, "bilinear")
    cells = oracle.kept_cells(oracle.pool_mask(anchors, tokens.grid, "bilinear"))
    emitted = []
    for first, stop in oracle.fixed_clips(len(pooled), 3):
        own = [pooled[f, cells[f]] for f in range(first, stop)]
        original, distinct, merged, _, _ = oracle.inter_clip(own, 2.5, 0.6, keep_ratio=0.4, **transport)
        emitted += [original, *(frame[chosen] for frame, chosen in zip(own[1:], distinct, strict=True)), merged]
    return np.concatenate(emitted)


def test_no_setting_at_its_default() -> None:
    tokens = random_tokens(6, 6, grid=(10, 10), dtype=torch.float64)
    assert_close(AnchorTransport(UNUSUAL, 0.1).compress(tokens, 0).features, by_the_oracle(tokens), "inter")


@pytest.mark.parametrize("phase", ["intra", "inter"])
@pytest.mark.parametrize(
    "change", [{"epsilon": 0.1}, {"max_iterations": 1}, {"tolerance": 0.5}, {"stopping": "marginal"}], ids=str
)
def test_transport_settings_reach_each_phase(phase: str, change: dict[str, Any]) -> None:
    tokens = random_tokens(6, 6, grid=(10, 10), dtype=torch.float64)
    settings = replace(getattr(UNUSUAL, phase), transport=replace(UNUSUAL_TRANSPORT, **change))
    before, after = (
        AnchorTransport(config, 0.1).compress(tokens, 0) for config in (UNUSUAL, replace(UNUSUAL, **{phase: settings}))
    )
    keyframes = [kept.features[kept.role == Role.KEYFRAME] for kept in (before, after)]
    assert not torch.equal(before.features, after.features)
    assert torch.equal(*keyframes) == (phase == "inter")


# Unusual videos


def test_constant_saliency_takes_the_lower_patches() -> None:
    _, _, features = synthetic.golden_like(5)
    flat = np.ones((5, 729))
    expected = oracle.aot_paper(flat, flat, features, oracle.GOLDEN_GRID, 126, 0.3, 4, "bilinear")
    kept = paper(126, 0.3).compress(visual_tokens(flat, flat, features), budget=0)
    assert_is_emitted(kept, expected, "inter")


def test_a_still_video() -> None:
    shallow, deep, features = (np.repeat(part[:1], 6, axis=0) for part in synthetic.golden_like(1))
    expected = oracle.aot_paper(shallow, deep, features, oracle.GOLDEN_GRID, 126, 0.3, 4, "bilinear")
    kept = paper(126, 0.3).compress(visual_tokens(shallow, deep, features), budget=0)
    assert_is_emitted(kept, expected, "duplicates")


def test_a_blank_video() -> None:
    """Every saliency and every feature ties, so each frame keeps the first of its cells."""
    tokens = visual_tokens(np.ones((5, 729)), np.ones((5, 729)), np.full((5, 729, 8), 0.7), dtype=torch.float32)
    kept = AnchorTransport(AOTConfig(), 0.25).compress(tokens, 245)
    cells = [(kept.row[kept.frame == frame] * 14 + kept.col[kept.frame == frame]).tolist() for frame in range(4)]
    keyframe = sorted(set(cells[0]))
    assert len(kept.features) == 245
    assert_close(kept.features, np.full((245, 8), 0.7), "float32")
    assert cells[0] == 2 * keyframe
    assert all(own and own == keyframe[: len(own)] for own in cells[1:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("exponent", [-30, 30])
def test_features_may_be_huge_or_tiny(exponent: int, dtype: torch.dtype) -> None:
    """Only directions decide, and a power of two changes no digit."""
    shallow, deep, features = synthetic.golden_like(5)
    plain, scaled = (
        paper(126, 0.3).compress(visual_tokens(shallow, deep, video, dtype=dtype), budget=0)
        for video in (features, features * 2.0**exponent)
    )
    assert labels(plain) == labels(scaled)
    assert torch.equal(scaled.features, plain.features * 2.0**exponent)


@pytest.mark.parametrize("value", [0.0, 1e-30, 1e15])
def test_features_beyond_reason_stay_finite(value: float) -> None:
    shallow, deep, features = synthetic.golden_like(5)
    tokens = visual_tokens(shallow, deep, features * value, dtype=torch.float32)
    kept = AnchorTransport(AOTConfig(), 0.1).compress(tokens, 98)
    assert len(kept.features) == 98
    assert kept.features.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_features_keep_their_type(dtype: torch.dtype) -> None:
    tokens = visual_tokens(*synthetic.golden_like(5), dtype=dtype)
    kept = AnchorTransport(AOTConfig(), 0.1).compress(tokens, 98)
    assert (kept.features.dtype, kept.mass.dtype, kept.role.dtype) == (dtype, torch.float32, torch.uint8)
    assert {kept.frame.dtype, kept.row.dtype, kept.col.dtype} == {torch.int32}


def test_bfloat16_features_lead_to_nearly_the_same_tokens() -> None:
    """Anchors come from saliency alone; only which tokens are distinct may shift."""
    video = synthetic.golden_like(4)
    exact, rounded = (
        paper(126, 0.3).compress(visual_tokens(*video, dtype=dtype), 0) for dtype in (torch.float64, torch.bfloat16)
    )
    own = [kept.features[kept.role == Role.KEYFRAME] for kept in (exact, rounded)]
    assert_close(own[1], own[0], "bfloat16")
    assert len(set(labels(exact)) ^ set(labels(rounded))) <= 4


def test_the_input_stays_whole() -> None:
    tokens = random_tokens(0, 5)
    parts = [tokens.features, *tokens.saliency.values()]
    before = [part.clone() for part in parts]
    AnchorTransport(AOTConfig(), 0.1).compress(tokens, 98)
    assert all(torch.equal(part, copy) for part, copy in zip(parts, before, strict=True))


# Exact budgets


@both_poolings
@pytest.mark.parametrize("frames", [1, 2, 7, 8, 32, 64, 100])
def test_the_ratio_is_met_to_the_token(frames: int, kind: oracle.PoolKind) -> None:
    tokens = random_tokens(frames, frames, kind=kind)
    per_frame = 196 if kind == "bilinear" else 169
    for ratio in (0.02, 0.05, 0.1, 0.25, 0.5, 1.0):
        # Phase I has no say in the count, so long videos go without it.
        config = Config(ratio=ratio, aot=AOTConfig(intra=IntraConfig(enabled=frames <= 8)))
        method, budget = build_method(config), config.token_budget(frames, per_frame)
        kept = method.compress(tokens, budget)
        assert isinstance(method, NoCompression) == (ratio == 1)
        assert len(kept.features) == budget == round(ratio * frames * per_frame)
        assert_is_well_formed(kept, tokens, config.aot if ratio < 1 else None)


def test_both_phases_on_a_full_length_video() -> None:
    tokens, config = random_tokens(1, 32, dtype=torch.bfloat16), Config()
    kept = build_method(config).compress(tokens, config.token_budget(32, 196))
    assert len(kept.features) == 627
    assert_is_well_formed(kept, tokens, config.aot)


def test_no_compression_is_the_pooled_video_in_order() -> None:
    tokens = random_tokens(2, 3, grid=(6, 5))
    kept = build_method(Config(method="none")).compress(tokens, budget=1)
    assert torch.equal(kept.features, pool(tokens.features, (6, 5), Pooling("bilinear")).flatten(0, 1))
    assert [label[:3] for label in labels(kept)] == [(f, r, c) for f in range(3) for r in range(3) for c in range(3)]
    assert kept.role.eq(Role.KEPT).all()
    assert kept.mass.eq(1).all()


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"method must be one of none, .*aot, .*, got 'magic'"):
        Config(method="magic")


def test_the_remedy_for_too_many_clips_fits_how_they_are_made() -> None:
    tokens = random_tokens(3, 20)
    for clips, remedy in ((ClipConfig(), "--clip-frames"), (ClipConfig("dynamic", threshold=1), "aot.clips.threshold")):
        with pytest.raises(ConfigError, match=remedy):
            AnchorTransport(AOTConfig(clips=clips), 0.001).compress(tokens, 1)


def stage_of(role: Role, config: AOTConfig | None) -> int:
    """Place in its clip: the keyframe's own tokens, the distinct ones, the merged keyframe.

    A merged keyframe that replaces the original takes its place.
    """
    if config is not None and config.inter.keyframe == "merged" and role == Role.MERGED:
        return 0
    return {Role.KEPT: 0, Role.KEYFRAME: 0, Role.DISTINCT: 1, Role.MERGED: 2}[role]


def assert_is_well_formed(kept: CompressedTokens, tokens: VisualTokens, config: AOTConfig | None) -> None:
    """Reading order, cells, roles and masses of any result of AOT (config) or of no compression (None)."""
    frames, (rows, cols) = len(tokens.features), pooled_grid(tokens.grid, tokens.pool)
    assert kept.grid == (rows, cols)
    assert kept.timestamps_s == tokens.timestamps_s
    assert [f for clip in kept.clips for f in range(clip.first, clip.stop)] == list(range(frames))
    clip_of = {f: clip for clip in kept.clips for f in range(clip.first, clip.stop)}
    roles = [Role(role) for role in kept.role.tolist()]
    cells = list(zip(kept.frame.tolist(), kept.row.tolist(), kept.col.tolist(), strict=True))
    assert len(roles) == len(cells) == len(kept.features) == len(kept.mass)
    assert all(0 <= row < rows and 0 <= col < cols for _, row, col in cells)
    for (frame, _, _), role in zip(cells, roles, strict=True):
        assert (frame > clip_of[frame].first) == (role == Role.DISTINCT)
        assert (len(clip_of[frame]) == 1) == (role == Role.KEPT)
    stages = [stage_of(role, config) for role in roles]
    reading = [(clip_of[cell[0]].first, stage, cell) for cell, stage in zip(cells, stages, strict=True)]
    assert all(earlier < later for earlier, later in pairwise(reading))
    assert kept.mass[kept.role != Role.MERGED].eq(1).all()
    assert (kept.mass >= 1).all()
    if config is not None:
        assert_keyframes_come_as_asked(kept, config.inter)


def assert_keyframes_come_as_asked(kept: CompressedTokens, settings: InterConfig) -> None:
    """Every clip emits its keyframe, original and merged alike unless only one is asked for or fits."""
    own, merged = (
        {cell for cell, role in zip(_cells(kept), kept.role.tolist(), strict=True) if role in wanted}
        for wanted in ((Role.KEPT, Role.KEYFRAME), (Role.MERGED,))
    )
    assert {cell[0] for cell in own | merged} == {clip.first for clip in kept.clips}
    several = {clip.first for clip in kept.clips if len(clip) > 1}
    assert {cell[0] for cell in merged} <= several
    if settings.keyframe == "original":
        assert not merged
    if settings.keyframe == "merged":
        assert not {cell[0] for cell in own} & several
    if settings.keyframe == "both" and kept.facts["keyframe_copies"] == 2:
        assert merged == {cell for cell in own if cell[0] in several}


def _cells(kept: CompressedTokens) -> list[tuple[int, int, int]]:
    return [label[:3] for label in labels(kept)]


@st.composite
def compressions(draw: st.DrawFn) -> tuple[VisualTokens, Config]:
    kind = draw(st.sampled_from(["bilinear", "average"]))
    sides = st.integers(1 if kind == "bilinear" else 2, 8)
    tokens = random_tokens(
        draw(st.integers(0, 2**32 - 1)), draw(st.integers(1, 9)), draw(st.tuples(sides, sides)), kind
    )
    if draw(st.booleans()):  # coarse saliency has ties
        coarse = {layer: (values * 3).ceil() for layer, values in tokens.saliency.items()}
        tokens = replace(tokens, saliency=coarse)
    aot = AOTConfig(
        anchors=AnchorConfig(
            count=draw(st.none() | st.integers(1, 80)),
            local_ratio=draw(st.floats(0, 1)),
            windows_per_side=draw(st.integers(1, 4)),
        ),
        intra=IntraConfig(enabled=draw(st.booleans()), mass=draw(st.sampled_from(["plan", "token"]))),
        inter=InterConfig(
            enabled=draw(st.booleans()),
            keyframe=draw(st.sampled_from(["both", "original", "merged"])),
            transport=TransportConfig(stopping=draw(st.sampled_from(["published", "marginal"]))),
        ),
        clips=ClipConfig(
            mode=draw(st.sampled_from(["fixed", "dynamic"])),
            frames=draw(st.integers(1, 5)),
            segments=draw(st.integers(1, 4)),
            threshold=draw(st.floats(-1, 1)),
        ),
    )
    return tokens, Config(ratio=draw(st.floats(0.01, 0.99)), aot=aot)


def expected_clips(tokens: VisualTokens, config: AOTConfig) -> list[tuple[int, int]]:
    if not config.inter.enabled:
        return oracle.fixed_clips(len(tokens.features), 1)
    if config.clips.mode == "fixed":
        return oracle.fixed_clips(len(tokens.features), config.clips.frames)
    assert tokens.frame_embeddings is not None
    return oracle.dynamic_clips(tokens.frame_embeddings.numpy(), config.clips.segments, config.clips.threshold)


@settings(max_examples=100)
@given(compressions())
def test_any_settings_meet_the_budget_or_say_why_not(case: tuple[VisualTokens, Config]) -> None:
    tokens, config = case
    rows, cols = pooled_grid(tokens.grid, tokens.pool)
    budget = config.token_budget(len(tokens.features), rows * cols)
    clips = expected_clips(tokens, config.aot)
    method = build_method(config)
    if budget < len(clips):
        with pytest.raises(ConfigError, match=f"leaves {budget} tokens for {len(clips)} clips; use --ratio"):
            method.compress(tokens, budget)
        return
    kept = method.compress(tokens, budget)
    assert len(kept.features) == budget
    assert [(clip.first, clip.stop) for clip in kept.clips] == clips
    assert kept.features.isfinite().all()
    assert_is_well_formed(kept, tokens, config.aot)
    if not config.aot.intra.enabled:
        pooled = pool(tokens.features, tokens.grid, tokens.pool).view(-1, rows, cols, tokens.features.shape[-1])
        untouched = kept.role != Role.MERGED
        assert torch.equal(kept.features, torch.where(untouched[:, None], _at(pooled, kept), kept.features))


def _at(pooled: torch.Tensor, kept: CompressedTokens) -> torch.Tensor:
    return pooled[kept.frame.long(), kept.row.long(), kept.col.long()]


@pytest.mark.parametrize(("frames", "kind"), [(100, "bilinear"), (256, "average"), (3, "bilinear")])
def test_the_ratio_that_an_error_names_is_enough(frames: int, kind: oracle.PoolKind) -> None:
    tokens, aot = random_tokens(3, frames, kind=kind), AOTConfig(inter=InterConfig(enabled=False))
    with pytest.raises(ConfigError, match=r"use --ratio [0-9.]+ or more$") as caught:
        AnchorTransport(aot, 0.001).compress(tokens, frames - 1)
    config = Config(ratio=float(str(caught.value).partition("--ratio ")[2].split()[0]), aot=aot)
    budget = config.token_budget(frames, 196 if kind == "bilinear" else 169)
    assert len(build_method(config).compress(tokens, budget).features) == budget


# What else a result says


def test_mass_says_what_a_merged_token_stands_for() -> None:
    tokens = random_tokens(4, 8)
    kept = paper(126, 0.3).compress(tokens, 0)
    for clip in Clip.runs(8, 4):
        distinct = (kept.frame > clip.first) & (kept.frame < clip.stop)
        merged = kept.mass[(kept.frame == clip.first) & (kept.role == Role.MERGED)]
        absorbed = votes_kept(tokens, clip) - int(distinct.sum())
        assert absorbed > 0
        assert_close(merged.sum(), len(merged) + absorbed, "float32")


def votes_kept(tokens: VisualTokens, clip: Clip) -> int:
    """Kept cells of the clip's later frames, by the oracle."""
    total = 0
    for frame in range(clip.first + 1, clip.stop):
        shallow, deep = (tokens.saliency[layer][frame].numpy() for layer in (synthetic.SHALLOW, synthetic.DEEP))
        anchors = oracle.select_anchors(shallow, deep, tokens.grid, 126)
        total += len(oracle.kept_cells(oracle.pool_mask([anchors], tokens.grid, "bilinear"))[0])
    return total


def test_needs() -> None:
    anchors = AnchorConfig(shallow_layer=3, deep_layer=-4)
    fixed = AnchorTransport(AOTConfig(anchors=anchors), 0.1)
    dynamic = AnchorTransport(AOTConfig(clips=ClipConfig(mode="dynamic")), 0.1)
    assert fixed.needs.saliency_layers == (3, -4)
    assert not fixed.needs.frame_embeddings
    assert dynamic.needs.frame_embeddings
    assert NoCompression().needs.saliency_layers == ()


def test_dynamic_clips_need_embeddings() -> None:
    tokens = replace(random_tokens(5, 4, grid=(6, 6)), frame_embeddings=None)
    with pytest.raises(ValueError, match="frame_embeddings: expected"):
        AnchorTransport(AOTConfig(clips=ClipConfig(mode="dynamic")), 0.5).compress(tokens, 18)
