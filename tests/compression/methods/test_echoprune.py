"""EchoPrune against golden values and a straight-line program, and what the question does to it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aot.compression.methods.echoprune import EchoPrune, _scaled, echoes, relevance
from aot.compression.ops.grid import pool, pooled_grid
from aot.config.sources import resolve_config
from aot.errors import ConfigError
from aot.types import Pooling, VisualTokens
from tests.support import oracle
from tests.support.golden_scenes import checksums, scene_tokens

Array = np.ndarray


def cosine(a: Array, b: Array) -> float:
    return float(a @ b) / max(float(np.linalg.norm(a)), 1e-6) / max(float(np.linalg.norm(b)), 1e-6)


def kept_cells(x: Array, q: Array, grid: tuple[int, int], budget: int, temperature: float, *, local: bool) -> list[int]:
    """Token by token."""
    frames, n, _ = x.shape
    relevant = [[max(cosine(token, word) for word in q) for token in frame] for frame in x]
    scores = {}
    for t in range(1, frames):
        before = [each / max(float(np.linalg.norm(each)), 1e-6) for each in x[t - 1]]
        for i in range(n):
            near = [
                j
                for j in range(n)
                if not local or (abs(i // grid[1] - j // grid[1]) <= 1 and abs(i % grid[1] - j % grid[1]) <= 1)
            ]
            weights = [math.exp(cosine(x[t, i], x[t - 1, j]) / temperature) for j in near]
            mixed = sum(w * before[j] for w, j in zip(weights, near, strict=True)) / sum(weights)
            echo = float(x[t, i] @ mixed) / max(float(np.linalg.norm(x[t, i])), 1e-6)
            scores[t * n + i] = relevant[t][i] - cosine(x[t, i], x[t - 1, i]) - echo
    first = min(n, budget, max(1, budget // frames))
    chosen = sorted(scores, key=lambda k: (-scores[k], k))[: budget - first]
    ranked = sorted(range(n), key=lambda i: (-relevant[0][i], i))
    return sorted(chosen + ranked[: budget - len(chosen)])


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(1, 5),
    st.sampled_from([(4, 4), (6, 5)]),
    st.floats(0, 0.99),
    st.sampled_from(["bilinear", "average", "none"]),
    st.integers(1, 4),
    st.sampled_from([EchoPrune(), EchoPrune(temperature=0.1), EchoPrune(match="local")]),
)
def test_any_budget(
    seed: int, frames: int, grid: tuple[int, int], ratio: float, kind: oracle.PoolKind, words: int, method: EchoPrune
) -> None:
    random = np.random.default_rng(seed)
    features = random.normal(size=(frames, grid[0] * grid[1], 9))
    question = random.normal(size=(words, 9))
    tokens = VisualTokens(
        torch.from_numpy(features), grid, Pooling(kind), tuple(map(float, range(frames))), {},
        question=torch.from_numpy(question),
    )  # fmt: skip
    x, cells = pool(tokens.features, grid, tokens.pool).numpy(), pooled_grid(grid, tokens.pool)
    budget = max(1, int(ratio * frames * cells[0] * cells[1]))
    kept = method.compress(tokens, budget)
    expected = kept_cells(x, question, cells, budget, method.temperature, local=method.match == "local")
    assert kept.cell.tolist() == expected
    np.testing.assert_array_equal(kept.features.numpy(), x.reshape(-1, 9)[expected])


# Golden values

KEPT = [13, 34, 35, 49, 121, 181, 183, 185, 187, 197, 198, 199, 203, 204, 205, 206, 207, 208, 209, 211, 215, 324, 326,
        327, 328, 329, 330, 331, 332, 333, 334, 335, 338, 339, 343, 344, 345, 346, 347, 350, 351, 356, 357]  # fmt: skip


def golden_question() -> torch.Tensor:
    m, d = np.ogrid[:5, :16]
    return torch.from_numpy(np.cos(0.45 * (d + 1) * (m + 1)) + 0.2 * np.sin(1.7 * d * m))


def golden(dtype: torch.dtype = torch.float64) -> VisualTokens:
    return replace(scene_tokens(dtype=dtype), question=golden_question().to(dtype))


def with_first(values: torch.Tensor, first: torch.Tensor | None = None) -> torch.Tensor:
    return torch.cat([torch.zeros_like(values[:1]) if first is None else first[None], values])


def test_golden_terms() -> None:
    assert checksums(golden_question()) == pytest.approx((-0.196531, -0.6634043), rel=1e-6)
    unit = _scaled(golden().features)
    relevant, (corresponding, echo) = relevance(unit, _scaled(golden_question())), echoes(unit, 0.5)
    scores = relevant[1:] - corresponding - echo
    assert checksums(relevant) == pytest.approx((160.0948, 79.33114), rel=1e-6)
    assert checksums(with_first(corresponding)) == pytest.approx((322.9491, 165.0641), rel=1e-6)
    assert checksums(with_first(echo)) == pytest.approx((151.5451, 75.88063), rel=1e-6)
    assert checksums(with_first(scores, relevant[0])) == pytest.approx((-314.3994, -161.6136), rel=1e-6)
    found = [float(relevant[0, 0]), float(corresponding[0, 0]), float(echo[0, 0]), float(scores[0, 0])]
    assert found == pytest.approx([0.02303182, 0.9848402, 0.4990469, -1.454705], rel=1e-6)
    assert float(corresponding[4].mean()) == pytest.approx(0.3217652, rel=1e-6)
    assert float(echo[4].mean()) == pytest.approx(0.3177758, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_golden_tokens(dtype: torch.dtype) -> None:
    few, more = (EchoPrune().compress(golden(dtype), budget) for budget in (43, 108))
    assert few.cell.tolist() == KEPT
    assert few.frame.long().bincount(minlength=12).tolist() == [3, 1, 0, 1, 0, 16, 0, 0, 0, 22, 0, 0]
    assert checksums(few.features) == pytest.approx((67.12692, 43.07522), rel=1e-6)
    assert more.frame.long().bincount(minlength=12).tolist() == [9, 5, 6, 3, 4, 32, 3, 2, 2, 31, 6, 5]
    assert int(more.cell.sum()) == 25324
    assert checksums(more.features) == pytest.approx((217.4366, 126.6941), rel=1e-6)


def test_golden_other_questions_and_temperatures() -> None:
    one_word = replace(golden(), question=golden_question()[:1])
    assert int(EchoPrune().compress(one_word, 43).cell.sum()) == 9943
    assert int(EchoPrune(temperature=0.1).compress(golden(), 43).cell.sum()) == 11276


# What makes it EchoPrune


def test_a_still_video_repeats_nothing() -> None:
    """Equal frames score alike, so the lower index decides."""
    still = replace(golden(), features=golden().features[:1].expand(12, -1, -1))
    kept = EchoPrune().compress(still, 60)
    scores = relevance(_scaled(still.features[:1]), _scaled(golden_question()))
    corresponding, echo = echoes(_scaled(still.features[:2]), 0.5)
    best = (scores - corresponding - echo)[0].float().sort(descending=True, stable=True).indices[:5].sort().values
    assert kept.frame.long().bincount(minlength=12).tolist() == [5, *[5] * 11]
    assert (kept.cell[5:].view(11, 5) % 36 == best).all()


def test_the_report_says_which_term_decides() -> None:
    facts = dict(EchoPrune().compress(golden(), 43).facts)
    assert facts == {
        "relevance_variance_share": 0.4829,
        "correspondence_variance_share": 0.4818,
        "echo_variance_share": 0.0353,
    }


def test_without_a_question_it_does_not_run() -> None:
    with pytest.raises(ValueError, match="question: expected"):
        EchoPrune().compress(scene_tokens(), 43)


def test_settings_and_preset() -> None:
    with pytest.raises(ConfigError, match=r"temperature must be at least 0.01, got 0"):
        EchoPrune(temperature=0.0)
    config = resolve_config({}, "methods/echoprune")
    assert EchoPrune(**config.methods["echoprune"]) == EchoPrune()
    assert config.token_budget(32, 196) == 1254
