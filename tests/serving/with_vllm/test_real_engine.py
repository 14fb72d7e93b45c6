"""vLLM in this process gives the ids of our own decoding, for many requests at once."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import aot
from aot.config.schema import GenerationConfig
from aot.errors import ConfigError, ModelError
from aot.models.composed import ComposedModel
from aot.serving.engines.answers import EngineAnswerer
from aot.serving.engines.options import EngineOptions, open_engine
from aot.serving.engines.vllm_here import VllmHere
from aot.shapes.clips import write_clip
from aot.shapes.world import sample_scene

ROOT = Path(__file__).parents[3]
OPTIONS = GenerationConfig(max_new_tokens=60)
SETTINGS = {"dtype": "float32", "enforce_eager": True, "max_model_len": 1024}


@pytest.fixture(scope="module")
def engine(exported: Path) -> Iterator[VllmHere]:
    engine = VllmHere(exported, SETTINGS)
    yield engine
    engine.close()


@pytest.fixture
def answerer(model: ComposedModel, engine: VllmHere) -> EngineAnswerer:
    return EngineAnswerer(model, engine)


def test_a_hundred_answers_have_our_ids(asked: list[Any], answerer: EngineAnswerer) -> None:
    def ids(each: Any) -> list[int]:
        answer = answerer.generate(each.tokens, each.question, OPTIONS)
        text = "".join(answer)
        assert text == answerer._model.tokenizer.decode(answer.ids, skip_special_tokens=True)
        return answer.ids

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(ids, asked))
    assert [each.ids for each in asked] == found
    assert len({tuple(each.ids) for each in asked}) > 20


def test_conversations(asked: list[Any], answerer: EngineAnswerer, shapes: aot.Session) -> None:
    ours, theirs = shapes.converse(asked[0].tokens), answerer.converse(asked[0].tokens, OPTIONS)
    for each in asked[:3]:
        assert "".join(ours.ask(each.question)) == "".join(theirs.ask(each.question))
    assert ours.turns == theirs.turns and len(theirs.turns) == 3


def test_an_answer_that_is_left_ends_in_the_engine(
    asked: list[Any], answerer: EngineAnswerer, engine: VllmHere
) -> None:
    long = GenerationConfig(max_new_tokens=900, min_new_tokens=900)
    pieces = iter(answerer.generate(asked[0].tokens, "what happens?", long))
    next(pieces), next(pieces)
    assert engine._engine.has_unfinished_requests()
    pieces.close()
    deadline = time.monotonic() + 5
    while engine._engine.has_unfinished_requests() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not engine._engine.has_unfinished_requests() and not engine._arriving


def test_penalties_read_the_prompt_as_ours_do(
    asked: list[Any], answerer: EngineAnswerer, model: ComposedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model.network.generation_config, "repetition_penalty", 8.0)
    tokens, changed = asked[0].tokens, 0
    for each in asked[:5]:
        ours, theirs = (source.generate(tokens, each.question, OPTIONS) for source in (model, answerer))
        assert "".join(ours) == "".join(theirs)
        changed += list(ours._words()) != each.ids
    assert changed


def test_prompts_that_are_too_long(asked: list[Any], answerer: EngineAnswerer) -> None:
    with pytest.raises(ConfigError, match="vLLM refuses the prompt"):
        "".join(answerer.generate(asked[0].tokens, "what happens? " * 400, OPTIONS))
    assert "".join(answerer.generate(asked[0].tokens, asked[0].question, OPTIONS))  # the engine goes on


def test_engines_that_do_not_start(exported: Path, tmp_path: Path, model: ComposedModel) -> None:
    with pytest.raises(ConfigError, match=r"--engine-set.*no_such_argument"):
        VllmHere(exported, {"no_such_argument": 1})
    with pytest.raises(ModelError, match="vLLM does not start"):
        VllmHere(tmp_path, SETTINGS)
    (tmp_path / "config.json").write_text('{"hidden_size": 64}')
    with pytest.raises(ConfigError, match="reads 64 values per token, and this checkpoint has 192"):
        open_engine(model, EngineOptions("vllm", folder=tmp_path))


def test_the_command_exports_into_the_cache(tmp_path: Path) -> None:
    write_clip(sample_scene(125), tmp_path / "clip.mp4")
    line = ("ask", "clip.mp4", "what happens?", "--model", "shapes", "--quiet")
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    del variables["VLLM_ENABLE_V1_MULTIPROCESSING"]  # an engine in a process of its own, as users have it
    runs = [
        subprocess.run(
            [sys.executable, "-m", "aot_cli", *line, *more], cwd=tmp_path, env=variables, capture_output=True, text=True
        )
        for more in ((), ("--engine", "vllm"))
    ]
    assert [run.returncode for run in runs] == [0, 0], runs[1].stderr
    assert runs[0].stdout == runs[1].stdout != ""
    (folder,) = (tmp_path / "cache/aot/language-models").iterdir()
    assert folder.name.startswith("shapes-") and (folder / "config.json").exists()
