"""Predictions along a given answer are those of decoding it, in all families, with reductions and rules."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from aot.compression.in_llm import InnerReduction
from aot.compression.in_llm.fastv import FastV
from aot.config.schema import GenerationConfig, ModelConfig
from aot.evaluation.fidelity import Reference, fidelity
from aot.models import load_model
from aot.types import CompressedTokens, Needs
from tests.models.families.test_family_waits import FAMILIES
from tests.models.families.test_family_waits import all_of as of_visual
from tests.support.keep_all import KeepAll
from tests.support.model_inputs import frames_for
from tests.support.qwen_inputs import frames_of

OPTIONS = GenerationConfig(max_new_tokens=9, min_new_tokens=5)
QUESTION, OTHER = "What moves?", "Is it red, or blue?"
ALIKE = {"atol": 2e-4, "rtol": 1e-4}


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = FAMILIES[request.param](tmp_path_factory.mktemp("family"))
    return load_model(ModelConfig(name=str(folder), device="cpu", dtype="float32"))


def all_of(model: Any) -> CompressedTokens:
    frames = frames_of((64, 48), 8) if model.temporal_patch > 1 else frames_for(model)
    return of_visual(model.encode(frames, Needs()))


def half_of(tokens: CompressedTokens) -> CompressedTokens:
    """Every other token."""
    names = ("features", "frame", "row", "col", "role", "mass")
    deepstack = None if tokens.deepstack is None else tokens.deepstack[:, ::2]
    return replace(tokens, **{name: getattr(tokens, name)[::2] for name in names}, deepstack=deepstack, sources=None)


def written(model: Any, tokens: CompressedTokens, inner: InnerReduction | None = None) -> list[int]:
    answer = model.generate(tokens, QUESTION, OPTIONS, inner)
    assert "".join(answer) is not None
    return list(answer.ids)


@torch.inference_mode()
def test_along_any_answer_as_in_one_pass_over_everything(model: Any) -> None:
    everything = all_of(model)
    tokens = half_of(everything)
    given = written(model, everything)
    reading = model.read(tokens)
    found = reading.force([QUESTION], [given], OPTIONS)[0]
    # Questions read together do not affect each other, and leave no rows in the common cache.
    together = reading.force([OTHER, QUESTION], [given[:2], given], OPTIONS)
    alone = reading.force([OTHER], [given[:2]], OPTIONS)[0]
    torch.testing.assert_close(together[0].logits, alone.logits, **ALIKE)
    torch.testing.assert_close(together[1].logits, found.logits, **ALIKE)
    again = reading.force([QUESTION], [given], OPTIONS)[0]
    assert torch.equal(found.logits, again.logits)
    prompt = model.prompt(tokens, QUESTION)
    said = torch.tensor([given[:-1]])
    whole = prompt.followed_by(said, model.network.get_input_embeddings()(said))
    states = model.language(**whole.language_inputs(), use_cache=False).last_hidden_state[0, -len(given) :]
    expected = model.network.get_output_embeddings()(states)
    torch.testing.assert_close(found.logits, expected, **ALIKE)


@pytest.mark.parametrize("inner", [None, FastV(1, 0.5)])
def test_along_its_own_answer_the_choices_are_the_answer(model: Any, inner: InnerReduction | None) -> None:
    tokens = half_of(all_of(model))
    given = written(model, tokens, inner)
    assert len(given) >= OPTIONS.min_new_tokens
    forced = model.read(tokens, inner).force([QUESTION], [given], OPTIONS)[0]
    assert forced.choices.tolist() == given
    one = model.read(tokens, inner).force([QUESTION], [given[:1]], OPTIONS)[0]
    torch.testing.assert_close(one.logits, forced.logits[:1], **ALIKE)


def test_nothing_dropped_is_no_divergence(model: Any) -> None:
    """Also if every layer is called on its own."""
    tokens = all_of(model)
    given = written(model, tokens)
    full = model.read(tokens).force([QUESTION], [given], OPTIONS)[0]
    reference = Reference.of(given, full.logits, full.choices)
    for inner in (None, KeepAll()):
        forced = model.read(tokens, inner).force([QUESTION], [given], OPTIONS)[0]
        near = fidelity(reference, forced.logits, forced.choices)
        assert near.divergence < 1e-8
        assert (near.agreement, near.same_answer) == (1.0, True)
        assert near.divergence == 0 or inner
    dropped = model.read(tokens, FastV(1, 0.1)).force([QUESTION], [given], OPTIONS)[0]
    assert fidelity(reference, dropped.logits, dropped.choices).divergence > 1e-6


def test_choices_follow_the_rules_of_the_checkpoint(small_folder: Path, copied: Callable[..., Path]) -> None:
    folder = copied(small_folder, suppress_tokens=[50, 52], no_repeat_ngram_size=1)
    model: Any = load_model(ModelConfig(name=str(folder), device="cpu", dtype="float32"))
    given = written(model, all_of(model))
    forced = model.read(all_of(model)).force([QUESTION], [given], OPTIONS)[0]
    assert forced.choices.tolist() == given != forced.logits.argmax(-1).tolist()


@pytest.fixture
def copied(tmp_path: Path) -> Callable[..., Path]:
    def copy(folder: Path, **settings: object) -> Path:
        for path in folder.iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes())
        path = tmp_path / "generation_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | settings))
        return tmp_path

    return copy
