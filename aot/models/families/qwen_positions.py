"""Positions in time, height and width (M-RoPE) of a prompt that holds only some of a video's tokens.

They are those of the whole: the installed model's own rule counts the prompt with every token of the video, and each
row that is kept takes its position there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from aot.models.language.prompt import Run
from aot.types import CompressedTokens

__all__ = ["WholePrompt", "seconds_per_frame"]

_OF_TEXT, _OF_VIDEO = 0, 2  # transformers' numbers for what a token is


@dataclass(frozen=True, slots=True)
class WholePrompt:
    """A prompt up to and with its video, all T * n tokens of it, and one word of text after it: L rows.

    ids, kinds: [1, L] int64; kinds are transformers' `mm_token_type_ids`. rows: [P], where those of the prompt are that
    holds only what is kept.
    """

    ids: Tensor
    kinds: Tensor
    rows: Tensor

    @classmethod
    def around(
        cls, texts: Sequence[Sequence[int]], runs: Sequence[Run], tokens: CompressedTokens, video_token: int
    ) -> WholePrompt:
        """texts: ids of each run's text; each run holds equally many consecutive frames."""
        (rows, cols), frames = tokens.grid, len(tokens.timestamps_s)
        behind_text = frames // len(runs) * rows * cols
        place = tokens.place.cpu()
        words: list[int] = []
        kinds: list[int] = []
        kept: list[int] = []
        shift = 0  # of a token of this run: text so far
        for text, run in zip(texts, runs, strict=True):
            kept += range(len(words), len(words) + len(text))
            shift += len(text)
            kept += (place[list(run.rows)] + shift).tolist()
            words += [*text, *[video_token] * behind_text]
            kinds += [*[_OF_TEXT] * len(text), *[_OF_VIDEO] * behind_text]
        return cls(torch.tensor([[*words, 0]]), torch.tensor([[*kinds, _OF_TEXT]]), torch.tensor(kept))

    def of_kept(self, positions: Tensor) -> tuple[Tensor, int]:
        """From those of the whole [3, 1, L] the prompt's [3, 1, P], and where text goes on after the video."""
        return positions[..., self.rows], int(positions[0, 0, -1])


def seconds_per_frame(timestamps_s: Sequence[float]) -> float:
    """The mean time from one to the next; 1 where there is only one."""
    between = len(timestamps_s) - 1
    return (timestamps_s[-1] - timestamps_s[0]) / between if between else 1.0
