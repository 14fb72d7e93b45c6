"""Do the work of a request: get the tokens of its video, and answer its question."""

from __future__ import annotations

import hashlib
import json
import threading
from contextlib import ExitStack
from dataclasses import dataclass

from aot.config.schema import GenerationConfig
from aot.errors import UnsupportedError, VideoError
from aot.pipeline.replies import Reply, write_reply
from aot.pipeline.run import Pipeline
from aot.reports.retention import Compression
from aot.runtime.memory import explained_memory
from aot.serving.http.chat_request import ChatRequest
from aot.serving.http.metrics import Metrics
from aot.serving.http.token_cache import TokenCache
from aot.serving.http.video_files import FetchedVideo, VideoFiles
from aot.serving.http.work import Work
from aot.storage.tokens_file import safetensors_bytes
from aot.text import check_question_text
from aot.video import VideoFile
from aot.video.probe import index_file

__all__ = ["Answered", "Service"]


@dataclass(frozen=True, slots=True)
class Answered:
    """The end of an answer.

    Attributes:
        reply: the whole answer with its costs.
        finish_reason: "stop", or "length" if it was cut off.
        visual_tokens: the number of visual tokens of the video.
        kept_tokens: the number of them that the language model read.
    """

    reply: Reply
    finish_reason: str
    visual_tokens: int
    kept_tokens: int


class Service:
    """A model with its settings, the videos that may be asked about, and their tokens.

    Args:
        pipeline: the loaded model with its settings.
        files: which videos a request may name.
        cache: the tokens of earlier requests.
        metrics: receives times and counts.
        longest_s: the longest video, in seconds.
        encodings: how many videos are encoded at once.

    Raises:
        UnsupportedError: If the method reads the question, or the model lacks what it needs.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        files: VideoFiles,
        cache: TokenCache,
        metrics: Metrics,
        longest_s: float,
        encodings: int,
    ) -> None:
        if pipeline.needs.question:
            raise UnsupportedError(
                "the server keeps the tokens of a video for all questions about it, and this method keeps other "
                "tokens for each question; use another --method"
            )
        self._pipeline, self._files, self._cache, self._metrics = pipeline, files, cache, metrics
        self._longest_s, self._encodings = longest_s, threading.Semaphore(encodings)
        config = pipeline.config.to_dict()
        of_tokens = {name: value for name, value in config.items() if name not in ("generation", "model")}
        model = [pipeline.model.identity.fingerprint, pipeline.model.placement, config["model"]]
        self._settings = json.dumps([of_tokens, model, pipeline.versions], sort_keys=True, default=str)

    @property
    def generation(self) -> GenerationConfig:
        """Return the settings of answers, which also bound what a request may ask for."""
        return self._pipeline.config.generation

    def answer(self, asked: ChatRequest, work: Work) -> None:
        """Put the pieces of the answer, and at the end an `Answered`."""
        for text in (asked.question, *(turn.question for turn in asked.turns)):
            check_question_text(text)
        kept = self._tokens(asked.video, work)
        with explained_memory():
            pipeline = self._pipeline
            conversation = pipeline.answerer.converse(kept.tokens, asked.generation, pipeline.inner)
            conversation.turns = list(asked.turns)
            reply = write_reply(lambda: conversation.ask(asked.question), lambda piece: self._put(piece, work))
        report, most = kept.report, asked.generation.max_new_tokens
        self._metrics.visual_tokens(report.visual_tokens, report.kept_tokens)
        self._metrics.language_tokens(reply.prompt_tokens, reply.output_tokens)
        self._metrics.stage("first_token", (reply.first_token_ms or reply.answer_ms) / 1e3)
        self._metrics.stage("answer", reply.answer_ms / 1e3)
        reason = "length" if reply.output_tokens >= most else "stop"
        work.put(Answered(reply, reason, report.visual_tokens, report.kept_tokens))

    def compress(self, video: str, work: Work) -> None:
        """Put the content of the tokens file of a video."""
        kept = self._tokens(video, work)
        work.put(safetensors_bytes(kept.tokens, kept.report))

    def _put(self, piece: str, work: Work) -> None:
        if piece:
            work.put(piece)
        else:
            work.check()

    def _tokens(self, url: str, work: Work) -> Compression:
        """Return the kept tokens of the video at `url`, from the cache if they are in it."""
        with ExitStack() as stack:
            with self._metrics.timed("fetch"):
                fetched = stack.enter_context(self._files.fetched(url, work.check))
            key = hashlib.sha256(f"{fetched.digest} {self._settings}".encode()).hexdigest()
            kept, found = self._cache.get(key, lambda: self._compressed(fetched, work), work.check)
        self._metrics.found(found)
        self._metrics.cache_bytes("memory", self._cache.memory_bytes)
        self._metrics.cache_bytes("disk", self._cache.disk_bytes)
        return kept

    def _compressed(self, fetched: FetchedVideo, work: Work) -> Compression:
        # The report, which others may get for the same content, names no file and no address.
        name = f"video-{fetched.digest[:12]}"
        with explained_memory():
            video = VideoFile(fetched.path, index_file(fetched.path, name))
            if video.index.info.duration_s > self._longest_s:
                raise VideoError(f"{name} is longer than {self._longest_s:g} s; cut it")
            with self._encodings:
                kept = self._pipeline.compress(video, on_progress=lambda stage, done, total: work.check())
            stage_ms = kept.report.stage_ms
        for stage, ms in stage_ms.items():
            self._metrics.stage(stage, ms / 1e3)
        return kept
