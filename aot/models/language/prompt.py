"""Build a prompt with a video: rows of text, visual tokens and learned newlines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from aot.errors import ConfigError
from aot.text import Verbatim, check_question_text
from aot.types import CompressedTokens

__all__ = [
    "NEWLINE",
    "TEXT",
    "Run",
    "VideoPrompt",
    "by_frame",
    "check_length",
    "check_question",
    "check_reserved",
    "in_reading_order",
    "positions_in_whole",
    "sorted_by_cell",
    "text_ids",
]

TEXT, NEWLINE = -1, -2  # marks of prompt rows that hold no kept token


@dataclass(frozen=True, slots=True)
class Run:
    """A piece of text, and the part of the video that follows the text.

    Attributes:
        text: the text.
        rows: the prompt rows after the text: indices of kept tokens, or `NEWLINE`.
        offsets: the index that each of `rows` would have if no token of this part of the video had
            been dropped; None means 0, 1, ...
        span: the number of rows that this part would then have; None means the length of `rows`.
    """

    text: str
    rows: Sequence[int]
    offsets: Sequence[int] | None = None
    span: int | None = None


@dataclass(frozen=True, slots=True)
class VideoPrompt:
    """A prompt of P rows, as a language model reads it.

    Attributes:
        ids: [1, P]; visual tokens and newlines have the id of the video token.
        embeddings: [1, P, D].
        token: int64 [P], for each row the index of its kept token, or `TEXT` or `NEWLINE`.
        tokens: the kept tokens.
        video_end: the number of rows up to the end of the video.
        positions: [1, P], or [3, 1, P] in time, height and width; None for 0 .. P - 1.
        next_position: the position of the row after the prompt, if `positions` is given.
    """

    ids: Tensor
    embeddings: Tensor
    token: Tensor
    tokens: CompressedTokens
    video_end: int
    positions: Tensor | None = None
    next_position: int = 0

    def followed_by(self, ids: Tensor, embeddings: Tensor) -> VideoPrompt:
        """Return the prompt followed by S rows of text: `ids` [1, S], `embeddings` [1, S, D]."""
        return replace(
            self,
            ids=torch.cat([self.ids, ids], 1),
            embeddings=torch.cat([self.embeddings, embeddings], 1),
            token=torch.cat([self.token, torch.full_like(ids[0], TEXT)]),
            positions=self.positions_with(ids.shape[1]),
            next_position=self.next_position + ids.shape[1],
        )

    def positions_with(self, count: int) -> Tensor | None:
        """Return the positions of all rows and `count` more rows of text; None for 0, 1, 2, ..."""
        if self.positions is None:
            return None
        # Positions of text are equal in time, height and width.
        text = torch.arange(self.next_position, self.next_position + count, device=self.positions.device)
        return torch.cat([self.positions, text.expand(*self.positions.shape[:-1], -1)], -1)

    def following(self) -> Tensor:
        """Return the position of the row after the prompt: [1, 1] or [3, 1, 1]."""
        if self.positions is None:
            return self.ids.new_full((1, 1), self.ids.shape[1])
        return self.ids.new_full((*self.positions.shape[:-1], 1), self.next_position)

    def language_inputs(self, first: int = 0) -> dict[str, Any]:
        """Return the language model's arguments for the prompt rows from `first` on."""
        inputs: dict[str, Any] = {"inputs_embeds": self.embeddings[:, first:]}
        if self.positions is not None:
            inputs["position_ids"] = self.positions[..., first:]
        # Qwen3-VL: features that the first layers add to the visual rows.
        deepstack = self.tokens.deepstack
        if deepstack is not None and first < self.video_end:
            visual = self.token[first:] >= 0
            kept = self.token[first:][visual].to(deepstack.device)
            inputs["visual_pos_masks"] = visual[None]
            inputs["deepstack_visual_embeds"] = [features[kept] for features in deepstack]
        return inputs


