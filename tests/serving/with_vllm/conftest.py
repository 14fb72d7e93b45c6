"""Tests with vLLM itself. They run in an environment of its own (.ci/engines-vllm); elsewhere none is collected."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

import aot
from aot.config.schema import GenerationConfig
from aot.models.composed import ComposedModel
from aot.models.language.answer import StreamedAnswer
from aot.serving.engines.export import export_language_model
from aot.shapes.clips import write_clip
from aot.shapes.questions import questions
from aot.shapes.world import sample_scene
from aot.types import CompressedTokens

collect_ignore_glob = [] if find_spec("vllm") else ["test_*.py"]

# In this process, and little memory: both are read when vLLM is imported.
os.environ.update(VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_CPU_KVCACHE_SPACE="1", VLLM_NO_USAGE_STATS="1")
CLIPS, PER_CLIP = 20, 5
OPTIONS = GenerationConfig(max_new_tokens=60)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.filterwarnings("default"))  # vLLM has warnings of its own


@dataclass(frozen=True)
class Asked:
    """A question about a drawn clip, and the ids of our own answer."""

    tokens: CompressedTokens
    question: str
    ids: list[int]


@pytest.fixture(scope="session")
def shapes() -> aot.Session:
    return aot.Session(model={"name": "shapes", "device": "cpu", "dtype": "float32"}, ratio=0.1)


@pytest.fixture(scope="session")
def model(shapes: aot.Session) -> ComposedModel:
    found = shapes.pipeline.model
    assert isinstance(found, ComposedModel)
    return found


@pytest.fixture(scope="session")
def asked(shapes: aot.Session, model: ComposedModel, tmp_path_factory: pytest.TempPathFactory) -> list[Asked]:
    """Five questions about each of 20 drawn clips."""
    folder, found = tmp_path_factory.mktemp("clips"), list[Asked]()
    for seed in range(CLIPS):
        scene = sample_scene(seed)
        write_clip(scene, folder / f"{seed}.mp4")
        tokens = shapes.compress(folder / f"{seed}.mp4").tokens
        every = [qa.question for qa in questions(scene)]
        for question in every[:: max(1, len(every) // PER_CLIP)][:PER_CLIP]:
            answer = model.generate(tokens, question, OPTIONS)
            assert isinstance(answer, StreamedAnswer)
            found.append(Asked(tokens, question, list(answer._words())))
    assert len(found) == CLIPS * PER_CLIP
    return found


@pytest.fixture(scope="session")
def exported(model: ComposedModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("language-model")
    export_language_model(model, folder)
    yield folder
