"""Run conditions over a data set; they share the decoding and encoding of a video if possible."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from aot.compression.in_llm import InnerReduction, build_inner, outer_config
from aot.config.schema import Config
from aot.errors import AOTError, BudgetError, MethodError, UnsupportedError, VideoError
from aot.evaluation.conditions import Condition
from aot.evaluation.dataset import Item, by_video
from aot.evaluation.folder_lock import locked
from aot.evaluation.journal import Journal
from aot.evaluation.journal_reader import Answered
from aot.evaluation.results import Results, summarise
from aot.evaluation.scoring import score
from aot.evaluation.witness import Seen, Witness
from aot.models import VideoModel
from aot.pipeline.frame_selection import check_questions
from aot.pipeline.stream import EncodedVideo, SegmentCompressor
from aot.reports.retention import language_model_load, versions
from aot.runtime.atomic_writes import make_folder
from aot.runtime.memory import explained_memory
from aot.runtime.peak_memory import PeakMemory, peak_memory
from aot.runtime.stages import StageClock
from aot.types import CompressedTokens, Needs, VisualTokens
from aot.video import VideoFile, probe

__all__ = ["Refusal", "answer_video", "evaluate"]

_MOST_PROBLEMS = 10

Progress = Callable[[int, int], None]  # (done, total), in videos times conditions


def evaluate(
    items: Sequence[Item],
    model: VideoModel,
    conditions: Sequence[Condition],
    folder: Path,
    *,
    restart: bool = False,
    on_progress: Progress = lambda done, total: None,
    on_notice: Callable[[str], None] = lambda notice: None,
) -> Results:
    """Answer every item under every condition and summarize the answers.

    Answers that `folder` already holds are reused; with `restart`, they are discarded once the
    first new answer exists. A condition is left out with a notice if its method refuses the budget
    of a video or the model, fails, or breaks its contract (`aot.compression.contract`).

    Args:
        items: the questions.
        model: answers them.
        conditions: share frames, model and generation settings.
        folder: of the results; it is created if needed and locked meanwhile.
        restart: discard earlier answers.
        on_progress: receives (done, total), in videos times conditions.
        on_notice: receives sentences for the user.

    Raises:
        ConfigError: If `folder` holds answers of a different run, no condition can be met, or
            frames are to be selected by a question, although all questions share one encoding.
        VideoError: If videos cannot be opened, which is checked before the first answer, or one
            does not decode.
        MemoryLimitError, NumericsError: If a video needs too much memory or gives invalid values.
        OutputError: If `folder` cannot be written to, or another run writes to it.
    """
    check_questions(conditions[0].config.sampling, ())
    make_folder(folder)
    with locked(folder):
        journal = Journal(folder, _description(model, conditions), restart=restart)
        met = _answer_missing(items, model, conditions, journal, on_progress, on_notice)
    found = {each.key: [row for item in items if (row := journal.answer(each.key, item))] for each in met}
    return summarise(items, met, found)


def _answer_missing(
    items: Sequence[Item],
    model: VideoModel,
    conditions: Sequence[Condition],
    journal: Journal,
    on_progress: Progress,
    on_notice: Callable[[str], None],
) -> list[Condition]:
    """Answer what the journal lacks; return the conditions that were not refused."""
    # 1. What is missing, by video and condition.
    videos = by_video(items)
    missing = {
        video: [(each, left) for each in conditions if (left := journal.missing(each.key, asked))]
        for video, asked in videos.items()
    }
    _check_videos([video for video, left in missing.items() if left])
    total = len(videos) * len(conditions)
    # 2. Answer it video by video; a refused condition is not tried on further videos.
    refused: dict[str, AOTError] = {}
    for number, (video, undone) in enumerate(missing.items(), 1):
        done = number * len(conditions) - len(undone)
        on_progress(done, total)
        wanted = [each for each in undone if each[0].key not in refused]
        for extra, answers in enumerate(answer_video(video, model, wanted, on_notice), 1):
            if isinstance(answers, Refusal):
                refused[answers.condition.key] = answers.error
                on_notice(f"{answers.condition.key} is left out: {answers.error}")
            else:
                journal.add(answers)
            on_progress(done + extra, total)
    met = [each for each in conditions if each.key not in refused]
    if not met:
        raise next(iter(refused.values()))
    return met


def _check_videos(videos: Sequence[Path]) -> None:
    """Raise one error for all videos that cannot be opened, before hours of work."""
    problems = []
    for video in videos:
        try:
            probe(video)
        except VideoError as error:
            problems.append(str(error))
    if problems:
        more = f"; and {len(problems) - _MOST_PROBLEMS} more" if len(problems) > _MOST_PROBLEMS else ""
        raise VideoError("; ".join(problems[:_MOST_PROBLEMS]) + more)


def _description(model: VideoModel, conditions: Sequence[Condition]) -> dict[str, object]:
    """Return everything that the answers depend on, which must not change within a folder."""
    shared = conditions[0].config.to_dict()
    # These two limits cannot change an answer.
    del shared["model"]["offline"]
    del shared["sampling"]["max_input_mb"]
    return {
        "model": {"name": model.identity.name, "fingerprint": model.identity.fingerprint},
        "config": {part: shared[part] for part in ("sampling", "model", "generation")},
        "versions": versions(),
        "conditions": {
            each.key: {part: each.config.to_dict()[part] for part in ("method", "ratio", "aot", "methods", "inner")}
            for each in conditions
        },
    }


@dataclass(frozen=True, slots=True)
class Refusal:
    """A condition that cannot be met, with the reason."""

    condition: Condition
    error: AOTError


def answer_video(
    video: Path | VideoFile,
    model: VideoModel,
    missing: Sequence[tuple[Condition, Sequence[Item]]],
    on_notice: Callable[[str], None],
    *,
    measure_memory: bool = False,
    witness: Witness | None = None,
) -> Iterator[list[Answered] | Refusal]:
    """Yield the missing answers of each condition on one video, or its refusal.

    One encoding serves all conditions that merge in the same way inside the tower, or not at all.

    Args:
        video: the video.
        model: answers the questions.
        missing: for each condition, the items to answer.
        on_notice: receives sentences for the user.
        measure_memory: whether to measure the peak memory of answering, which takes time.
        witness: records what was kept, if given.

    Raises:
        VideoError, MemoryLimitError, NumericsError: See `aot.errors`.
    """
    attempts = [_Attempt(condition, items, model, witness) for condition, items in missing]
    yield from (each.refusal for each in attempts if each.refusal)
    waiting = [each for each in attempts if not each.refusal]
    while waiting:
        merging = waiting[0].needs.merging
        alike = [each for each in waiting if each.needs.merging == merging]
        waiting = [each for each in waiting if each.needs.merging != merging]
        yield from _answer_encoding(video, model, alike, on_notice, measure_memory, witness)


def _answer_encoding(
    video: Path | VideoFile,
    model: VideoModel,
    attempts: Sequence[_Attempt],
    on_notice: Callable[[str], None],
    measure_memory: bool,
    witness: Witness | None,
) -> Iterator[list[Answered] | Refusal]:
    """Yield the missing answers of each attempt, from one encoding."""
    # 1. Encode once with everything that any attempt needs, and compress for all of them.
    clock = StageClock(torch.device(model.placement["device"]))
    questions = list(dict.fromkeys(item.prompt for each in attempts for item in each.items))
    needs = Needs.union(each.needs for each in attempts)
    sampling = attempts[0].condition.config.sampling
    on_frames = witness.pictures.add if witness and not witness.seen else None
    encoded = EncodedVideo(video, model, sampling, needs, clock, questions=questions, on_frames=on_frames)
    try:
        encoded.compress(attempts)
    except (UnsupportedError, MethodError) as error:  # merging inside the tower is refused or broken
        yield from (Refusal(attempt.condition, error) for attempt in attempts)
        return
    # 2. Answer.
    for notice in encoded.notices:
        on_notice(f"{video.name}: {notice}")
    for attempt in attempts:
        answers = attempt.answer(encoded, clock.stage_ms, measure_memory, on_notice)
        yield attempt.refusal or answers


class _Attempt:
    """One condition on one video; after a refusal or a failure of its method it does nothing."""

    def __init__(self, condition: Condition, items: Sequence[Item], model: VideoModel, witness: Witness | None) -> None:
        self.condition, self.items, self._model, self._witness = condition, items, model, witness
        self._clock = StageClock(torch.device(model.placement["device"]))
        self.refusal: Refusal | None = None
        with self._refused():
            self._compressor = SegmentCompressor(model, condition.config, self._clock, traced=witness is not None)

    @property
    def needs(self) -> Needs:
        """Return what the method needs from the encoder."""
        return self._compressor.needs

    def add(self, visual: VisualTokens) -> None:
        """Compress the next chunk."""
        if self.refusal is None:
            with self._refused():
                self._compressor.add(visual)

    def answer(
        self, video: EncodedVideo, stage_ms: Mapping[str, float], measure_memory: bool, on_notice: Callable[[str], None]
    ) -> list[Answered]:
        """Return the answers to all items; empty after a refusal."""
        if self.refusal is None:
            with self._refused():
                times, tokens = {**stage_ms, **self._clock.stage_ms}, self._compressor.tokens()
                self._testify(tokens, video)
                return _answer(
                    self.items, self._model, self.condition, tokens, video.frames, times, measure_memory, on_notice
                )
        return []

    def _testify(self, tokens: CompressedTokens, video: EncodedVideo) -> None:
        """Record what was kept in the witness, if there is one."""
        origin = self._compressor.provenance()
        if self._witness is not None and origin is not None:
            self._witness.source = video.source
            self._witness.seen[self.condition.key] = Seen(tokens, origin, video.similarity)

    @contextmanager
    def _refused(self) -> Iterator[None]:
        try:
            yield
        except (BudgetError, UnsupportedError, MethodError) as error:
            self.refusal = Refusal(self.condition, error)


def _answer(
    items: Sequence[Item],
    model: VideoModel,
    condition: Condition,
    tokens: CompressedTokens,
    frames: int,
    stage_ms: Mapping[str, float],
    measure_memory: bool,
    on_notice: Callable[[str], None],
) -> list[Answered]:
    """Answer all items from the kept tokens; the first answer is timed, the others are batched."""
    config = condition.config
    inner = build_inner(config, model.language_layers)
    outer = outer_config(config, model.language_layers)
    per_frame = math.prod(tokens.grid)
    visual_tokens = frames * per_frame
    with explained_memory():
        first = _timed_answer(model, tokens, items[0], config, inner, measure_memory)
        for notice in first.notices:
            on_notice(notice)
        others = model.read(tokens, inner).answers([item.prompt for item in items[1:]], config.generation)
    return [
        Answered(
            item=item.fingerprint,
            video=item.video.name,
            question=item.question,
            answer=item.answer,
            condition=condition.key,
            predicted=text,
            score=score(item, text),
            kept_tokens=len(tokens.features),
            visual_tokens=visual_tokens,
            budget_tokens=outer.token_budget(frames, per_frame) if outer.has_budget else None,
            language_model_load=language_model_load(first.layer_tokens, visual_tokens),
            decode_ms=stage_ms["decode"],
            encode_ms=stage_ms["encode"],
            compress_ms=stage_ms["compress"],
            first_token_ms=first.first_token_ms,
            answer_ms=first.answer_ms,
            answer_bytes=first.peak_bytes,
        )
        for item, text in zip(items, [first.text, *others], strict=True)
    ]


@dataclass(frozen=True, slots=True)
class _First:
    """One answer like that of `aot ask`, with its times and the visual tokens in each layer."""

    text: str
    first_token_ms: float
    answer_ms: float
    layer_tokens: tuple[int, ...]
    notices: tuple[str, ...]
    peak_bytes: int | None


def _timed_answer(
    model: VideoModel,
    tokens: CompressedTokens,
    item: Item,
    config: Config,
    inner: InnerReduction | None,
    measure_memory: bool,
) -> _First:
    """Answer one question alone and measure it."""
    device = torch.device(model.placement["device"])
    with peak_memory(device) if measure_memory else nullcontext(PeakMemory()) as peak:
        start = time.perf_counter()
        answer = model.generate(tokens, item.prompt, config.generation, inner)
        text = "".join(answer)
        end = time.perf_counter()
    first_token_ms = ((answer.first_token_at or end) - start) * 1e3
    peak_bytes = peak.device if device.type == "cuda" else peak.host
    return _First(text, first_token_ms, (end - start) * 1e3, answer.layer_tokens, answer.notices, peak_bytes)