def check_question(tokenizer: Any, question: str) -> str:
    """Return the question, without surrounding whitespace unless it is `Verbatim`.

    Raises:
        ConfigError: If the question is empty, not UTF-8, or contains a control word of the model.
    """
    if not question.strip():
        raise ConfigError("the question is empty; ask something")
    check_question_text(question)
    check_reserved(tokenizer, question, "the question", "leave it out")
    return question if isinstance(question, Verbatim) else question.strip()


def check_reserved(tokenizer: Any, text: str, name: str, remedy: str) -> None:
    """Check that `text`, which is called `name` in the message, contains no control word.

    Raises:
        ConfigError: If `text` contains a control word of the model.
    """
    # The tokenizer would turn such a word into a control token, for instance the end of a turn.
    reserved = [word for word in tokenizer.get_added_vocab() if word in text]
    if reserved:
        raise ConfigError(f"{name} contains {reserved[0]}, which the model reserves; {remedy}")


def check_length(prefix: VideoPrompt, rows: int, limit: int, *, later: bool) -> None:
    """Check that `rows` rows after the video fit into a model with `limit` positions.

    `later` is whether the rows contain earlier turns of a conversation.

    Raises:
        ConfigError: If the prompt is too long.
    """
    length = prefix.video_end + rows
    if length > limit:
        fewer = "leave out the earlier turns, or " if later else ""
        raise ConfigError(
            f"the prompt has {length} tokens but the model reads at most {limit}; "
            f"{fewer}use a lower --ratio or fewer --frames"
        )
    # With the positions of the whole video, even a short prompt can leave the trained range.
    if prefix.next_position + rows > limit:
        raise ConfigError(
            f"with model.positions original the prompt ends at position {prefix.next_position + rows}, but the "
            f"model has {limit}; use fewer --frames, or --set model.positions=packed"
        )


def text_ids(tokenizer: Any, text: str) -> list[int]:
    """Return the token ids of `text`, a piece of the prompt before or after visual tokens."""
    # The pieces have the same ids as in the whole prompt, because a tokenizer never merges text
    # across the video token.
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
    return ids


def positions_in_whole(texts: Sequence[Sequence[int]], runs: Sequence[Run]) -> tuple[list[int], int]:
    """Return each row's position if no token had been dropped, and the position after the rows.

    `texts` holds the token ids of each run's text.
    """
    positions: list[int] = []
    following = 0
    for text, run in zip(texts, runs, strict=True):
        # Text is never dropped.
        positions += range(following, following + len(text))
        following += len(text)
        # Dropped rows leave gaps between the positions.
        offsets = range(len(run.rows)) if run.offsets is None else run.offsets
        positions += [following + offset for offset in offsets]
        following += len(run.rows) if run.span is None else run.span
    return positions, following


def in_reading_order(tokens: CompressedTokens) -> list[int]:
    """Return the indices of kept tokens, sorted by frame, row and column."""
    # The sort is stable, so that several tokens of one cell keep their order.
    order: list[int] = tokens.cell.argsort(stable=True).tolist()
    return order


def sorted_by_cell(tokens: CompressedTokens) -> CompressedTokens:
    """Return the tokens in reading order, without sources; the host does not wait for the order."""
    order = tokens.cell.argsort(stable=True)
    names = ("features", "frame", "row", "col", "role", "mass")
    deepstack = None if tokens.deepstack is None else tokens.deepstack[:, order.to(tokens.deepstack.device)]
    return replace(tokens, **{name: getattr(tokens, name)[order] for name in names}, deepstack=deepstack, sources=None)


def by_frame(tokens: CompressedTokens) -> list[list[int]]:
    """Return, for each frame, the indices of its kept tokens in reading order."""
    kept: list[list[int]] = [[] for _ in tokens.timestamps_s]
    frames = tokens.frame.tolist()
    for token in in_reading_order(tokens):
        kept[frames[token]].append(token)
    return kept
