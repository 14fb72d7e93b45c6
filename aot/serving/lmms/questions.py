"""Read a question of lmms-eval: its messages and its generation settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

from aot.config.schema import GenerationConfig
from aot.config.strict import build_settings
from aot.errors import ConfigError
from aot.models.base import Turn
from aot.serving.messages import Message, conversation_in
from aot.text import Verbatim

__all__ = ["Asked", "Stops", "read_generation", "read_messages"]

_IGNORED = ("image_aspect_ratio", "image_sizes", "modalities", "use_cache")  # about pictures, or speed alone
# Settings that are refused unless they have one of these values, with which they change nothing.
_NEUTRAL: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    {"num_beams": (1,), "repetition_penalty": (1,), "top_p": (1,), "top_k": (0, -1), "min_p": (0,)}
)
_OF_SAMPLING = ("top_p", "top_k", "min_p")  # without effect at temperature 0


@dataclass(frozen=True, slots=True)
class Stops:
    """The texts at which an answer ends."""

    texts: tuple[str, ...] = ()

    def cut(self, answer: str) -> str:
        """Return `answer` up to the first stop, without surrounding whitespace."""
        answer = answer.strip()
        for stop in self.texts:
            answer = answer.partition(stop)[0]
        return answer.strip()


@dataclass(frozen=True, slots=True)
class Asked:
    """A question about a video.

    Attributes:
        video: the file or address of the video.
        question: the text of the question, verbatim.
        turns: earlier questions and answers.
        start_s: start of the part of the video that the question is about; None: its start.
        end_s: end of the part; None: the end of the video.
        options: the settings of generation.
        stops: where the answer ends.
    """

    video: str
    question: str
    turns: tuple[Turn, ...]
    start_s: float | None
    end_s: float | None
    options: GenerationConfig
    stops: Stops


def read_messages(messages: Sequence[Mapping[str, Any]], options: GenerationConfig, stops: Stops) -> Asked:
    """Return the question in the chat messages of a document of lmms-eval.

    Args:
        messages: each has a `role` and a `content`: parts with a `type`, and a `text` or `url`.
        options: the settings of generation.
        stops: where the answer ends.

    Raises:
        ConfigError: If the messages are no conversation about exactly one video.
    """
    parts = [part for message in messages for part in message["content"] if part["type"] == "video"]
    try:
        spans = {_span(part) for part in parts}
        video, turns, question = conversation_in([_message(message) for message in messages])
    except ValueError as error:
        raise ConfigError(f"this question cannot be answered by aot: {error}") from None
    (_, start_s, end_s), *others = spans
    if others:
        raise ConfigError("this question cannot be answered by aot: it is about several parts of a video")
    return Asked(video, question, turns, start_s, end_s, options, stops)


def _message(message: Mapping[str, Any]) -> Message:
    others = {part["type"] for part in message["content"]} - {"text", "video"}
    if others:
        raise ValueError(f"it has a part of type {min(others)}, and aot reads videos and text")
    if message["role"] == "system":
        raise ValueError("it has instructions of the system, and the model was trained with fixed ones")
    texts = [part["text"] for part in message["content"] if part["type"] == "text"]
    videos = [_span(part)[0] for part in message["content"] if part["type"] == "video"]
    return Message(message["role"], Verbatim("\n".join(texts)), tuple(videos))


def _span(part: Mapping[str, Any]) -> tuple[str, float | None, float | None]:
    """Return the file or address of a video, and the start and end of the part that is meant."""
    url, start_s, end_s = part["url"], part.get("start_time"), part.get("end_time")
    if isinstance(url, Mapping):  # with its part, as tasks without messages of their own give it
        start_s, end_s = url.get("video_start", start_s), url.get("video_end", end_s)
        url = url.get("url") or url.get("path")
    if not isinstance(url, str):
        raise ValueError(f"its video is a {type(url).__name__}, and aot reads files and addresses")
    return url, start_s, end_s


def read_generation(given: Mapping[str, Any], defaults: GenerationConfig) -> tuple[GenerationConfig, Stops]:
    """Return the settings of generation that a task and `--gen_kwargs` ask for.

    Args:
        given: the settings of the task; those that are missing come from `defaults`.
        defaults: the settings in `--model_args`.

    Raises:
        ConfigError: If a setting is unknown, wrong, or not supported.
    """
    left = {name: value for name, value in given.items() if value is not None and name not in _IGNORED}
    stops = left.pop("until", ())
    temperature = left.pop("temperature", None)
    samples = left.pop("do_sample", None if temperature is None else temperature > 0)
    if samples is not None:
        left["temperature"] = (1.0 if temperature is None else temperature) if samples else 0.0
    is_greedy = not left.get("temperature", defaults.temperature)
    for name in _NEUTRAL.keys() & left.keys():
        value = left.pop(name)
        if value not in _NEUTRAL[name] and not (is_greedy and name in _OF_SAMPLING):
            raise ConfigError(f"the generation setting {name}={value} is not supported by aot; leave it out")
    options = build_settings(GenerationConfig, {**asdict(defaults), **left}, "generation.")
    return options, Stops(tuple(stop for stop in ([stops] if isinstance(stops, str) else stops) if stop))
