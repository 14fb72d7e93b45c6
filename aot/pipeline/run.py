"""Compress videos and answer questions about them, for the commands and the Python API."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from aot.compression.contract import needs_of
from aot.compression.in_llm import InnerReduction, divide
from aot.compression.in_tower import tower_needs
from aot.compression.methods import Method, build_method
from aot.config.schema import Config
from aot.errors import AOTError, BudgetError, MethodError, UnsupportedError
from aot.models.base import Answer, Answerer, Conversation, Reading, VideoModel
from aot.pipeline.chunk_compressor import ChunkCompressor
from aot.pipeline.recording import Recordings
from aot.pipeline.report import report_of
from aot.pipeline.stream import EncodedVideo, VideoEncoder
from aot.plugins import called
from aot.reports.frame_pictures import FramePictures
from aot.reports.retention import Compression, versions
from aot.runtime.memory import explained_memory
from aot.runtime.stages import StageClock, StageProgress, silent
from aot.text import check_question_text
from aot.types import CompressedTokens, Needs, VisualTokens

if TYPE_CHECKING:
    from aot.video import VideoSource

__all__ = ["REFUSALS", "Compression", "Pipeline", "Refusal", "compress_each", "queue_each"]

REFUSALS = (BudgetError, UnsupportedError, MethodError)


@dataclass(frozen=True, slots=True)
class Refusal:
    """The result of a pipeline that cannot compress the video; `error` is the reason."""

    error: AOTError


class Pipeline:
    """Compress videos and answer questions with one loaded model and one configuration.

    Args:
        model: the model.
        config: the settings.
        build: builds the method from the settings of the method alone, see `outer`.
        clock: makes the clocks of the stages "encode" and "compress".
        question: the question that the method reads; None for the questions of each video.
        answerer: answers the questions; by default the model.
    """

    def __init__(
        self,
        model: VideoModel,
        config: Config,
        build: Callable[[Config], Method] = build_method,
        clock: Callable[[torch.device], StageClock] = StageClock,
        question: str | None = None,
        answerer: Answerer | None = None,
    ) -> None:
        self.model, self.config, self._build, self._clock = model, config, build, clock
        self._question, self.answerer = question, answerer or model

    def about(self, question: str) -> Pipeline:
        """Return a pipeline whose method reads `question`, whatever else is asked about a video."""
        return Pipeline(self.model, self.config, self._build, self._clock, question, self.answerer)

    def new_clock(self) -> StageClock:
        """Return a clock for one video, on the model's device."""
        return self._clock(torch.device(self.model.placement["device"]))

    @cached_property
    def _divided(self) -> tuple[Config, InnerReduction | None]:
        return divide(self.config, self.model.language_layers)

    @property
    def outer(self) -> Config:
        """Return `config` for the method alone: its own ratio, and no inner reduction."""
        return self._divided[0]

    @property
    def inner(self) -> InnerReduction | None:
        """Return the reduction inside the language model, or None."""
        return self._divided[1]

    @cached_property
    def method(self) -> Method:
        """Return the method that acts before the language model; build it on first use."""
        return self._build(self.outer)

    @cached_property
    def needs(self) -> Needs:
        """Return the encoder outputs that the method needs, and how the tower reduces its work.

        Raises:
            UnsupportedError: If the model cannot provide them, or the reduction does not work with
                the method.
        """
        needs = tower_needs(needs_of(self.method), self.config.tower)
        self.model.check_needs(needs)
        return needs

    def embedded(self, questions: Sequence[str]) -> Tensor | None:
        """Return the embeddings of the questions if the method reads them, else None.

        Raises:
            ConfigError: If a question is not valid text.
            UnsupportedError: If the method reads the question, and there is none.
        """
        if not self.needs.question:
            return None
        asked = [each for each in questions if each.strip()] if self._question is None else [self._question]
        if not asked:
            raise UnsupportedError(
                f"{called(self.method)} keeps tokens by the question, and there is none here; "
                "use it with aot ask or aot compare, give --question to aot compress, or choose another --method"
            )
        for each in asked:
            check_question_text(each)
        return self.model.embed_questions(asked)

    @cached_property
    def versions(self) -> dict[str, str]:
        """Return the versions of the packages that affect results."""
        return versions()

    def compress(
        self,
        video: VideoSource,
        questions: Sequence[str] = (),
        *,
        traced: bool = False,
        on_progress: StageProgress = silent,
    ) -> Compression:
        """Decode, encode and compress a video, chunk by chunk.

        Args:
            video: a file, an http or https address, "-" for standard input, or an open video.
            questions: the texts that a method may read, and by which frames are chosen if
                `sampling.select_frames` is set.
            traced: whether to record the sources of kept tokens and pictures of the frames.
            on_progress: receives the progress of each stage.

        On CUDA this returns before the device is done. Then `Compression.report` waits, and it or
        the first text of an answer raises the NumericsError or MethodError of wrong values.

        Raises:
            VideoError, ConfigError, NumericsError, MemoryLimitError, MethodError: See `aot.errors`.
        """
        ((_, result),) = queue_each([self], video, questions, traced, on_progress)
        if isinstance(result, Refusal):
            raise result.error
        return result

    def answer(self, tokens: CompressedTokens, question: str) -> Answer:
        """Return the answer to `question`; iterate over it to generate its text."""
        with explained_memory():
            return self.answerer.generate(tokens, question, self.config.generation, self.inner)

    def read(self, tokens: CompressedTokens) -> Reading:
        """Run the language model on `tokens` once; the result can answer several questions."""
        with explained_memory():
            return self.answerer.read(tokens, self.inner)

    def converse(self, tokens: CompressedTokens) -> Conversation:
        """Begin a conversation about `tokens`, in which a question may refer to earlier turns."""
        with explained_memory():
            return self.answerer.converse(tokens, self.config.generation, self.inner)

    def answers(self, tokens: CompressedTokens, questions: Sequence[str]) -> Iterator[Answer]:
        """Yield the answer to each question; read `tokens` once if `inner` allows it."""
        if len(questions) == 1:
            yield self.answer(tokens, questions[0])
            return
        reading = self.read(tokens)
        for question in questions:
            with explained_memory():
                yield reading.generate(question, self.config.generation)


