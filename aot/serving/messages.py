"""Find the video, the earlier turns and the question in the messages of a conversation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aot.models.base import Turn

__all__ = ["ROLES", "Message", "conversation_in"]

ROLES = ("user", "assistant")


@dataclass(frozen=True, slots=True)
class Message:
    """A message of a conversation.

    Attributes:
        role: one of `ROLES`.
        text: its text.
        videos: the files or addresses of its videos.
    """

    role: str
    text: str
    videos: tuple[str, ...] = ()


def conversation_in(messages: Sequence[Message]) -> tuple[str, tuple[Turn, ...], str]:
    """Return the video, the earlier turns and the question.

    Raises:
        ValueError: If questions and answers do not alternate, or there is not exactly one video.
    """
    roles = [message.role for message in messages]
    if len(roles) % 2 == 0 or roles != [ROLES[index % 2] for index in range(len(roles))]:
        raise ValueError("messages must alternate between user and assistant, from the first to the last question")
    if not messages[0].videos:
        raise ValueError("messages[0] must have the video; every request sends it, or its address, again")
    if len({video for message in messages for video in message.videos}) > 1:
        raise ValueError("messages must have one video; ask about several videos in several requests")
    if not messages[-1].text.strip():
        raise ValueError(f"messages[{len(messages) - 1}] must have a question, as text")
    pairs = zip(messages[::2], messages[1::2], strict=False)
    turns = tuple(Turn(asked.text, answered.text) for asked, answered in pairs)
    return messages[0].videos[0], turns, messages[-1].text
