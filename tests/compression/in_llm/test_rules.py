"""What each reduction picks and merges, against loops in float64, on more tokens than the prompts elsewhere have."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from aot.compression.in_llm import State
from aot.compression.in_llm.fastv import FastV
from aot.compression.in_llm.flashvid import FlashVidInner
from aot.compression.in_llm.framefusion import FrameFusion, Neighbors
from aot.compression.in_llm.holitom import merge_in_turn
from aot.compression.in_llm.newlines import ended_lines
from aot.compression.in_llm.prunevid import PruneVidInner
from aot.compression.in_llm.pyramiddrop import PyramidDrop
from aot.types import Clip, CompressedTokens
from tests.support.straight_line import best, cosine, prunevid_groups

SEEDS = range(6)
BEFORE, AFTER, HEADS, WIDTH, FRAMES = 4, 6, 3, 8, 6


def state_of(seed: int, *, layer: int = 2, layers: int = 28, ties: bool = False) -> State:
    """Random tokens of six frames with a random attention matrix; with `ties`, of few values."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(20, 60))
    cell = np.sort(rng.choice(FRAMES * 16, count, replace=False))
    total = BEFORE + count + 1 + AFTER
    attention = torch.from_numpy(rng.random((HEADS, total, total))).float()
    if ties:
        attention = (4 * attention).round() / 4
    tokens = CompressedTokens(
        features=torch.zeros(count, WIDTH),
        frame=torch.from_numpy(cell // 16).int(),
        row=torch.from_numpy(cell % 16 // 4).int(),
        col=torch.from_numpy(cell % 4).int(),
        role=torch.zeros(count, dtype=torch.uint8),
        mass=torch.from_numpy(rng.integers(1, 6, count)).float(),
        grid=(4, 4),
        timestamps_s=tuple(map(float, range(FRAMES))),
        clips=(Clip(0, 3), Clip(3, 5), Clip(5, 6)),
    )

    def attend(rows: torch.Tensor, *, upcoming: bool = False, rotary: bool = True, causal: bool = True) -> torch.Tensor:
        return attention[:, rows]

    return State(
        layer=layer,
        layers=layers,
        hidden=torch.from_numpy(rng.normal(size=(1, total, WIDTH))).float(),
        visual=torch.arange(BEFORE, BEFORE + count),
        token=torch.arange(count),
        newline=torch.tensor([BEFORE + count]),
        line=torch.tensor([-1]),
        ends_video=True,
        question=torch.arange(BEFORE + count + 1, total),
        tokens=tokens,
        attention=attend,
    )


def looked_at(state: State) -> list[float]:
    """The last prompt token's attention to the visual tokens, mean over heads."""
    return list(state.attention(torch.tensor([state.hidden.shape[1] - 1]))[:, 0].mean(0).numpy()[state.visual])


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_the_most_attended_stay(seed: int, ties: bool) -> None:
    state = state_of(seed, ties=ties)
    scores, count = looked_at(state), len(state.visual)
    for inner, kept in (
        (FastV(keep=0.31), round(0.31 * count)),
        (FlashVidInner(), int(np.ceil(0.3 * count - 1e-9))),
        (FastV(keep=1e-3), 1),
    ):
        expected = [BEFORE + i for i in range(count) if i not in best(scores, kept)]
        assert inner.reduce(state).dropped.tolist() == expected


@pytest.mark.parametrize(("layer", "share"), [(7, 0.5), (14, 0.25), (21, 0.125)])
def test_the_pyramids_shares_are_of_all_tokens(layer: int, share: float) -> None:
    state = state_of(0, layer=layer)
    found = PyramidDrop().reduce(state)
    assert len(state.visual) - len(found.dropped) == int(share * len(state.visual))
    assert found.packed


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("dropped", [0, 1, 40, 300])
def test_merging_in_turn(seed: int, dropped: int) -> None:
    rng = np.random.default_rng(seed)
    kept, lost = rng.normal(size=(5, WIDTH)), rng.normal(size=(dropped, WIDTH))
    expected = kept.copy()
    for token in lost:
        target = int(np.argmax([cosine(token, other) for other in kept]))
        expected[target] = (expected[target] + token) / 2
    found = merge_in_turn(torch.from_numpy(kept), torch.from_numpy(lost))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)
    half = merge_in_turn(torch.from_numpy(kept).half(), torch.from_numpy(lost).half())
    assert half.dtype == torch.float16


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_prunevid_keeps_a_share_of_every_group(seed: int, exact: bool) -> None:
    state = state_of(seed, ties=seed % 2 == 0)
    count = len(state.visual)
    found = PruneVidInner(paper_exact=exact).reduce(state)
    gone = set((found.dropped - BEFORE).tolist())
    received = state.attention(state.question)[:, :, state.visual].amax((0, 1)).tolist()
    kept_in_all = 0
    for group in prunevid_groups(state.tokens):
        stay = [token for token in group if token not in gone]
        assert stay == [group[i] for i in best([received[token] for token in group], len(stay))]
        if exact:
            assert len(stay) == int(0.4 * len(group))
        assert abs(len(stay) - 0.4 * len(group)) < 2
        kept_in_all += len(stay)
    assert exact or kept_in_all == round(0.4 * count)
    assert found.forgotten


@pytest.mark.parametrize("seed", SEEDS)
def test_neighbors_are_of_one_cell(seed: int) -> None:
    state = state_of(seed)
    neighbors = Neighbors.build(state)
    cells = list(zip(state.tokens.row.tolist(), state.tokens.col.tolist(), strict=True))
    states = state.hidden[0].double().numpy()
    for token, similarity in zip(neighbors.order.tolist(), neighbors.similarity.tolist(), strict=True):
        before = [other for other in range(token) if cells[other] == cells[token]]
        expected = cosine(states[BEFORE + token], states[BEFORE + before[-1]]) if before else -2
        assert similarity == pytest.approx(expected, abs=1e-6)


def test_a_run_becomes_its_mean() -> None:
    """All of a cell alike: one token a cell is left, the mean of all."""
    state = state_of(0)
    found = FrameFusion(similarity=-1, cost=0.1).reduce(state)
    assert found.hidden is not None
    cells = state.cell_in_frame.tolist()
    for cell in set(cells):
        rows = [BEFORE + token for token, other in enumerate(cells) if other == cell]
        assert set(rows[1:]) <= set(found.dropped.tolist())
        torch.testing.assert_close(found.hidden[0, rows[0]], state.hidden[0, rows].mean(0))
    assert found.notes == (1 - len(set(cells)) / len(cells),)


@pytest.mark.parametrize(
    ("prompt", "lines"),
    [
        ("0 1 2 3 n", [-1]),  # one ends the whole video
        ("0 n 1 n 2 n 3 n", [0, 1, 0, 1]),  # one after each line
        ("0 1 n n 2 3 n n", [0, 1, 0, 1]),  # a frame's together after it
        ("0 n 1 n 3 n", [0, 1, 1]),  # only after lines that keep a token
        ("0 1 2 3", []),
    ],
)
def test_which_line_a_newline_ends(prompt: str, lines: list[int]) -> None:
    """Two frames of two lines, of a token each: tokens 0 and 2 are in line 0."""
    state = state_of(0)
    tokens = replace(state.tokens, row=torch.tensor([0, 1, 0, 1]), grid=(2, 1), timestamps_s=(0.0, 1.0))
    token = torch.tensor([-2 if word == "n" else int(word) for word in prompt.split()])
    assert ended_lines(token, (token == -2).nonzero()[:, 0], tokens).tolist() == lines
