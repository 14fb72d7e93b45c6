"""A prompt with a video in it: which of its rows are text, which visual tokens, which learned newlines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from aot.errors import ConfigError
from aot.text import check_question_text
from aot.types import CompressedTokens

__all__ = [
    "NEWLINE",
    "TEXT",
    "Run",
    "VideoPrompt",
    "by_frame",
    "check_question",
    "in_reading_order",
    "positions_in_whole",
    "text_ids",
]

TEXT, NEWLINE = -1, -2


@dataclass(frozen=True, slots=True)
class Run:
    """A piece of text, and what of the video follows it: numbers of kept tokens, or `NEWLINE`.

    offsets: the index of each row among those that follow the text when nothing is dropped, and `span`, how many those
    are; None for both where these rows are all.
    """

    text: str
    rows: Sequence[int]
    offsets: Sequence[int] | None = None
    span: int | None = None


@dataclass(frozen=True, slots=True)
class VideoPrompt:
    """A prompt of P rows, as a language model reads it.

    ids: [1, P], the video token's for everything visual. embeddings: [1, P, D]. token: [P] int64, which of the kept
    `tokens` a row is; `TEXT` and `NEWLINE` are none. video_end: how many rows there are up to and with the video.
    positions: [1, P], or [3, 1, P] in time, height and width, and the `next_position` of text that follows; None stands
    for 0 .. P - 1.
    """

    ids: Tensor
    embeddings: Tensor
    token: Tensor
    tokens: CompressedTokens
    video_end: int
    positions: Tensor | None = None
    next_position: int = 0

    def followed_by(self, ids: Tensor, embeddings: Tensor) -> VideoPrompt:
        """Return the prompt followed by text: ids [1, S], embeddings [1, S, D]."""
        return replace(
            self,
            ids=torch.cat([self.ids, ids], 1),
            embeddings=torch.cat([self.embeddings, embeddings], 1),
            token=torch.cat([self.token, torch.full_like(ids[0], TEXT)]),
            positions=self.positions_with(ids.shape[1]),
            next_position=self.next_position + ids.shape[1],
        )

    def positions_with(self, count: int) -> Tensor | None:
        """Positions of these rows and of `count` rows of text after them."""
        if self.positions is None:
            return None
        behind = torch.arange(self.next_position, self.next_position + count, device=self.positions.device)
        return torch.cat([self.positions, behind.expand(*self.positions.shape[:-1], -1)], -1)

    def following(self) -> Tensor:
        """The position of the next token: [1, 1], or [3, 1, 1]."""
        if self.positions is None:
            return self.ids.new_full((1, 1), self.ids.shape[1])
        return self.ids.new_full((*self.positions.shape[:-1], 1), self.next_position)

    def language_inputs(self, first: int = 0) -> dict[str, Any]:
        """What a language model (without its head) is called with to read the rows from `first` on."""
        inputs: dict[str, Any] = {"inputs_embeds": self.embeddings[:, first:]}
        if self.positions is not None:
            inputs["position_ids"] = self.positions[..., first:]
        deepstack = self.tokens.deepstack
        if deepstack is not None and first < self.video_end:
            visual = self.token[first:] >= 0
            place = self.token[first:][visual].to(deepstack.device)
            inputs["visual_pos_masks"] = visual[None]
            inputs["deepstack_visual_embeds"] = [features[place] for features in deepstack]
        return inputs


def check_question(tokenizer: Any, question: str) -> str:
    """The question without blanks around it.

    Raises:
        ConfigError: it is empty, or holds one of the model's control words.
    """
    question = question.strip()
    if not question:
        raise ConfigError("the question is empty; ask something")
    check_question_text(question)
    reserved = [word for word in tokenizer.get_added_vocab() if word in question]
    if reserved:
        raise ConfigError(f"the question contains {reserved[0]}, which the model reserves; leave it out")
    return question


def text_ids(tokenizer: Any, text: str) -> list[int]:
    """Ids of a piece of a prompt. Where the video goes it is cut in pieces, whose ids are those of the whole: its token
    is merged with no neighbour.
    """
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
    return ids


def positions_in_whole(texts: Sequence[Sequence[int]], runs: Sequence[Run]) -> tuple[list[int], int]:
    """Return the position of every row in the prompt with the whole video, and that of the text that follows.

    texts: the ids of each run's text.
    """
    positions: list[int] = []
    following = 0
    for text, run in zip(texts, runs, strict=True):
        positions += range(following, following + len(text))
        following += len(text)
        offsets = range(len(run.rows)) if run.offsets is None else run.offsets
        positions += [following + offset for offset in offsets]
        following += len(run.rows) if run.span is None else run.span
    return positions, following


def in_reading_order(tokens: CompressedTokens) -> list[int]:
    """Numbers of the kept tokens by frame, row and column: the order in which the model read them all."""
    order: list[int] = tokens.place.argsort(stable=True).tolist()
    return order


def by_frame(tokens: CompressedTokens) -> list[list[int]]:
    """Numbers of every frame's kept tokens in reading order; none where it keeps nothing."""
    kept: list[list[int]] = [[] for _ in tokens.timestamps_s]
    frames = tokens.frame.tolist()
    for token in in_reading_order(tokens):
        kept[frames[token]].append(token)
    return kept
