"""Define the content of a page, and compute the plain values that its script draws."""

from __future__ import annotations

import base64
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aot.config.schema import Config
from aot.reports.fates import Fate, fates, sources_of
from aot.reports.retention import FrameRetention
from aot.text import visible as printable
from aot.types import CompressedTokens, Role, SourceWeights

__all__ = ["ShownRun", "ShownVideo", "drawn", "shown_frames"]

_MOST_FRAMES = 128
_BLOCK_FRAMES = 8  # number of consecutive frames in a block, if not all frames are shown
_MOST_SOURCES = 48
_LEAST_WEIGHT = 0.005
_ROLES = {Role.KEPT: "kept", Role.KEYFRAME: "keyframe", Role.DISTINCT: "distinct", Role.MERGED: "merged"}


@dataclass(frozen=True, slots=True)
class ShownVideo:
    """Hold the data that all runs of a page share.

    Attributes:
        name: name of the video.
        size: displayed (width, height).
        pictures: a JPEG file of each encoded frame.
        facts: names and values that describe the video and the model.
        versions: versions of the packages that affect results.
        notices: sentences for the user.
    """

    name: str
    size: tuple[int, int]
    pictures: Sequence[bytes]
    facts: Mapping[str, str]
    versions: Mapping[str, str]
    notices: Sequence[str] = ()


@dataclass(frozen=True)
class ShownRun:
    """Hold the result of one method at one ratio.

    Attributes:
        name: name of the method, with the ratio.
        tokens: the kept tokens of a traced run.
        frames: one row for each encoded frame.
        visual_tokens: number of visual tokens before compression.
        budget_tokens: the token budget, or None without a budget.
        costs_ms: time of each stage.
        peak_bytes: the peak memory, with keys "host", "device" or "answering"; None if unknown.
        command: the command that reproduces the result, or an empty string.
        config: the settings.
        answers: (question, answer) pairs.
        fidelity: names and values of the comparison with the full-token model; empty without one.
    """

    name: str
    tokens: CompressedTokens
    frames: Sequence[FrameRetention]
    visual_tokens: int
    budget_tokens: int | None
    costs_ms: Mapping[str, float]
    peak_bytes: Mapping[str, int | None]
    command: str
    config: Config
    answers: Sequence[tuple[str, str]] = ()
    fidelity: Mapping[str, str] = field(default_factory=dict)

    @property
    def kept_tokens(self) -> int:
        """Return the number of kept tokens."""
        return len(self.tokens.features)

    @cached_property
    def fates(self) -> Tensor:
        """Return the fate of every pooled token, uint8 [F, n]."""
        return fates(self.tokens)


