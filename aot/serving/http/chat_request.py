"""Read the messages and settings of a request for an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from aot.config.schema import GenerationConfig
from aot.models.base import Turn
from aot.runtime.plain_values import Reader, each, flag, free, number, optional, record, text, utf8, whole
from aot.serving.http.refusals import RequestError
from aot.serving.messages import ROLES, Message, conversation_in

__all__ = ["ChatRequest", "read_chat", "read_video"]

_IGNORED = ("metadata", "prompt_cache_key", "safety_identifier", "service_tier", "store", "user")
# Settings that are refused unless they have one of these values, with which they change nothing.
_NEUTRAL: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    {
        "n": (1,),
        "top_p": (1, 1.0),
        "stop": ([],),
        "logprobs": (False,),
        "frequency_penalty": (0, 0.0),
        "presence_penalty": (0, 0.0),
        "tools": ([],),
        "tool_choice": ("none", "auto"),
        "response_format": ({"type": "text"},),
        "modalities": (["text"],),
    }
)


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A question about a video, with the turns before it.

    Attributes:
        model: the name of the model.
        video: the address of the video.
        turns: the earlier questions and answers.
        question: the question.
        generation: the settings of the answer.
        streams: whether the answer is sent while it is generated.
        includes_usage: whether the stream ends with the numbers of tokens.
    """

    model: str
    video: str
    turns: tuple[Turn, ...]
    question: str
    generation: GenerationConfig
    streams: bool
    includes_usage: bool


def _neutral(values: Sequence[Any]) -> Reader:
    def read(value: Any, key: str) -> None:
        if value is not None and not any(value == each and type(value) is type(each) for each in values):
            raise ValueError(f"{key} is not supported; leave it out")

    return read


def _video_url(value: Any, key: str) -> str:
    found: str = (
        value if type(value) is str else record({"url": text, "detail": free}, absent=["detail"])(value, key)["url"]
    )
    return found


def _part(value: Any, key: str) -> tuple[str, str]:
    kind = record({"type": text})(value, key)["type"]
    if kind == "text":
        return kind, record({"text": utf8})(value, key)["text"]
    if kind == "video_url":
        return kind, record({"video_url": _video_url})(value, key)["video_url"]
    raise ValueError(f"{key}.type must be text or video_url, got {kind[:40]!r}")


def _content(value: Any, key: str) -> list[tuple[str, str]]:
    return [("text", utf8(value, key))] if type(value) is str else each(_part)(value, key)


def _message(value: Any, key: str) -> Message:
    found = record({"role": text, "content": _content})(value, key)
    if found["role"] not in ROLES:
        raise ValueError(
            f"{key}.role must be user or assistant, got {found['role'][:40]!r}: the model was trained with fixed "
            "instructions, so put yours into the question"
        )
    texts = [value for kind, value in found["content"] if kind == "text"]
    videos = [value for kind, value in found["content"] if kind == "video_url"]
    return Message(found["role"], "\n".join(texts), tuple(videos))


_STREAM_OPTIONS = record({"include_usage": flag}, missing={"include_usage": False})
_OPTIONAL: Mapping[str, Reader] = MappingProxyType(
    {
        "max_tokens": optional(whole(1)),
        "max_completion_tokens": optional(whole(1)),
        "temperature": optional(number(0, 2)),
        "seed": optional(whole()),
        "stream": optional(flag),
        "stream_options": optional(_STREAM_OPTIONS),
        **{name: _neutral(values) for name, values in _NEUTRAL.items()},
        **dict.fromkeys(_IGNORED, free),
    }
)
_CHAT = record({"model": text, "messages": each(_message), **_OPTIONAL}, missing=dict.fromkeys(_OPTIONAL), exact=True)
_VIDEO = record({"model": optional(text), "video_url": _video_url}, missing={"model": None}, exact=True)


def read_chat(body: object, defaults: GenerationConfig) -> ChatRequest:
    """Return the request in `body`.

    An answer is never longer than `defaults` allow.

    Raises:
        RequestError: If a value is missing, wrong, unknown or not supported.
        ConfigError: If a setting of the generation is out of range.
    """
    try:
        values = _CHAT(body, "")
        video, turns, question = conversation_in(values["messages"])
    except ValueError as error:
        raise _invalid(error) from None
    most = min(values["max_completion_tokens"] or values["max_tokens"] or 2**53, defaults.max_new_tokens)
    given = {name: values[name] for name in ("temperature", "seed") if values[name] is not None}
    least = min(defaults.min_new_tokens, most)
    return ChatRequest(
        model=values["model"],
        video=video,
        turns=turns,
        question=question,
        generation=replace(defaults, max_new_tokens=most, min_new_tokens=least, **given),
        streams=bool(values["stream"]),
        includes_usage=bool((values["stream_options"] or {}).get("include_usage")),
    )


def read_video(body: object) -> tuple[str | None, str]:
    """Return the names of the model (or None) and the video of a request for tokens.

    Raises:
        RequestError: If a value is missing, wrong or unknown.
    """
    try:
        values = _VIDEO(body, "")
    except ValueError as error:
        raise _invalid(error) from None
    return values["model"], values["video_url"]


def _invalid(error: ValueError) -> RequestError:
    said = str(error).replace("a group", "an object")
    return RequestError(400, "invalid_value", f"the body{said}" if said.startswith(" ") else said)
