"""Ask the full-token model first, and measure how far compressed prompts are from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from aot.config.schema import TowerConfig
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
    found: dict[str, Reference] = {}
    with explained_memory():
        reading = full.model.read(tokens)
        for item in items:
            answer = reading.generate(item.prompt, greedy)
            for _ in answer:
                pass
            forced = reading.force(item.prompt, answer.ids, greedy)
            found[item.fingerprint] = Reference.of(answer.ids, forced.logits, forced.choices)
    return found


def measure(
    pipeline: Pipeline, reading: ModelReading, items: Sequence[Item], references: Mapping[str, Reference]
) -> list[Fidelity]:
    """Return the fidelity of each question; `reading` is that of the kept tokens."""
    measured: list[Fidelity] = []
    for item in items:
        reference = references[item.fingerprint]
        forced = reading.force(item.prompt, reference.answer, pipeline.config.generation)
        measured.append(fidelity(reference, forced.logits, forced.choices))
    return measured
