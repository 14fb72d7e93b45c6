"""Keep a loaded model with its settings, to compress videos and to answer questions about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from aot.config.presets import preset_settings
from aot.config.schema import Config, build_config
from aot.config.strict import merge_settings
from aot.errors import ConfigError
from aot.models import load_model
from aot.models.base import Answer, Conversation
from aot.pipeline.checks import check_same_model
from aot.pipeline.run import Compression, Pipeline
from aot.runtime.memory import explained_memory
from aot.storage.tokens_file import is_tokens_file, load_tokens
from aot.types import CompressedTokens

if TYPE_CHECKING:
    from aot.video import VideoFile

__all__ = ["Session"]

Group = Mapping[str, object]
Source = str | Path | CompressedTokens | Compression


class Session:
    """A loaded model with its settings, for scripts, data sets and servers.

    Several threads may use one session at once, and each gets what it would get alone; only with
    weights in host memory (`device_map`), use one thread at a time. A pickled session holds the
    settings alone: another process loads its own model.

    A source is a video (a file or an http or https address), a tokens file, or what `compress`
    returned. A video is encoded again for every call, so ask several questions with `ask_many`,
    `converse`, or the result of `compress`.

    Args:
        model: a name on the Hugging Face hub, a folder, or the settings of the group `model`.
        preset: a name from `aot presets list`; the other arguments override it.
        ratio: the share of visual tokens to keep, for instance 0.1 or "10%".
        method: a name from `aot methods`.
        **settings: the other groups of `aot settings`, for instance `sampling={"frames": 8}` or
            `generation={"max_new_tokens": 40}`.

    Raises:
        ConfigError: If a setting is unknown or wrong.
        ModelError: If the model is unknown, cannot be fetched, or is incomplete.
    """

    def __init__(
        self,
        model: str | Path | Group | None = None,
        *,
        preset: str | None = None,
        ratio: float | str | None = None,
        method: str | None = None,
        **settings: Group,
    ) -> None:
        named = {"name": model} if isinstance(model, (str, Path)) else model
        own = {"model": named, "ratio": ratio, "method": method}
        given = {**settings, **{name: value for name, value in own.items() if value is not None}}
        self._load(build_config(merge_settings(preset_settings(preset) if preset else {}, given)))

    @classmethod
    def of(cls, config: Config) -> Session:
        """Return a session with all settings of `config`."""
        session = cls.__new__(cls)
        session._load(config)
        return session

    def _load(self, config: Config) -> None:
        self.config = config
        self._pipeline: Pipeline | None = Pipeline(load_model(config.model), config)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).of, (self.config,)

    @property
    def pipeline(self) -> Pipeline:
        """Return the pipeline, which has the model and the steps of a run.

        Raises:
            ConfigError: If the session is closed.
        """
        if self._pipeline is None:
            raise ConfigError("the session is closed; make a new one")
        return self._pipeline

    def compress(
        self, video: str | Path | VideoFile, questions: Sequence[str] = (), *, traced: bool = False
    ) -> Compression:
        """Compress a video; see `Pipeline.compress`."""
        return self.pipeline.compress(video, questions, traced=traced)

    def ask(self, source: Source, question: str) -> str:
        """Return the answer to `question`."""
        return "".join(self.stream(source, question))

    def ask_many(self, source: Source, questions: Sequence[str]) -> list[str]:
        """Return the answer to each question; the questions do not affect each other.

        The video is read once, and the answers are generated in batches.

        Raises:
            NumericsError, MethodError: If the kept tokens hold wrong values.
        """
        pipeline, tokens = self.pipeline, self._tokens(source, questions)
        with explained_memory():
            answers = pipeline.read(tokens).answers(questions, self.config.generation)
        if tokens.unread is not None:
            tokens.unread.read()
        return answers

    def stream(self, source: Source, question: str) -> Answer:
        """Return the answer to `question`, which generates its text while it is iterated."""
        return self.pipeline.answer(self._tokens(source, [question]), question)

    def converse(self, source: Source) -> Conversation:
        """Begin a conversation, in which a question may refer to earlier questions and answers."""
        return self.pipeline.converse(self._tokens(source, ()))

    def close(self) -> None:
        """Let go of the model; its memory is freed when no answer or conversation uses it."""
        self._pipeline = None

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _tokens(self, source: Source, questions: Sequence[str]) -> CompressedTokens:
        """Return the kept tokens of `source`; `questions` choose frames if the settings ask for it.

        Raises:
            TokensFileError: If another model made the tokens.
        """
        if isinstance(source, CompressedTokens):
            return source
        if not isinstance(source, Compression):
            if not is_tokens_file(source):
                return self.compress(source, questions).tokens
            source = load_tokens(source)
        check_same_model(source.report.model, self.pipeline.model.identity)
        return source.tokens
