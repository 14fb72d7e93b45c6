"""M-RoPE position ids (time, height, width) of a prompt with only some of a video's tokens.

Transformers' model computes the position ids of the prompt with all tokens of the video. Each kept
row takes its position ids from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from aot.compression.ops.uploads import uploaded
from aot.models.language.prompt import Run
from aot.types import CompressedTokens

__all__ = ["WholePrompt", "seconds_per_frame"]

# Values of transformers' `mm_token_type_ids`.
_OF_TEXT, _OF_VIDEO = 0, 2


@dataclass(frozen=True, slots=True)
class WholePrompt:
    """A prompt with all T * n tokens of the video, and one text token after the video: L rows.

    Attributes:
        ids: [1, L] int64, token ids.
        kinds: [1, L] int64, transformers' `mm_token_type_ids`.
        rows: [P], the indices of the kept rows, on the device of the kept tokens.
    """

    ids: Tensor
    kinds: Tensor
    rows: Tensor

    @classmethod
    def around(
        cls, texts: Sequence[Sequence[int]], runs: Sequence[Run], tokens: CompressedTokens, video_token: int
    ) -> WholePrompt:
        """Build the prompt with all tokens of the video; `runs` lay out the kept tokens.

        `texts` holds the token ids of each run's text. Runs have equally many consecutive frames.
        """
        (rows, cols), frames = tokens.grid, len(tokens.timestamps_s)
        per_run = frames // len(runs) * rows * cols
        words: list[int] = []
        kinds: list[int] = []
        # For each kept row, its token (-1 for text), and its index without the token's cell.
        kept: list[int] = []
        shifts: list[int] = []
        # A token's row is its index in the video plus the text rows before it.
        shift = 0
        for text, run in zip(texts, runs, strict=True):
            # 1. All text is kept.
            kept += [-1] * len(text)
            shifts += range(len(words), len(words) + len(text))
            shift += len(text)
            # 2. The kept tokens of the run's frames.
            kept += run.rows
            shifts += [shift] * len(run.rows)
            # 3. The whole prompt has the run's text and all tokens of its frames.
            words += [*text, *[video_token] * per_run]
            kinds += [*[_OF_TEXT] * len(text), *[_OF_VIDEO] * per_run]
        # 4. Cells are added on the device, so that nothing is read back.
        cell = tokens.cell
        token, row = (uploaded(torch.tensor(numbers), cell.device) for numbers in (kept, shifts))
        row = row + cell[token.clamp(min=0)].where(token >= 0, 0)
        # One more text token gives the position of the text after the video.
        return cls(torch.tensor([[*words, 0]]), torch.tensor([[*kinds, _OF_TEXT]]), row)

    def of_kept(self, positions: Tensor) -> tuple[Tensor, int]:
        """Return the position ids [3, 1, P] of the kept rows, and the position after the video.

        `positions` [3, 1, L] are the position ids of all rows, on the host.
        """
        return uploaded(positions, self.rows.device)[..., self.rows], int(positions[0, 0, -1])


def seconds_per_frame(timestamps_s: Sequence[float]) -> float:
    """Return the mean time between frames, in seconds; 1 for a single frame."""
    between = len(timestamps_s) - 1
    return (timestamps_s[-1] - timestamps_s[0]) / between if between else 1.0
