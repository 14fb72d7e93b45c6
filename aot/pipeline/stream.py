"""A video of any length in constant memory: decoded, encoded and compressed a segment of frames at a time.

The paper's videos are one segment. The budget is exact for every segment, and so for the whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from aot.compression.aot.method import AnchorTransport
from aot.compression.contract import check_encoded, check_tokens, needs_of
from aot.compression.in_llm import outer_config
from aot.compression.methods import Method, build_method
from aot.compression.ops.clips import neighbour_similarity
from aot.compression.ops.grid import pooled_grid
from aot.config.schema import Config, SamplingConfig
from aot.errors import BudgetError, ConfigError
from aot.models.base import VideoModel
from aot.pipeline.frame_selection import FrameSelection, check_questions, select_frames
from aot.plugins import blamed, called, is_plugged_in
from aot.reports.provenance import joined_origins, origin_of
from aot.runtime.memory import explained_memory
from aot.runtime.stages import StageClock, StageProgress, silent
from aot.types import Clip, CompressedTokens, Needs, Provenance, TokenBudget, VideoFrames, VideoInfo, VisualTokens

if TYPE_CHECKING:
    from aot.video import OpenVideo, VideoFile

__all__ = ["EncodedVideo", "SegmentCompressor"]


class TakesSegments(Protocol):
    def add(self, visual: VisualTokens) -> None: ...


class EncodedVideo:
    """A video's tokens before compression, a segment at a time, while a thread decodes the next.

    After `segments`: source and notices; frames, how many the encoder made of the `planned` sampled ones; similarity,
    the cosine of each frame's embedding with the next one's (the features' means where no embedding was asked for);
    selection, where the sampling has frames chosen, by `questions`, before all else. on_frames: is shown every segment
    as the encoder sees it.
    """

    def __init__(
        self,
        source: str | Path | VideoFile,
        model: VideoModel,
        sampling: SamplingConfig,
        needs: Needs,
        clock: StageClock,
        on_progress: StageProgress = silent,
        questions: Sequence[str] = (),
        on_frames: Callable[[VideoFrames], None] | None = None,
    ) -> None:
        check_questions(sampling, questions)
        self._questions = questions
        self._file, self._model, self._sampling, self._needs = source, model, sampling, needs
        self._clock, self._on_progress, self._on_frames = clock, on_progress, on_frames
        self._last: Tensor | None = None
        self._similarity: list[Tensor] = []
        self._sampled = 0
        self.frames, self.planned = 0, 0
        self.similarity: list[float] = []
        self.source: VideoInfo
        self.selection: FrameSelection | None = None
        self.notices: tuple[str, ...] = ()

    def compress(self, compressors: Sequence[TakesSegments]) -> None:
        """Give every segment to all `compressors`; none is held longer.

        Raises:
            VideoError, ConfigError, NumericsError, MemoryLimitError: see `aot.errors`.
        """
        with closing(self.segments()) as segments:
            for visual in segments:
                for compressor in compressors:
                    compressor.add(visual)
                del visual  # before the next segment is made
                self._on_progress("compress", self._sampled, self.planned)

    def segments(self) -> Generator[VisualTokens, None, None]:
        """The tokens of each segment.

        Raises:
            ConfigError: the segments would part frames that the model reads together.
            VideoError, NumericsError, MemoryLimitError: see `aot.errors`.
        """
        from aot.video import open_video  # not above: a tokens file is asked without a decoder

        with explained_memory(), open_video(self._file, self._sampling) as video:
            _check_uncut(len(video.plan.positions), self._sampling, self._model.temporal_patch)
            self._select(video)
            yield from self._encoded(video)

    def _select(self, video: OpenVideo) -> None:
        self.selection = select_frames(
            video,
            self._model,
            self._sampling,
            self._questions,
            self._clock,
            lambda done, planned: self._on_progress("select", done, planned),
        )

    def _encoded(self, video: OpenVideo) -> Generator[VisualTokens, None, None]:
        chosen, length = self.selection, self._sampling.segment_frames
        times = chosen.timestamps_s if chosen else None
        planned = len(times or video.plan.positions)
        size = self._model.frame_size(video.index.info, planned)
        with video.frames(size=size, ahead=length, times_s=times) as stream:
            self.source, self.planned = stream.source, stream.planned
            for frames in stream.segments(length, self._tell_decoded, self._model.temporal_patch):
                with self._clock.stage("encode"):
                    visual = self._model.encode(frames, self._needs, on_frame=self._tell_encoded)
                if self._on_frames is not None:
                    self._on_frames(frames)
                self._sampled += len(frames.timestamps_s)
                self.frames += len(visual.timestamps_s)
                self.notices += tuple(notice for notice in visual.notices if notice not in self.notices)
                self._compare(visual)
                yield visual
                del visual, frames  # before the next are made
            of_selection = (*chosen.notices, chosen.told) if chosen else self._all_frames(stream.planned)
            self.notices = tuple(dict.fromkeys((*of_selection, *stream.notices, *self.notices)))
            self.similarity = torch.cat(self._similarity).tolist()
            self._clock.add("decode", stream.decode_ms)

    def _tell_decoded(self, done: int, planned: int) -> None:
        self._on_progress("decode", done, planned)

    def _all_frames(self, count: int) -> tuple[str, ...]:
        asked = self._sampling.select_frames
        return () if asked is None else (f"--select-frames {asked} is not fewer than the {count} sampled",)

    def _tell_encoded(self, done: int, total: int) -> None:
        self._on_progress("encode", self._sampled + done, self.planned)

    def _compare(self, visual: VisualTokens) -> None:
        embeddings = visual.features.mean(1) if visual.frame_embeddings is None else visual.frame_embeddings
        joined = embeddings if self._last is None else torch.cat([self._last, embeddings])
        self._similarity.append(neighbour_similarity(joined))  # reading would wait for the device
        self._last = embeddings[-1:]


def _check_uncut(frames: int, sampling: SamplingConfig, together: int) -> None:
    length = sampling.segment_frames
    if frames > length and length % together:
        raise ConfigError(
            f"this model reads {together} frames as one, and segments of {length} frames would part them; "
            f"use --segment-frames {max(length - length % together, together)}"
        )


class SegmentCompressor:
    """Keeps of every segment what the method (that of `config` unless given) chooses, exactly the ratio of all frames
    so far, or more where a reduction inside the language model follows. `clock` has the time. traced: `provenance` is
    worked out too, on nobody's clock.

    Raises:
        UnsupportedError: the method needs what the model does not have.
        MethodError: the method is a plug-in and fails.
    """

    def __init__(
        self,
        model: VideoModel,
        config: Config,
        clock: StageClock,
        method: Method | None = None,
        *,
        traced: bool = False,
    ) -> None:
        self._config, self._clock = outer_config(config, model.language_layers), clock
        self._method = method or build_method(self._config)
        self._needs = needs_of(self._method)
        model.check_needs(self._needs)
        self._frames, self._budget = 0, 0
        self._parts: list[CompressedTokens] = []
        self._traced, self._origins = traced, list[Provenance]()

    @property
    def needs(self) -> Needs:
        """What must be recorded of the segments."""
        return self._needs

    def add(self, visual: VisualTokens) -> None:
        """Compress the next segment, without gradients.

        Raises:
            ConfigError, NumericsError, MemoryLimitError: see `aot.errors`.
            MethodError: the method fails or returns something other than it promises.
        """
        self._frames += len(visual.timestamps_s)
        per_frame = math.prod(pooled_grid(visual.grid, visual.pool))
        budget = self._config.token_budget(self._frames, per_frame)
        due, self._budget = budget - self._budget, budget
        method = self._method
        if not isinstance(method, AnchorTransport):  # bears NaN; `check_tokens` looks later
            check_encoded(visual.finite)
        with self._clock.stage("compress"), blamed(method), explained_memory(), torch.no_grad():
            found = method.compress(visual, TokenBudget(due, self._config.ratio))
        total = len(visual.timestamps_s) * per_frame
        self._refuse_excess(found, total)
        tokens = check_tokens(method, found, visual, *self._allowed(due, total))
        deepstack = visual.deepstack
        if deepstack is not None:
            deepstack = deepstack.flatten(1, 2)[:, tokens.place.to(deepstack.device)]
        if self._traced:
            with blamed(method), torch.no_grad():
                self._origins.append(origin_of(tokens))
        self._parts.append(replace(tokens, duration_s=visual.duration_s, deepstack=deepstack, provenance=None))

    def _allowed(self, due: int, total: int) -> tuple[int, int]:
        """The least and the most tokens that the method may keep of a segment of `total`."""
        if not self._config.compresses:
            return total, total
        if not self._config.has_budget:
            return 1, total
        return (due if self._method.card.exact else 1), due

    def _refuse_excess(self, kept: CompressedTokens, total: int) -> None:
        """Published counts of our own methods, in which tokens repeat, may come to more than all tokens.

        Raises:
            BudgetError: they do.
        """
        promised = self._config.has_budget or is_plugged_in(self._method)
        if self._config.compresses and not promised and len(kept.features) > total:
            raise BudgetError(
                f"{called(self._method)} as published keeps {len(kept.features)} tokens of {total}; "
                "use a lower --ratio, or exact budgets"
            )

    def tokens(self) -> CompressedTokens:
        """What was kept of all segments, frames and clips numbered through."""
        return _join(self._parts)

    def provenance(self) -> Provenance | None:
        """What those tokens are made of, on the CPU; None unless it was asked for."""
        return joined_origins(self._origins, self._parts) if self._traced else None


def _join(parts: Sequence[CompressedTokens]) -> CompressedTokens:
    if len(parts) == 1:
        return parts[0]
    deepstack = [part.deepstack for part in parts if part.deepstack is not None]
    firsts = [0, *accumulate(len(part.timestamps_s) for part in parts[:-1])]
    return CompressedTokens(
        features=torch.cat([part.features for part in parts]),
        frame=torch.cat([part.frame + first for part, first in zip(parts, firsts, strict=True)]),
        row=torch.cat([part.row for part in parts]),
        col=torch.cat([part.col for part in parts]),
        role=torch.cat([part.role for part in parts]),
        mass=torch.cat([part.mass for part in parts]),
        grid=parts[0].grid,
        timestamps_s=tuple(time for part in parts for time in part.timestamps_s),
        clips=tuple(
            Clip(first + clip.first, first + clip.stop)
            for part, first in zip(parts, firsts, strict=True)
            for clip in part.clips
        ),
        facts=_join_facts([part.facts for part in parts]),
        duration_s=parts[0].duration_s,
        deepstack=torch.cat(deepstack, 1) if deepstack else None,
    )


def _join_facts(facts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One value where all segments agree, otherwise the least and the most of those that have one."""
    joined: dict[str, Any] = {}
    for name in facts[0]:
        values = [each[name] for each in facts]
        agree = all(value == values[0] for value in values)
        known = [value for value in values if value is not None]
        joined[name] = values[0] if agree else f"{min(known)} to {max(known)}"
    return joined
