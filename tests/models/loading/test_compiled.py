"""`--compile`: the same answers from compiled parts."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from aot.config.schema import Config, GenerationConfig, ModelConfig
from aot.models import load_model
from aot.models.families.llava import Llava
from aot.types import Needs
from tests.support.compressed import compress_frames
from tests.support.model_inputs import QUESTION, frames_for

OPTIONS = GenerationConfig(max_new_tokens=12)
needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="this machine has no C++ compiler"
)


def compiled(folder: Path) -> Any:
    return load_model(ModelConfig(name=str(folder), device="cpu", dtype="float32", compile=True))


@needs_compiler
@pytest.mark.filterwarnings("ignore")  # of torch's own
def test_compiled_parts_answer_the_same(small_folder: Path, small_model: Llava) -> None:
    """Frames and prompts of other lengths use what was compiled when the model was loaded."""
    model = compiled(small_folder)
    assert model.notices == small_model.notices
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert before
    for frames in (3, 4):
        needs = Needs((2, -1), (-1,))
        found, expected = (each.encode(frames_for(each, frames), needs) for each in (model, small_model))
        torch.testing.assert_close(found.features, expected.features, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.saliency[2], expected.saliency[2], rtol=1e-4, atol=1e-5)
        kept = [compress_frames(each, frames_for(each, frames), Config(ratio=0.3)) for each in (model, small_model)]
        answers = [
            "".join(each.generate(tokens, QUESTION, OPTIONS))
            for each, tokens in zip((model, small_model), kept, strict=True)
        ]
        assert answers[0] == answers[1]
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == before
