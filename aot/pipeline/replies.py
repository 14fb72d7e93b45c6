"""Generate a complete answer and measure its costs."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

from aot.models.base import Answer

__all__ = ["Reply", "write_reply"]


@dataclass(frozen=True, slots=True)
class Reply:
    """A finished answer with its costs.

    Attributes:
        text: the answer.
        prompt_tokens: number of tokens in the prompt.
        output_tokens: number of generated tokens.
        layer_tokens: number of visual tokens that each layer of the language model read.
        first_token_ms: time until the first token, or None if the answer is empty.
        answer_ms: time until the end of the answer.
        notices: sentences for the user.
    """

    text: str
    prompt_tokens: int
    output_tokens: int
    layer_tokens: tuple[int, ...]
    first_token_ms: float | None
    answer_ms: float
    notices: tuple[str, ...]


def write_reply(
    begin: Callable[[], Answer],
    on_text: Callable[[str], object] = lambda text: None,
    on_begun: Callable[[], object] = lambda: None,
) -> Reply:
    """Call `begin` and generate the whole answer.

    Args:
        begin: returns the answer.
        on_text: receives the text in pieces.
        on_begun: called before any text, once the first token is queued: the time for work on the
            host, such as to read the report of a compression.
    """
    start_s = time.perf_counter()
    answer, pieces = begin(), list[str]()
    with closing(iter(answer)) as generated:  # closed at once also if `on_text` raises an error
        for number, piece in enumerate(generated):
            if number == 0:
                on_begun()
            pieces.append(piece)
            on_text(piece)
    answer_ms, first_s = (time.perf_counter() - start_s) * 1e3, answer.first_token_at
    return Reply(
        text="".join(pieces),
        prompt_tokens=answer.prompt_tokens,
        output_tokens=answer.output_tokens,
        layer_tokens=answer.layer_tokens,
        first_token_ms=None if first_s is None else (first_s - start_s) * 1e3,
        answer_ms=answer_ms,
        notices=answer.notices,
    )
