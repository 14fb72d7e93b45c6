"""Ask the full-token model first, and measure how far compressed prompts are from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from aot.config.schema import GenerationConfig, TowerConfig
from aot.evaluation.dataset import Item
from aot.evaluation.fidelity import Fidelity, Reference, fidelity
from aot.models.base import ModelReading
from aot.pipeline.run import Pipeline
from aot.runtime.memory import explained_memory
from aot.types import CompressedTokens

__all__ = ["full_pipeline", "measure", "read_references"]


def full_pipeline(pipeline: Pipeline) -> Pipeline:
    """Return the pipeline of the full-token model, in which nothing is reduced."""
    config = pipeline.config
    inner = replace(config.inner, name=None)
    return Pipeline(pipeline.model, replace(config, method="none", inner=inner, tower=TowerConfig()))


def read_references(full: Pipeline, tokens: CompressedTokens, items: Sequence[Item]) -> dict[str, Reference]:
    """Return the full-token model's greedy answer to each question, by the item's fingerprint.

    Each question is answered alone, so that the answer does not depend on the other questions.
    """
    greedy = replace(full.config.generation, temperature=0.0)
    questions = [item.prompt for item in items]
    with explained_memory():
        reading = full.model.read(tokens)
        answers = [_answer(reading, question, greedy) for question in questions]
        forced = reading.force(questions, answers, greedy)
    return {
        item.fingerprint: Reference.of(answer, along.logits, along.choices)
        for item, answer, along in zip(items, answers, forced, strict=True)
    }


def _answer(reading: ModelReading, question: str, options: GenerationConfig) -> Sequence[int]:
    """Return the ids of the answer to one question."""
    answer = reading.generate(question, options)
    for _ in answer:
        pass
    return answer.ids


def measure(
    pipeline: Pipeline, reading: ModelReading, items: Sequence[Item], references: Mapping[str, Reference]
) -> list[Fidelity]:
    """Return the fidelity of each question; `reading` is that of the kept tokens."""
    own = [references[item.fingerprint] for item in items]
    answers = [reference.answer for reference in own]
    forced = reading.force([item.prompt for item in items], answers, pipeline.config.generation)
    return [fidelity(reference, along.logits, along.choices) for reference, along in zip(own, forced, strict=True)]
