"""Write answers as the objects and events of the OpenAI API."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from aot.serving.http.chat_request import ChatRequest
from aot.serving.http.refusals import error_object, refusal_of
from aot.serving.http.service import Answered
from aot.text import as_utf8

__all__ = ["completion", "events", "usage"]


def usage(answered: Answered) -> dict[str, int]:
    """Return the numbers of tokens; `visual_tokens` and `kept_tokens` are our own."""
    prompt, output = answered.reply.prompt_tokens, answered.reply.output_tokens
    return {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": prompt + output,
        "visual_tokens": answered.visual_tokens,
        "kept_tokens": answered.kept_tokens,
    }


def completion(head: dict[str, Any], answered: Answered) -> dict[str, Any]:
    """Return the object of a whole answer; `head` has its id, time and model."""
    message = {"role": "assistant", "content": as_utf8(answered.reply.text)}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": answered.finish_reason}
    return {**head, "object": "chat.completion", "choices": [choice], "usage": usage(answered)}


async def events(head: dict[str, Any], asked: ChatRequest, results: AsyncIterator[object]) -> AsyncIterator[str]:
    """Yield server-sent events for the pieces of an answer; an error becomes the last event."""
    chunk = {**head, "object": "chat.completion.chunk", **({"usage": None} if asked.includes_usage else {})}

    def event(delta: dict[str, str], reason: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return _event({**chunk, "choices": [choice]})

    yield event({"role": "assistant", "content": ""})
    try:
        async for result in results:
            if isinstance(result, Answered):
                yield event({}, result.finish_reason)
                if asked.includes_usage:
                    yield _event({**chunk, "choices": [], "usage": usage(result)})
            else:
                yield event({"content": as_utf8(str(result))})
    except Exception as error:
        yield _event(error_object(refusal_of(error)))
    yield "data: [DONE]\n\n"


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value)}\n\n"
