"""Running conditions over a data set: every video is decoded and encoded once for all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from aot.evaluation.conditions import Condition
from aot.evaluation.dataset import Item, by_video, fingerprint
from aot.evaluation.journal import Answered, Journal
from aot.evaluation.results import Results, summarise
from aot.evaluation.scoring import score
from aot.memory import explained_memory
from aot.methods import build_method
from aot.models import VideoModel
from aot.pipeline import StageClock, compress_tokens, encode_video
from aot.report import versions
from aot.types import CompressedTokens, Needs, VisualTokens

__all__ = ["evaluate"]

Progress = Callable[[int, int], None]  # (done, total), in videos times conditions


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
        ConfigError: `folder` holds answers of another run, or a ratio leaves too little of a video.
        VideoError, MemoryLimitError, NumericsError: a video cannot be read, or what it gives cannot be used.
        OutputError: `folder` cannot be written to.
    """
    journal = Journal(folder, _description(items, model, conditions), restart=restart)
    videos = by_video(items)
    total = len(videos) * len(conditions)
    for number, (video, asked) in enumerate(videos.items()):
        missing = [(each, left) for each in conditions if (left := journal.missing(each.key, asked))]
        done = (number + 1) * len(conditions) - len(missing)
        on_progress(done, total)
        for extra, answers in enumerate(_answer_video(video, model, missing), 1):
            journal.add(answers)
            on_progress(done + extra, total)
    return summarise(items, conditions, journal.done)


def _description(items: Sequence[Item], model: VideoModel, conditions: Sequence[Condition]) -> dict[str, object]:
    """What the answers depend on, and so must not change between them."""
    shared = conditions[0].config.to_dict()
    del shared["model"]["offline"]
    return {
        "data": fingerprint(items),
        "model": {"name": model.identity.name, "fingerprint": model.identity.fingerprint},
        "config": {part: shared[part] for part in ("sampling", "model", "generation")},
        "versions": versions(),
        "conditions": {
            each.key: {part: each.config.to_dict()[part] for part in ("method", "ratio", "aot", "random")}
            for each in conditions
        },
    }


def _answer_video(
    video: Path, model: VideoModel, missing: Sequence[tuple[Condition, Sequence[Item]]]
) -> Iterator[list[Answered]]:
    """The missing answers of each condition, from one encoding that has all that any of the methods needs."""
    if not missing:
        return
    clock = StageClock(torch.device(model.placement["device"]))
    needs = _union([build_method(condition.config).needs for condition, _ in missing])
    _, visual = encode_video(video, model, missing[0][0].config.sampling, needs, clock)
    for condition, items in missing:
        yield _answer(items, model, condition, visual, clock)


def _union(needs: Sequence[Needs]) -> Needs:
    layers = sorted({layer for need in needs for layer in need.saliency_layers})
    return Needs(tuple(layers), any(need.frame_embeddings for need in needs))


def _answer(
    items: Sequence[Item], model: VideoModel, condition: Condition, visual: VisualTokens, clock: StageClock
) -> list[Answered]:
    config = condition.config
    tokens = compress_tokens(visual, model, config, clock)
    with explained_memory():
        first, first_token_ms, answer_ms = _timed_answer(model, tokens, items[0], condition)
        others = model.answers(tokens, [item.prompt for item in items[1:]], config.generation)
    frames = len(visual.features)
    shared = Answered(
        video=items[0].video.name,
        condition=condition.key,
        id="",
        predicted="",
        score=0.0,
        kept_tokens=len(tokens.features),
        visual_tokens=frames * model.tokens_per_frame,
        budget_tokens=config.token_budget(frames, model.tokens_per_frame) if config.is_exact else None,
        decode_ms=clock.stage_ms["decode"],
        encode_ms=clock.stage_ms["encode"],
        compress_ms=clock.stage_ms["compress"],
        first_token_ms=first_token_ms,
        answer_ms=answer_ms,
    )
    predictions = zip(items, [first, *others], strict=True)
    return [replace(shared, id=item.id, predicted=text, score=score(item, text)) for item, text in predictions]


def _timed_answer(
    model: VideoModel, tokens: CompressedTokens, item: Item, condition: Condition
) -> tuple[str, float, float]:
    """One answer as `aot ask` gives it, and milliseconds to its first token and to its end."""
    start = time.perf_counter()
    answer = model.generate(tokens, item.prompt, condition.config.generation)
    text = "".join(answer)
    end = time.perf_counter()
    return text, ((answer.first_token_at or end) - start) * 1e3, (end - start) * 1e3
