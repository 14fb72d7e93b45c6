"""One model object serves many threads: each gets what it gets alone, and what is left early stops."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from aot.config.schema import Config, GenerationConfig, InnerConfig, SamplingConfig
from aot.models import VideoModel
from aot.models.families.llava import Llava
from aot.models.language import answer as module
from aot.types import CompressedTokens
from tests.support.compressed import compress_frames
from tests.support.model_inputs import frames_for
from tests.support.overlap import asked

THREADS = 8
ROUNDS = 3
QUESTION = "What moves?"
GREEDY = GenerationConfig(max_new_tokens=8)
SAMPLED = GenerationConfig(max_new_tokens=8, temperature=1.0, seed=7)
# The default; keys of a block; a reduction inside the language model; pooling attention and embeddings; words drawn.
CONFIGS = {
    "aot": Config(ratio=0.2, generation=GREEDY),
    "keys": Config(ratio=0.2, method="visionzip", generation=GREEDY),
    "inner": Config(ratio=0.6, method="uniform", inner=InnerConfig("fastv"), generation=GREEDY),
    "embeddings": Config(ratio=0.2, method="fastvid", generation=GREEDY),
    "sampled": Config(ratio=0.2, generation=SAMPLED),
}


@pytest.fixture(autouse=True)
def restless() -> Iterator[None]:
    """Threads take over from each other far more often than usual."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def result(model: VideoModel, clip: Path, name: str, start_s: float, *, leave: bool = False) -> tuple[Tensor, str]:
    """The features kept of one second of the clip and the answer, or its first piece."""
    config = replace(CONFIGS[name], sampling=SamplingConfig(frames=4, start_s=start_s, end_s=start_s + 1))
    tokens, text = asked(model, clip, config, QUESTION, leave=leave)
    return tokens.features, text


def test_every_thread_gets_what_it_gets_alone(small_model: Llava, clip_file: Path) -> None:
    jobs = [(name, start_s) for name in CONFIGS for start_s in (0.0, 1.0)]
    alone = {job: result(small_model, clip_file, *job) for job in jobs}
    assert len({text for _, text in alone.values()}) > 2

    def work(number: int) -> None:
        for round_ in range(ROUNDS):
            job = jobs[(number + round_ * 3) % len(jobs)]
            leave = (number + round_) % 4 == 3
            features, text = result(small_model, clip_file, *job, leave=leave)
            expected = alone[job]
            assert torch.equal(features, expected[0])
            assert expected[1].startswith(text) if leave else text == expected[1]

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(work, range(THREADS)))


# --- Left early


class Slow:
    """A language model whose forward passes wait at a gate, and count how many run at once."""

    def __init__(self, language: Any) -> None:
        self.forward, self.gate = language.forward, threading.Event()
        self.running, self.most, self.begun = 0, 0, threading.Event()

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        self.running += 1
        self.most = max(self.most, self.running)
        self.begun.set()
        self.gate.wait(60)
        try:
            return self.forward(*arguments, **named)
        finally:
            self.running -= 1


@pytest.fixture
def tokens(small_model: Llava) -> CompressedTokens:
    return compress_frames(small_model, frames_for(small_model), Config(ratio=0.2))


@pytest.mark.parametrize("again", ["another", "the same", "several"])
def test_no_answer_begins_next_to_one_that_was_left(small_model: Llava, tokens: CompressedTokens, again: str) -> None:
    expected = "".join(small_model.generate(tokens, QUESTION, GREEDY))
    slow = Slow(small_model.language)

    class Interrupted(SimpleQueue[object]):
        def get(self, block: bool = True, timeout: float | None = None) -> object:
            assert slow.begun.wait(60)
            raise KeyboardInterrupt

    with patch.object(small_model.language, "forward", slow), patch.object(module, "_PATIENCE_S", 0.05):
        reply = small_model.generate(tokens, QUESTION, GREEDY)
        with patch.object(module, "SimpleQueue", Interrupted), pytest.raises(KeyboardInterrupt):
            list(reply)
        assert slow.running == 1  # the prompt is still being read
        threading.Timer(0.3, slow.gate.set).start()
        found = {
            "another": lambda: "".join(small_model.generate(tokens, QUESTION, GREEDY)),
            "the same": lambda: "".join(reply),
            "several": lambda: small_model.read(tokens).answers([QUESTION], GREEDY)[0],
        }[again]()
    assert found == expected
    assert slow.most == 1


def test_leaving_stops_the_answer(small_model: Llava, tokens: CompressedTokens) -> None:
    long = GenerationConfig(max_new_tokens=400, min_new_tokens=400)
    reply = small_model.generate(tokens, QUESTION, long)
    for _ in reply:
        break
    assert 0 < reply.output_tokens < 400
    assert not [thread for thread in threading.enumerate() if thread.name == "aot-answer"]
