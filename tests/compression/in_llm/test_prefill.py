"""Reading with fewer and fewer tokens is what the stock model does when it must not look at the others."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from aot.compression.in_llm import InnerReduction, Reduction, State
from aot.compression.in_llm.fastv import FastV
from aot.compression.in_llm.flashvid import FlashVidInner
from aot.compression.in_llm.framefusion import FrameFusion
from aot.compression.in_llm.holitom import HoliTomInner
from aot.compression.in_llm.prunevid import PruneVidInner
from aot.compression.in_llm.pyramiddrop import PyramidDrop
from aot.config.schema import GenerationConfig
from aot.models.language.decoding import LanguageModel
from aot.models.language.forcing import force_on
from aot.models.language.prefill import attention_rows, prefill
from aot.models.language.prompt import NEWLINE, TEXT, VideoPrompt
from tests.support import straight_line
from tests.support.decoded import continued
from tests.support.keep_all import KeepAll
from tests.support.language import LAYERS, eager, grid_prompt_of, language_model, prompt_of
from tests.support.straight_line import Rule

NEW = 5
CLOSE = {"atol": 1e-5, "rtol": 1e-5}
NORMED = {"atol": 1e-4, "rtol": 1e-4}  # norms compute in float32, whatever the model's dtype is
SEEDS = range(3)


@pytest.fixture(scope="module")
def model() -> Any:
    return language_model()


@pytest.fixture(scope="module")
def twin(model: Any) -> Any:
    return eager(model)


def check(
    model: Any,
    twin: Any,
    seed: int,
    inner: InnerReduction,
    rule: Rule,
    forgets: bool = False,
    prompt_of: Callable[[Any, int], tuple[torch.Tensor, VideoPrompt, straight_line.Row]] = prompt_of,
) -> None:
    ids, prompt, rows = prompt_of(model, seed)
    prompt = replace(prompt, ids=ids)
    prefilled = prefill(model.model, prompt, inner, NEW)
    found, words = continued(model, model.model, prompt, prefilled, NEW, "whole")
    forgotten = straight_line.logits(twin, prompt.embeddings, rows, rule)[1] if forgets else set()
    embeddings = torch.cat([prompt.embeddings, model.get_input_embeddings()(words[None, :-1])], 1)
    expected, _, counts = straight_line.logits(twin, embeddings, rows, rule, forgotten)
    torch.testing.assert_close(found.double(), expected, **CLOSE)
    assert prefilled.layer_tokens == tuple(counts)
    parts = LanguageModel.of(model, model.model)
    read = prefill(model.model, prompt, inner, NEW)
    forced = force_on(parts, prompt, words.tolist(), read, GenerationConfig())
    torch.testing.assert_close(forced.logits.double(), expected, **CLOSE)
    assert torch.equal(forced.choices, words)
    for kind in ("lean", "bound"):
        lean, _ = continued(model, model.model, prompt, prefill(model.model, prompt, inner, NEW), NEW, kind)
        torch.testing.assert_close(lean, found, **NORMED)


@pytest.mark.parametrize("seed", SEEDS)
def test_keeping_all_is_the_stock_model(model: Any, seed: int) -> None:
    ids, prompt, _ = prompt_of(model, seed)
    prompt = replace(prompt, ids=ids)
    prefilled = prefill(model.model, prompt, KeepAll())
    found, words = continued(model, model.model, prompt, prefilled, NEW, "whole")
    stock = model.generate(
        inputs_embeds=prompt.embeddings, max_new_tokens=NEW, do_sample=False, output_logits=True,
        return_dict_in_generate=True,
    )  # fmt: skip
    assert torch.equal(words, stock.sequences[0])
    torch.testing.assert_close(found.float(), torch.cat(stock.logits), **CLOSE)
    assert prefilled.layer_tokens == (len(prompt.tokens.features),) * LAYERS


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("layer", "keep"), [(1, 0.5), (2, 0.2), (5, 0.8), (3, 0.01)])
def test_fastv(model: Any, twin: Any, seed: int, layer: int, keep: float) -> None:
    rule = straight_line.last_query_drop(layer, lambda m: max(round(keep * m), 1))
    check(model, twin, seed, FastV(layer, keep), rule)


@pytest.mark.parametrize("seed", SEEDS)
def test_flashvid(model: Any, twin: Any, seed: int) -> None:
    rule = straight_line.last_query_drop(4, lambda m: int(np.ceil(0.3 * m)))
    check(model, twin, seed, FlashVidInner(layer=4), rule)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("layer", "keep"), [(2, 0.5), (4, 0.15)])
def test_holitom(model: Any, twin: Any, seed: int, layer: int, keep: float) -> None:
    check(model, twin, seed, HoliTomInner(layer, keep), straight_line.holitom(layer, keep))


@pytest.mark.parametrize("seed", SEEDS)
def test_pyramiddrop(model: Any, twin: Any, seed: int) -> None:
    """Before layers 2, 3 and 4 of six (1.5, 3 and 4.5, rounded to even), half of the 24 each time."""
    check(model, twin, seed, PyramidDrop(), straight_line.pyramiddrop({2: 12, 3: 6, 4: 3}))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("layer", [2, 4])
def test_prunevid(model: Any, twin: Any, seed: int, layer: int) -> None:
    inner = PruneVidInner(layer, paper_exact=True)
    check(model, twin, seed, inner, straight_line.prunevid(layer, 0.4), forgets=True)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("cost", "similarity", "fade_out", "exact"),
    [(0.7, 0.6, 0.1, True), (0.5, 0.8, 0.1, True), (0.3, 0.9, 0, False), (0.2, 0.6, 0.1, False), (0.9, 0.3, 0.1, True)],
)
def test_framefusion(
    model: Any, twin: Any, seed: int, cost: float, similarity: float, fade_out: float, exact: bool
) -> None:
    """Merging that fades out, that reaches the budget, and that would overdraw it."""
    inner = FrameFusion(similarity, cost, fade_out, exact)
    check(model, twin, seed, inner, straight_line.framefusion(cost, similarity, fade_out, LAYERS, spare=not exact))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("every", [False, True])
@pytest.mark.parametrize("cost", [0.7, 0.3])
def test_framefusion_merges_newlines_of_lines(model: Any, twin: Any, seed: int, every: bool, cost: float) -> None:
    """The newlines of a line are alike in all frames, so that they merge; they count as tokens."""
    rule = straight_line.framefusion(cost, 0.6, 0.1, LAYERS, spare=True)
    check(model, twin, seed, FrameFusion(0.6, cost), rule, prompt_of=partial(grid_prompt_of, every=every))
    before = (grid_prompt_of(model, seed, every=every)[1].token == NEWLINE).sum()
    seen = newlines_read(model, grid_prompt_of(model, seed, every=every)[1], FrameFusion(0.6, cost))
    assert seen < before / 2


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("every", [False, True])
def test_flashvid_and_holitom_count_newlines_of_lines(model: Any, twin: Any, seed: int, every: bool) -> None:
    grid = partial(grid_prompt_of, every=every)
    rule = straight_line.last_query_drop(4, lambda m: int(np.ceil(0.3 * m)))
    check(model, twin, seed, FlashVidInner(layer=4), rule, prompt_of=grid)
    check(model, twin, seed, HoliTomInner(2, 0.5), straight_line.holitom(2, 0.5), prompt_of=grid)


def test_visual_tokens_may_stay_in_place_of_newlines(model: Any) -> None:
    """Half of 24 tokens and 12 newlines are 18 rows, which may all be tokens."""

    class NewlinesFirst(FlashVidInner):
        def reduce(self, state: State) -> Reduction:
            rows = torch.cat([state.newline, state.visual])
            return Reduction(rows[: len(rows) - math.ceil(self.keep * len(rows))])

    _, prompt, _ = grid_prompt_of(model, 0, every=True)
    assert (prompt.token == NEWLINE).sum() == 12
    assert prefill(model.model, prompt, NewlinesFirst(layer=1, keep=0.5)).layer_tokens == (24, *[18] * (LAYERS - 1))


def newlines_read(model: Any, prompt: VideoPrompt, inner: InnerReduction) -> int:
    """How many newlines the last layer reads."""
    prefilled = prefill(model.model, prompt, inner)
    return int(prefilled.cache.layers[-1].held) - int((prompt.token == TEXT).sum()) - prefilled.layer_tokens[-1]


def test_attention_is_the_stock_one(model: Any, twin: Any) -> None:
    _, prompt, rows = prompt_of(model, 0)
    run = straight_line.Pass(twin, prompt.embeddings, rows, positions=torch.arange(rows.length))
    layer = model.model.layers[0]
    wanted = torch.tensor([3, 17, rows.length - 1])
    rotary = model.model.rotary_emb(prompt.embeddings, run.positions[None])
    found = attention_rows(layer, prompt.embeddings, wanted, rotary)
    torch.testing.assert_close(found.double(), run.attend(twin.model.layers[0])[1][:, wanted], **CLOSE)
    assert found.shape == (4, 3, rows.length)


def test_attention_by_content_alone(model: Any) -> None:
    _, prompt, rows = prompt_of(model, 1)
    layer, wanted = model.model.layers[2], torch.tensor(rows.question)
    found = attention_rows(layer, prompt.embeddings, wanted, None, causal=False)
    expected = straight_line.content_attention(layer, prompt.embeddings[0].numpy())[:, wanted]
    torch.testing.assert_close(found.double(), torch.from_numpy(expected), **CLOSE)


def test_attention_of_a_layer_that_has_not_run_is_refused(model: Any) -> None:
    class TooEarly(KeepAll):
        def reduce(self, state: State) -> Reduction:
            state.from_last()
            return super().reduce(state)

    with pytest.raises(ValueError, match="attended"):
        prefill(model.model, prompt_of(model, 0)[1], TooEarly())


def test_without_a_newline_the_question_begins_after_the_video(model: Any) -> None:
    _, prompt, rows = prompt_of(model, 0)
    seen: list[State] = []

    class Look(KeepAll):
        def reduce(self, state: State) -> Reduction:
            seen.append(state)
            return super().reduce(state)

    prefill(model.model, prompt, Look())
    assert (seen[0].newline.tolist(), seen[0].question.tolist()) == (rows.newline, rows.question)
    without = prompt.token.clone()
    without[rows.newline] = TEXT
    bare = replace(prompt, token=without, video_end=rows.newline[0])
    seen.clear()
    prefill(model.model, bare, Look())
    assert (seen[0].newline.tolist(), seen[0].question.tolist()) == ([], [*rows.newline, *rows.question])
    assert seen[0].token.tolist() == list(range(len(prompt.tokens.features)))
