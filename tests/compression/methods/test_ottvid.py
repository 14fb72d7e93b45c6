"""OTT-Vid against golden values and a straight-line program."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aot.compression.methods import ottvid
from aot.compression.methods.ottvid import OTTVid, matches, merge_budgets
from aot.compression.ops.source_weights import of_kept
from aot.config.sources import resolve_config
from aot.errors import ConfigError
from aot.types import CompressedTokens, Pooling, TokenBudget, VisualTokens
from tests.support.golden_scenes import checksums, scene_saliency, scene_tokens

Array = np.ndarray
KEPT_PATH = {"paper_exact": True, "mass": "kept"}  # the authors' program for LLaVA


# The straight-line program


def log_sum(values: Array) -> float:
    top = values.max()
    return float(top + np.log(np.exp(values - top).sum()))


def transport(cost: Array, rows: Array, columns: Array, epsilon: float, rounds: int) -> Array:
    """In logarithms, columns first."""
    u = np.zeros(len(rows))
    for _ in range(rounds):
        v = np.log(columns) - np.array([log_sum(-cost[:, j] / epsilon + u) for j in range(len(columns))])
        u = np.log(rows) - np.array([log_sum(-cost[i] / epsilon + v) for i in range(len(rows))])
    return np.exp(u[:, None] - cost / epsilon + v)


def picked(s: Array, w: Array, count: int) -> list[int]:
    chosen: list[int] = []
    for _ in range(count):
        best = [max([0.0, *(s[i, k] for k in chosen)]) for i in range(len(w))]
        gain = [sum(w[i] * max(0.0, s[i, j] - best[i]) for i in range(len(w))) for j in range(len(w))]
        chosen.append(max((j for j in range(len(w)) if j not in chosen), key=lambda j: (round(gain[j], 12), -j)))
    return sorted(chosen)


def masses(s: Array, w: Array, kept: list[int], temperature: float) -> Array:
    support = np.zeros(len(kept))
    for i in range(len(w)):
        ranked = sorted(range(len(kept)), key=lambda k: -s[i, kept[k]])
        second = s[i, kept[ranked[1]]] if len(kept) > 1 else 0.0
        support[ranked[0]] += w[i] * max(0.0, s[i, kept[ranked[0]]] - second)
    e = np.exp(-support / (support.max() + 1e-8) / temperature)
    return e / e.sum()


def shared(cost: list[float], merges: int, most: int, temperature: float) -> list[int]:
    b = [0] * len(cost)
    left = merges
    while left > 0 and any(each < most for each in b):
        active = [p for p in range(len(cost)) if b[p] < most]
        e = {p: math.exp(-cost[p] / temperature) for p in active}
        ideal = {p: e[p] / sum(e.values()) * left for p in active}
        extra = {p: math.floor(ideal[p]) for p in active}
        for p in sorted(active, key=lambda p: (extra[p] - ideal[p], p))[: left - sum(extra.values())]:
            extra[p] += 1
        left = 0
        for p in active:
            left += max(0, b[p] + extra[p] - most)
            b[p] = min(most, b[p] + extra[p])
    return b


def straight(
    x: Array, a: Array, grid: tuple[int, int], budget: int, settings_: OTTVid
) -> tuple[list[int], list[Array]]:
    """Return the indices and the features of the tokens that are kept of x [F, n, D]."""
    frames, n, _ = x.shape
    unit = x / np.linalg.norm(x, axis=-1, keepdims=True)
    share = (budget / (frames * n)) ** (1 - settings_.temporal_share)
    count = min(max(1, round(n * share), math.ceil(budget / frames)), budget)
    most = count - 1 if frames * count - budget <= (frames - 1) * (count - 1) else count
    s = [u @ u.T for u in unit]
    w = [each / (each.sum() + 1e-8) for each in a]
    kept = [picked(s[t], w[t], count) for t in range(frames)]
    m = [masses(s[t], w[t], kept[t], settings_.mass_temperature) for t in range(frames)]
    rows, cols = grid
    place = [((i // cols) / max(1, rows - 1), (i % cols) / max(1, cols - 1)) for i in range(n)]
    costs, plans = [], []
    for t in range(frames - 1):
        change = min(1.0, max(0.0, 1 - float(np.mean([unit[t, i] @ unit[t + 1, i] for i in range(n)]))))
        alpha = 0.5 + 0.5 * change
        costs.append(np.array([[
            alpha * (1 - max(0.0, float(unit[t, i] @ unit[t + 1, j])))
            + (1 - alpha) * math.dist(place[i], place[j]) / math.sqrt(2)
            for j in kept[t + 1]] for i in kept[t]]))  # fmt: skip
        plans.append(transport(costs[-1], m[t], m[t + 1], settings_.epsilon, settings_.iterations))
    spent = [float((p * c).sum()) for p, c in zip(plans, costs, strict=True)]
    budgets = shared(spent, frames * count - budget, most, settings_.budget_temperature)
    parent: dict[tuple[int, int], tuple[int, int] | None] = {}
    for t, (plan, cost) in enumerate(zip(plans, costs, strict=True)):
        taken: set[int] = set()
        for flat in sorted(range(count * count), key=lambda f: (-np.float32(plan.flat[f]), f)):
            i, j = divmod(flat, count)
            if len(taken) < budgets[t] and j not in taken:
                taken.add(j)
                parent[t + 1, j] = (t, i) if cost[i, j] <= settings_.drop_cost else None
    groups: dict[tuple[int, int], list[Array]] = {
        (t, k): [] for t in range(frames) for k in range(count) if (t, k) not in parent
    }
    for t in range(frames):
        for k in range(count):
            at: tuple[int, int] | None = (t, k)
            while at is not None and at in parent:
                at = parent[at]
            if at is not None:
                groups[at].append(x[t, kept[t][k]])
    return [t * n + kept[t][k] for t, k in groups], [np.mean(each, 0) for each in groups.values()]


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(1, 5),
    st.sampled_from([(2, 3), (3, 4), (1, 5)]),
    st.floats(0, 0.99),
    st.sampled_from([OTTVid(), OTTVid(drop_cost=0.6, temporal_share=0.8, iterations=7), OTTVid(temporal_share=0.0)]),
)
def test_any_budget(seed: int, frames: int, grid: tuple[int, int], ratio: float, method: OTTVid) -> None:
    random = np.random.default_rng(seed)
    n = grid[0] * grid[1]
    x = random.normal(size=(1, n, 8)) + 0.5 * random.normal(size=(frames, n, 8))
    attention = random.random((frames, n)) + 0.1
    budget = max(1, int(ratio * frames * n))
    tokens = VisualTokens(
        torch.from_numpy(x), grid, Pooling("none"), tuple(map(float, range(frames))), {-1: torch.from_numpy(attention)}
    )
    kept = method.compress(tokens, budget)
    cells, features = straight(x, attention, grid, budget, method)
    assert len(cells) == budget
    assert kept.cell.tolist() == cells
    np.testing.assert_allclose(kept.features.numpy(), features, atol=1e-9)


# The authors' program on the golden video


def golden(grid: tuple[int, int] = (6, 6), dtype: torch.dtype = torch.float64) -> VisualTokens:
    return replace(scene_tokens(grid, dtype), saliency={-1: scene_saliency().to(dtype)})


class Trace:
    """What the steps of the last run returned."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.found: dict[str, torch.Tensor] = {}
        for name in ("representatives", "token_mass", "merge_budgets"):
            monkeypatch.setattr(ottvid, name, self._kept(name, getattr(ottvid, name)))
        self._matches = matches
        monkeypatch.setattr(ottvid, "matches", self._traced_matches)

    def _kept(self, name, function):  # type: ignore[no-untyped-def]
        def traced(*args):  # type: ignore[no-untyped-def]
            if name == "merge_budgets":
                self.found["cost"] = args[0]
            self.found[name] = function(*args)
            return self.found[name]

        return traced

    def _traced_matches(self, plan: torch.Tensor, budgets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.found["plan"] = plan
        return self._matches(plan, budgets)


COSTS_10 = [0.1786054, 0.2798483, 0.3309294, 0.2035599, 0.6015358, 0.2886466, 0.280285, 0.3272809, 0.6437462, 0.3196432,
            0.3459687]  # fmt: skip
COSTS_25 = [0.1850736, 0.2409342, 0.2190924, 0.1490218, 0.4484748, 0.2028938, 0.2125503, 0.2671606, 0.410297, 0.2606985,
            0.2270985]  # fmt: skip
MASS_10 = [0.1295088, 0.3130564, 0.01650263, 0.1525819, 0.1400841, 0.1519418, 0.09632432]
MASS_25 = [0.01814464, 0.1249758, 0.07181104, 0.01084015, 0.06777239, 0.08285801, 0.05215992]


@pytest.mark.parametrize(
    ("budget", "places", "place_sum", "sixth", "mass", "plans", "costs", "budgets", "sums"),
    [
        (TokenBudget(43, 0.1), [0, 3, 7, 17, 20, 27, 34], 1464, [7, 12, 21, 23, 24, 31, 32], (MASS_10, 5.256138),
         (0.2318186, 0.2009587, 2.788553), COSTS_10, [6, 4, 4, 6, 2, 4, 4, 4, 1, 4, 3], (128.4526, 43.75981)),
        (TokenBudget(108, 0.25), [0, 3, 6, 7, 8, 10, 14, 17, 20, 23, 27, 29, 33, 34], 3092,
         [0, 1, 7, 12, 15, 21, 22, 23, 24, 27, 28, 29, 31, 32], (MASS_25, 5.407027),
         (0.45616, 0.5056467, 5.096137), COSTS_25, [6, 5, 6, 7, 3, 6, 6, 5, 3, 5, 5], (296.7099, 141.5894)),
    ],
)  # fmt: skip
def test_golden_steps(
    monkeypatch: pytest.MonkeyPatch,
    budget: int,
    places: list[int],
    place_sum: int,
    sixth: list[int],
    mass: tuple[list[float], float],
    plans: tuple[float, ...],
    costs: list[float],
    budgets: list[int],
    sums: tuple[float, ...],
) -> None:
    trace = Trace(monkeypatch)
    kept = OTTVid(**KEPT_PATH).compress(golden(), budget)  # type: ignore[arg-type]
    found = trace.found
    assert found["representatives"][[0, 6]].tolist() == [places, sixth]
    assert int(found["representatives"].sum()) == place_sum
    assert found["token_mass"][0, :7].tolist() == pytest.approx(mass[0], rel=1e-6)
    assert checksums(found["token_mass"])[1] == pytest.approx(mass[1], rel=1e-6)
    weighted = [checksums(plan)[1] for plan in found["plan"]]
    assert (weighted[0], weighted[4], sum(weighted)) == pytest.approx(plans, rel=1e-6)
    assert found["cost"].tolist() == pytest.approx(costs, rel=1e-6)
    assert found["merge_budgets"].tolist() == budgets
    assert checksums(kept.features) == pytest.approx(sums, rel=1e-6)


# Kept tokens with the whole attention, at 10 % and exact
OURS = [0, 3, 7, 17, 20, 27, 34, 43, 72, 79, 92, 115, 131, 137, 164, 180, 186, 187, 192, 208, 212, 223, 228, 248, 258,
        259, 264, 294, 301, 319, 332, 337, 345, 348, 351, 358, 375, 382, 395, 399, 407, 409, 410]  # fmt: skip
THEIRS = [0, 3, 7, 17, 20, 27, 34, 43, 79, 82, 92, 115, 116, 137, 164, 180, 186, 187, 192, 212, 223, 237, 248, 258, 259,
          264, 294, 301, 319, 332, 337, 345, 348, 351, 358, 375, 382, 395, 399, 407, 409, 416]  # fmt: skip


@pytest.mark.parametrize(
    ("settings_", "budget", "count", "dropped", "sums"),
    [
        (KEPT_PATH, TokenBudget(43, 0.1), 42, 20, (128.4526, 43.75981)),
        (KEPT_PATH, TokenBudget(108, 0.25), 111, 12, (296.7099, 141.5894)),
        ({"paper_exact": True}, TokenBudget(43, 0.1), 42, 22, (178.5077, 63.16852)),
        ({"paper_exact": True}, TokenBudget(108, 0.25), 111, None, (326.4422, 164.5605)),
        ({"mass": "kept"}, 43, 43, None, (130.7424, 52.91718)),
        ({"mass": "kept"}, 108, 108, None, (282.6123, 115.4854)),
        ({}, 43, 43, 21, (180.7976, 75.8625)),
        ({}, 108, 108, None, (302.5373, 105.3707)),
        ({**KEPT_PATH, "drop_cost": 1.0}, TokenBudget(43, 0.1), 42, 0, (119.2011, 42.78956)),
    ],
    ids=str,
)
def test_golden_tokens(
    settings_: dict[str, object], budget: int, count: int, dropped: int | None, sums: tuple[float, float]
) -> None:
    kept = OTTVid(**settings_).compress(golden(), budget)  # type: ignore[arg-type]
    assert len(kept.features) == count
    assert checksums(kept.features) == pytest.approx(sums, rel=1e-6)
    assert kept.facts["merges"] == 12 * kept.facts["picked_per_frame"] - count
    assert dropped in (None, kept.facts["dropped_matches"])


def test_golden_indices() -> None:
    theirs = OTTVid(**KEPT_PATH).compress(golden(), TokenBudget(43, 0.1))  # type: ignore[arg-type]
    assert theirs.cell.tolist() == THEIRS
    assert theirs.features[0, :4].tolist() == pytest.approx([1.099234, 1.21354, 1.257792, 1.371464], rel=1e-6)
    assert per_frame(theirs) == [7, 1, 3, 3, 1, 5, 3, 3, 3, 6, 3, 4]
    assert theirs.mass.max() == 5
    more = OTTVid(**KEPT_PATH).compress(golden(), TokenBudget(108, 0.25))  # type: ignore[arg-type]
    assert per_frame(more) == [14, 8, 9, 8, 7, 11, 8, 8, 9, 11, 9, 9]
    assert OTTVid(mass="kept").compress(golden(), 43).cell.tolist() == sorted([*THEIRS, 208])
    assert OTTVid().compress(golden(), 43).cell.tolist() == OURS
    assert OTTVid().compress(golden(dtype=torch.float32), 43).cell.tolist() == OURS


def per_frame(kept: CompressedTokens) -> list[int]:
    return kept.frame.long().bincount(minlength=12).tolist()


@pytest.mark.parametrize(
    ("grid", "sums", "budgets"),
    [
        ((4, 9), (121.5657, 45.60019), [6, 4, 4, 5, 2, 4, 4, 4, 1, 4, 4]),
        ((1, 36), (155.2452, 57.6585), None),
    ],
)
def test_golden_other_grids(
    monkeypatch: pytest.MonkeyPatch, grid: tuple[int, int], sums: tuple[float, float], budgets: list[int] | None
) -> None:
    trace = Trace(monkeypatch)
    kept = OTTVid(**KEPT_PATH).compress(golden(grid), TokenBudget(43, 0.1))  # type: ignore[arg-type]
    assert checksums(kept.features) == pytest.approx(sums, rel=1e-6)
    assert budgets in (None, trace.found["merge_budgets"].tolist())


# Its parts


@pytest.mark.parametrize("is_queued", [False, True])
def test_merges_that_a_pair_cannot_take_go_to_the_others(monkeypatch: pytest.MonkeyPatch, is_queued: bool) -> None:
    """On a device all rounds that may be needed run."""
    monkeypatch.setattr(ottvid, "is_queued", lambda device: is_queued)
    cost = torch.tensor([0.0, 0.1, 3.0, 3.0], dtype=torch.float64)
    assert merge_budgets(cost, 9, 3, 0.1).tolist() == [3, 3, 2, 1]
    assert merge_budgets(cost, 12, 3, 0.1).tolist() == [3, 3, 3, 3]
    assert merge_budgets(cost, 0, 3, 0.1).tolist() == [0, 0, 0, 0]


def test_a_token_may_take_several_but_each_is_taken_once() -> None:
    plan = torch.tensor([[[0.5, 0.4, 0.1], [0.3, 0.4, 0.2], [0.0, 0.1, 0.2]]])
    is_matched, source = matches(plan, torch.tensor([2]))
    assert is_matched.tolist() == [[True, True, False]]
    assert source.tolist() == [[0, 0, 1]]


def test_what_was_dropped_is_in_no_token() -> None:
    tokens = replace(golden(), traced=True)
    kept = OTTVid().compress(tokens, 43)
    sources = of_kept(kept)
    assert len(sources.source) < 12 * 7 - int(kept.facts["dropped_matches"]) + 1  # type: ignore[arg-type]
    everything = OTTVid(drop_cost=1.0).compress(tokens, 43)
    assert len(of_kept(everything).source) == 12 * 7
    assert everything.facts["dropped_matches"] == 0


def test_one_frame_only_picks() -> None:
    tokens = golden()
    one = replace(tokens, features=tokens.features[:1], timestamps_s=(0.0,), saliency={-1: tokens.saliency[-1][:1]})
    kept = OTTVid().compress(one, 7)
    assert kept.cell.tolist() == [0, 3, 7, 17, 20, 27, 34]
    assert kept.mass.tolist() == [1] * 7


def test_settings_and_preset() -> None:
    with pytest.raises(ConfigError, match=r"epsilon must be at least 0.005, got 0"):
        OTTVid(epsilon=0.0)
    config = resolve_config({}, "methods/ottvid")
    assert OTTVid(**config.methods["ottvid"]) == OTTVid()
    assert config.token_budget(32, 196) == 627
