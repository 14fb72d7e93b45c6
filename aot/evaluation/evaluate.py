"""Running conditions over a data set: every video is decoded and encoded once for all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from aot.errors import NumericsError
from aot.evaluation.conditions import Condition
from aot.evaluation.dataset import Item, fingerprint, videos_of
from aot.evaluation.journal import Answered, Journal
from aot.evaluation.results import Results, summarise
from aot.evaluation.scoring import score
from aot.memory import explained_memory
from aot.methods import build_method
from aot.models import VideoModel
from aot.types import Needs, VisualTokens
from aot.video import decode

__all__ = ["evaluate"]

Progress = Callable[[int, int], None]  # (done, total), in videos


def evaluate(
    items: Sequence[Item],
    model: VideoModel,
    conditions: Sequence[Condition],
    folder: Path,
    *,
    restart: bool = False,
    on_progress: Progress = lambda done, total: None,
) -> Results:
    """Answer every item under every condition; what `folder` already holds is not done again.

    Raises:
        ConfigError: `folder` holds answers of another run.
        VideoError, MemoryLimitError, NumericsError: a video cannot be read, or what it gives cannot be used.
    """
    journal = Journal(folder, _description(items, model, conditions), restart=restart)
    videos = videos_of(items)
    for done, video in enumerate(videos):
        on_progress(done, len(videos))
        missing = journal.lacks(str(video), [condition.key for condition in conditions])
        wanted = [condition for condition in conditions if condition.key in missing]
        if wanted:
            _answer_video(video, [item for item in items if item.video == video], model, wanted, journal)
    on_progress(len(videos), len(videos))
    return summarise(items, conditions, journal.done)


def _description(items: Sequence[Item], model: VideoModel, conditions: Sequence[Condition]) -> dict[str, object]:
    shared = conditions[0].config.to_dict()
    return {
        "data": fingerprint(items),
        "model": {"name": model.identity.name, "fingerprint": model.identity.fingerprint},
        "config": {part: shared[part] for part in ("sampling", "model", "generation")},
        "conditions": {condition.key: condition.config.to_dict() for condition in conditions},
    }


def _answer_video(
    video: Path, items: Sequence[Item], model: VideoModel, conditions: Sequence[Condition], journal: Journal
) -> None:
    with explained_memory():
        visual = _encode(video, model, conditions)
        for condition in conditions:
            journal.add(_answer(video, items, model, condition, visual))


def _encode(video: Path, model: VideoModel, conditions: Sequence[Condition]) -> VisualTokens:
    """The video's tokens with all that any of the methods needs."""
    frames = decode(video, conditions[0].config.sampling, size=model.image_size)
    needs = [build_method(condition.config).needs for condition in conditions]
    layers = sorted({layer for need in needs for layer in need.saliency_layers})
    return model.encode(frames, Needs(tuple(layers), any(need.frame_embeddings for need in needs)))


def _answer(
    video: Path, items: Sequence[Item], model: VideoModel, condition: Condition, visual: VisualTokens
) -> Answered:
    config = condition.config
    total = len(visual.features) * model.tokens_per_frame
    start = time.perf_counter()
    tokens = build_method(config).compress(visual, config.token_budget(len(visual.features), model.tokens_per_frame))
    if not torch.isfinite(tokens.features).all():
        raise NumericsError(f"compressing {video} by {condition.key} overflowed; leave that condition out")
    compressed = time.perf_counter()
    predicted = model.answers(tokens, [item.prompt for item in items], config.generation)
    return Answered(
        video=str(video),
        condition=condition.key,
        kept_tokens=len(tokens.features),
        visual_tokens=total,
        compress_ms=(compressed - start) * 1e3,
        answer_ms=(time.perf_counter() - compressed) * 1e3,
        ids=tuple(item.id for item in items),
        predicted=tuple(predicted),
        scores=tuple(score(item, text) for item, text in zip(items, predicted, strict=True)),
    )
