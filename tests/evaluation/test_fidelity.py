"""Divergences equal those of straight-line computations, and coarse ones never exceed full ones."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlavaOnevisionForConditionalGeneration

from aot.compression.methods import build_method
from aot.config.schema import Config, GenerationConfig, ModelConfig
from aot.errors import NumericsError
from aot.evaluation.fidelity import Fidelity, Reference, divergences, fidelity
from aot.models import load_model
from aot.models.families.llava import Llava
from aot.models.loading.lookup import location
from aot.types import CompressedTokens, VisualTokens
from tests.support.model_inputs import frames_for, stock_inputs

GREEDY = GenerationConfig(max_new_tokens=12)
QUESTION = "what happens?"


def reference_of(logits: torch.Tensor, classes: int) -> Reference:
    choices = logits.argmax(-1)
    return Reference.of(choices.tolist(), logits, choices, classes)


def compared(logits: torch.Tensor, others: torch.Tensor, classes: int) -> Fidelity:
    return fidelity(reference_of(logits, classes), others, others.argmax(-1))


def log_of(*shares: float) -> list[float]:
    return [math.log(share) for share in shares]


def test_by_hand() -> None:
    full = torch.tensor([log_of(0.5, 0.25, 0.25), log_of(0.25, 0.5, 0.25)])
    kept = torch.tensor([log_of(0.25, 0.5, 0.25), log_of(0.25, 0.5, 0.25)])
    found = compared(full, kept, 3)
    assert found.divergence == pytest.approx((0.5 * math.log(2) - 0.25 * math.log(2)) / 2, rel=1e-6)
    assert (found.agreement, found.same_answer) == (0.5, False)
    assert compared(full, 3 + full, 3) == Fidelity(pytest.approx(0, abs=1e-7), 1.0, True)
    # The most likely token apart, and the other two as one: 0.5, 0.5 against 0.25, 0.75.
    coarse = compared(full[:1], kept[:1], 1)
    assert coarse.divergence == pytest.approx(0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75), rel=1e-6)


@given(st.integers(0, 2**31), st.sampled_from([0.1, 3.0, 30.0]), st.integers(1, 12))
def test_fewer_classes_never_show_more(seed: int, spread: float, classes: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    full, kept = (spread * torch.randn(4, 12, generator=generator) for _ in range(2))
    shares = [full.double().log_softmax(-1), kept.double().log_softmax(-1)]
    whole = (shares[0].exp() * (shares[0] - shares[1])).sum(-1)
    coarse = divergences(reference_of(full, classes), kept)
    assert (coarse >= 0).all()
    assert (coarse <= whole * (1 + 1e-6) + 1e-6).all()
    torch.testing.assert_close(divergences(reference_of(full, 12), kept), whole, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(divergences(reference_of(full, 99), kept), whole, rtol=1e-5, atol=1e-6)


def test_predictions_that_are_no_numbers() -> None:
    bad = torch.tensor([[0.0, float("nan")]])
    for pair in ((bad, torch.zeros(1, 2)), (torch.zeros(1, 2), bad)):
        with pytest.raises(NumericsError, match="not finite; try --dtype"):
            compared(*pair, 2)


def kept_of(visual: VisualTokens, per_frame: int, **settings: object) -> CompressedTokens:
    method = build_method(Config(**settings))  # type: ignore[arg-type]
    return method.compress(visual, Config(**settings).token_budget(4, per_frame))  # type: ignore[arg-type]


def test_the_bundled_model_as_computed_from_the_stock_model() -> None:
    """Every token of the vocabulary apart, in float64, from forward passes of transformers."""
    model = load_model(ModelConfig(name="shapes", device="cpu", dtype="float32"))
    assert isinstance(model, Llava)
    frames = frames_for(model)
    visual = model.encode(frames, build_method(Config()).needs)
    everything, kept = (
        kept_of(visual, model.tokens_per_frame, **settings) for settings in ({"method": "none"}, {"ratio": 0.1})
    )
    # 1. Ours.
    full, compressed = model.read(everything), model.read(kept)
    answer = full.generate(QUESTION, GREEDY)
    assert "".join(answer)
    given_ids = list(answer.ids)
    of_full, of_kept = (reading.force([QUESTION], [given_ids], GREEDY)[0] for reading in (full, compressed))
    vocabulary = of_full.logits.shape[-1]
    reference = Reference.of(given_ids, of_full.logits, of_full.choices, vocabulary)
    found = fidelity(reference, of_kept.logits, of_kept.choices)
    assert fidelity(reference, of_full.logits, of_full.choices) == Fidelity(0.0, 1.0, True)
    assert of_full.choices.tolist() == given_ids
    # 2. The same from stock transformers.
    folder = Path(location(ModelConfig(name="shapes")))
    stock = LlavaOnevisionForConditionalGeneration.from_pretrained(folder, dtype="float64").eval()
    before, after = model._template()
    inputs = stock_inputs(model, frames, before + "<video>" + after.replace("{question}", QUESTION))
    said = torch.tensor([given_ids[:-1]])
    ids = torch.cat([inputs["input_ids"], said], 1)
    prompt = model.prompt(kept, QUESTION)
    rows = torch.cat([prompt.embeddings, model.network.get_input_embeddings()(said)], 1).double()
    with torch.inference_mode():
        p = stock(input_ids=ids, pixel_values_videos=inputs["pixel_values_videos"].double()).logits[0].softmax(-1)
        q = stock(inputs_embeds=rows).logits[0].softmax(-1)
    p, q = p[-len(given_ids) :], q[-len(given_ids) :]
    expected = float((p * (p / q).log()).sum(-1).mean())
    assert expected > 1e-3
    assert found.divergence == pytest.approx(expected, rel=1e-4)
    same = p.argmax(-1) == q.argmax(-1)
    assert (found.agreement, found.same_answer) == (float(same.double().mean()), bool(same.all()))
    coarse = Reference.of(given_ids, of_full.logits, of_full.choices, 8)
    assert 0 < fidelity(coarse, of_kept.logits, of_kept.choices).divergence <= found.divergence