def shown_frames(frames: int) -> list[int]:
    """Return the indices of shown frames: all; of more than 128, 16 evenly spaced blocks of 8."""
    if frames <= _MOST_FRAMES:
        return list(range(frames))
    blocks = _MOST_FRAMES // _BLOCK_FRAMES
    firsts = (block * (frames - _BLOCK_FRAMES) // (blocks - 1) for block in range(blocks))
    return [first + offset for first in firsts for offset in range(_BLOCK_FRAMES)]


def drawn(video: ShownVideo, runs: Sequence[ShownRun]) -> dict[str, Any]:
    """Return the data for the page's script: pictures of shown frames, and each run's tokens."""
    tokens = runs[0].tokens
    shown = shown_frames(len(tokens.timestamps_s))
    return {
        "grid": list(tokens.grid),
        "size": list(video.size),
        "shown": shown,
        "times": [f"{time:.2f}" for time in tokens.timestamps_s],
        "pictures": [base64.b64encode(video.pictures[frame]).decode() for frame in shown],
        "runs": [_drawn_run(run, shown) for run in runs],
    }


def _drawn_run(run: ShownRun, shown: Sequence[int]) -> dict[str, Any]:
    """Return the data of one run for the script, limited to the frames with indices `shown`."""
    tokens, sources = run.tokens, sources_of(run.tokens)
    per_frame = math.prod(tokens.grid)
    fate = run.fates
    is_shown = torch.zeros(len(tokens.timestamps_s), dtype=torch.bool)
    is_shown[list(shown)] = True
    visible = is_shown[tokens.frame.long().cpu()].nonzero()[:, 0]
    return {
        "name": printable(run.name),
        "kept": run.kept_tokens,
        "counts": [run.frames[frame].kept for frame in shown],
        "clips": [[clip.first, clip.stop] for clip in tokens.clips],
        "fates": ["".join(map(str, fate[frame].tolist())) for frame in shown],
        "tokens": _described_tokens(tokens, sources, visible),
        "into": _holders(tokens, sources, fate.flatten(), is_shown.repeat_interleave(per_frame)),
    }


def _described_tokens(tokens: CompressedTokens, sources: SourceWeights, visible: Tensor) -> list[list[Any]]:
    """Return [index, cell, role, mass, parts, sources] of each token with an index in `visible`.

    `parts` has the weights of the token's own cell, of the rest of its frame and of other frames.
    The list `sources` is [cell, weight, cell, weight, ...] by descending weight.
    """
    strongest, parts = _strongest_sources(sources), _parts(tokens, sources).tolist()
    cell, role, mass = tokens.cell.tolist(), tokens.role.tolist(), tokens.mass.tolist()
    return [
        [
            token,
            cell[token],
            _ROLES[Role(role[token])],
            round(mass[token], 2),
            [round(part, 4) for part in parts[token]],
            strongest.get(token, []),
        ]
        for token in visible.tolist()
    ]


def _parts(tokens: CompressedTokens, sources: SourceWeights) -> Tensor:
    """Return [K, 3]: each token's weights of its own cell, the rest of its frame, other frames."""
    # kind 0: the cell of the token, 1: elsewhere in the same frame, 2: another frame.
    per_frame, own = math.prod(tokens.grid), tokens.cell.cpu()[sources.token]
    elsewhere = (sources.source // per_frame != own // per_frame).long()
    kind = torch.where(sources.source == own, 0, 1 + elsewhere)
    parts = torch.zeros(len(tokens.features) * 3)
    return parts.index_add_(0, sources.token * 3 + kind, sources.weight).view(-1, 3)


def _strongest_sources(sources: SourceWeights) -> dict[int, list[int | float]]:
    """Return the largest sources as {token: [cell, weight, ...]}, by descending weight."""
    token, weight = sources.token.numpy(), sources.weight.numpy()
    # Sort by token and descending weight; the rank of an entry is its index within its token.
    order = np.lexsort((-weight, token))
    ordered = token[order]
    rank = np.arange(len(ordered)) - np.searchsorted(ordered, ordered)
    best = order[(rank < _MOST_SOURCES) & (weight[order] >= _LEAST_WEIGHT)]
    strongest: dict[int, list[int | float]] = defaultdict(list)
    columns = (token[best].tolist(), sources.source.numpy()[best].tolist(), weight[best].tolist())
    for owner, cell, part in zip(*columns, strict=True):
        strongest[owner] += (cell, round(part, 4))
    return strongest


def _holders(tokens: CompressedTokens, sources: SourceWeights, fate: Tensor, visible: Tensor) -> dict[str, list[int]]:
    """Return the merged cells where `visible` is true, and the token that holds most of each."""
    held = sources.weight * tokens.mass.cpu()[sources.token]
    order = held.sort(stable=True).indices
    holder = np.full(len(fate), -1)
    # If one index is written several times, NumPy keeps the last value: the largest holder.
    holder[sources.source[order].numpy()] = sources.token[order].numpy()
    cells = ((fate == Fate.MERGED) & visible).nonzero()[:, 0]
    return {"cell": cells.tolist(), "token": holder[cells.numpy()].tolist()}
