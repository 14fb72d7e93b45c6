"""The text of an answer, as `generate` writes it in another thread."""

from __future__ import annotations

import time
from typing import Any

from transformers import TextIteratorStreamer

__all__ = ["TokenStream"]


class TokenStream(TextIteratorStreamer):  # type: ignore[misc]
    """Iterate for its pieces. tokens: how many were written; first_token_at: when the first was on the host."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.tokens = 0
        self.first_token_at: float | None = None

    def put(self, value: Any) -> None:
        """Take the prompt's ids, then each token's. They are on the host, so the device is done with them."""
        if not self.next_tokens_are_prompt:
            if not self.tokens:
                self.first_token_at = time.perf_counter()
            self.tokens += value.numel()
        super().put(value)

    def fail(self) -> None:
        """End the text, where `generate` does not."""
        self.on_finalized_text("", stream_end=True)