def compress_each(
    pipelines: Sequence[Pipeline],
    video: VideoSource,
    questions: Sequence[str] = (),
    *,
    traced: bool = False,
    on_progress: StageProgress = silent,
    on_notice: Callable[[str], None] = lambda notice: None,
    recordings: Recordings | None = None,
) -> Iterator[tuple[Pipeline, Compression | Refusal]]:
    """Compress one video with every pipeline; yield each (pipeline, result) when it is ready.

    The pipelines share the frames. Those that reduce the work of the vision tower in the same way,
    or not at all, share one encoding.

    Args:
        pipelines: the pipelines, all with the same model.
        video: see `Pipeline.compress`.
        questions: the texts that methods may read, and by which frames are chosen if
            `sampling.select_frames` is set.
        traced: whether to record the sources of kept tokens and pictures of the frames.
        on_progress: receives the progress of each stage.
        on_notice: receives the notices about the video, which the reports also contain.
        recordings: keeps the encoded video for later calls, which must not be `traced`.

    Raises:
        VideoError, ConfigError, NumericsError, MemoryLimitError: See `aot.errors`.
    """
    for pipeline, result in queue_each(pipelines, video, questions, traced, on_progress, on_notice, recordings):
        yield pipeline, _read(result)


def _read(result: Compression | Refusal) -> Compression | Refusal:
    """Wait for the facts of a compression and the checks of its values."""
    if isinstance(result, Compression):
        try:
            result.report  # noqa: B018
        except REFUSALS as error:
            return Refusal(error)
    return result


def queue_each(
    pipelines: Sequence[Pipeline],
    video: VideoSource,
    questions: Sequence[str],
    traced: bool,
    on_progress: StageProgress,
    on_notice: Callable[[str], None] = lambda notice: None,
    recordings: Recordings | None = None,
) -> Iterator[tuple[Pipeline, Compression | Refusal]]:
    """Do as `compress_each`, but do not wait for the device."""
    runs = [_Run(pipeline, questions, traced) for pipeline in pipelines]
    yield from ((run.pipeline, run.refusal) for run in runs if run.refusal)
    waiting = [run for run in runs if not run.refusal]
    while waiting:
        needs = waiting[0].needs
        alike = [run for run in waiting if run.needs.runs_tower_like(needs)]
        waiting = [run for run in waiting if not run.needs.runs_tower_like(needs)]
        pictures = FramePictures(alike[0].pipeline.model.temporal_patch) if traced else None
        encoded = _encode_for(alike, video, questions, pictures, on_progress, recordings)
        for notice in encoded.notices if encoded else ():
            on_notice(notice)
        for run in alike:
            yield run.pipeline, run.result(encoded, pictures)


def _encode_for(
    runs: Sequence[_Run],
    video: VideoSource,
    questions: Sequence[str],
    pictures: FramePictures | None,
    on_progress: StageProgress,
    recordings: Recordings | None,
) -> EncodedVideo | None:
    """Encode a video once and compress it in all `runs`; return None if encoding is refused."""
    pipeline, needs = runs[0].pipeline, Needs.union(run.needs for run in runs)

    def encode(recorded: Needs, on_chunk: Callable[[VisualTokens], None]) -> EncodedVideo:
        encoder = VideoEncoder(
            pipeline.model,
            pipeline.config.sampling,
            recorded,
            pipeline.new_clock(),
            questions=questions,
            on_progress=on_progress,
            on_frames=pictures.add if pictures else None,
        )
        return encoder.run(video, on_chunk)

    def compress(visual: VisualTokens) -> None:
        for run in runs:
            run.add(visual)

    try:
        return recordings.encoded(video, needs, encode, compress) if recordings else encode(needs, compress)
    except (UnsupportedError, MethodError) as error:  # merging inside the tower is refused or fails
        for run in runs:
            run.refusal = run.refusal or Refusal(error)
        return None


class _Run:
    """Compress one video with one pipeline; the first error listed in `REFUSALS` ends the run."""

    def __init__(self, pipeline: Pipeline, questions: Sequence[str], traced: bool) -> None:
        self.pipeline = pipeline
        self.clock = pipeline.new_clock()
        self.refusal: Refusal | None = None
        with self._refused():
            self.needs = pipeline.needs
            question = pipeline.embedded(questions)
            self._compressor = ChunkCompressor(
                pipeline.method, pipeline.outer, self.clock, traced=traced, question=question
            )

    def add(self, visual: VisualTokens) -> None:
        """Compress the next chunk, unless the run was refused."""
        if self.refusal is None:
            with self._refused():
                self._compressor.add(visual)

    def result(self, encoded: EncodedVideo | None, pictures: FramePictures | None) -> Compression | Refusal:
        """Return the compression, or the refusal if the run was refused."""
        if self.refusal or encoded is None:
            assert self.refusal
            return self.refusal
        tokens = self._compressor.tokens()
        report = report_of(self.pipeline, tokens, encoded, self.clock)
        return Compression(tokens, report, pictures.files if pictures else None)

    @contextmanager
    def _refused(self) -> Iterator[None]:
        try:
            yield
        except REFUSALS as error:
            self.refusal = Refusal(error)
