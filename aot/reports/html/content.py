"""What a page shows, and the part of it that its script draws from, as plain values."""

from __future__ import annotations

import base64
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aot.reports.provenance import Fate, fates
from aot.reports.retention import FrameRetention
from aot.runtime.text import visible as printable
from aot.types import CompressedTokens, Provenance, Role

__all__ = ["ShownRun", "ShownVideo", "drawn", "shown_frames"]

_MOST_FRAMES = 128
_BLOCK_FRAMES = 8  # frames in a row, where not all of them are shown
_MOST_SOURCES = 48
_LEAST_SHARE = 0.005
_ROLES = {Role.KEPT: "kept", Role.KEYFRAME: "keyframe", Role.DISTINCT: "distinct", Role.MERGED: "merged"}


@dataclass(frozen=True, slots=True)
class ShownVideo:
    """What all runs of a page share. pictures: a JPEG file of each encoded frame. size: (width, height) when shown.
    facts: name and value of what is worth telling of video and model.
    """

    name: str
    size: tuple[int, int]
    pictures: Sequence[bytes]
    facts: Mapping[str, str]
    versions: Mapping[str, str]
    notices: Sequence[str] = ()


@dataclass(frozen=True)
class ShownRun:
    """One method at one ratio. frames: a row for each encoded frame. budget_tokens: what was promised, if anything was.
    answers: (question, answer) pairs. peak_bytes: the most at any time, None if not known. command: what does the same
    again. config: plain values.
    """

    name: str
    tokens: CompressedTokens
    origin: Provenance
    frames: Sequence[FrameRetention]
    visual_tokens: int
    budget_tokens: int | None
    costs_ms: Mapping[str, float]
    peak_bytes: Mapping[str, int | None]
    command: str
    config: Mapping[str, Any]
    answers: Sequence[tuple[str, str]] = ()

    @property
    def kept_tokens(self) -> int:
        return len(self.tokens.features)

    @cached_property
    def fates(self) -> Tensor:
        """Of every pooled token: uint8 [F, n]."""
        return fates(self.tokens, self.origin)


def shown_frames(frames: int) -> list[int]:
    """Which of `frames` are shown in pictures: all, or of very many blocks in a row at even distances."""
    if frames <= _MOST_FRAMES:
        return list(range(frames))
    blocks = _MOST_FRAMES // _BLOCK_FRAMES
    firsts = (block * (frames - _BLOCK_FRAMES) // (blocks - 1) for block in range(blocks))
    return [first + offset for first in firsts for offset in range(_BLOCK_FRAMES)]


def drawn(video: ShownVideo, runs: Sequence[ShownRun]) -> dict[str, Any]:
    """What the script draws: pictures, and of each run the fates of all places and the sources of its tokens."""
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
    tokens = run.tokens
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
        "tokens": _described_tokens(tokens, run.origin, visible),
        "into": _holders(tokens, run.origin, fate.flatten(), is_shown.repeat_interleave(per_frame)),
    }


def _described_tokens(tokens: CompressedTokens, origin: Provenance, visible: Tensor) -> list[list[Any]]:
    """[number, place, role, mass, parts, sources] of each visible token. parts: how much of it is itself, of its frame
    and of other frames; sources: place and share in turns, strongest first.
    """
    sources, parts = _strongest_sources(origin), _parts(tokens, origin).tolist()
    place, role, mass = tokens.place.tolist(), tokens.role.tolist(), tokens.mass.tolist()
    return [
        [
            token,
            place[token],
            _ROLES[Role(role[token])],
            round(mass[token], 2),
            [round(part, 4) for part in parts[token]],
            sources.get(token, []),
        ]
        for token in visible.tolist()
    ]


def _parts(tokens: CompressedTokens, origin: Provenance) -> Tensor:
    """[K, 3], the share of each token that is itself, of other places in its frame, and of other frames."""
    per_frame, own = math.prod(tokens.grid), tokens.place.cpu()[origin.token]
    elsewhere = (origin.place // per_frame != own // per_frame).long()
    kind = torch.where(origin.place == own, 0, 1 + elsewhere)
    parts = torch.zeros(len(tokens.features) * 3)
    return parts.index_add_(0, origin.token * 3 + kind, origin.share).view(-1, 3)


def _strongest_sources(origin: Provenance) -> dict[int, list[int | float]]:
    token, share = origin.token.numpy(), origin.share.numpy()
    order = np.lexsort((-share, token))
    ordered = token[order]
    rank = np.arange(len(ordered)) - np.searchsorted(ordered, ordered)
    best = order[(rank < _MOST_SOURCES) & (share[order] >= _LEAST_SHARE)]
    sources: dict[int, list[int | float]] = defaultdict(list)
    columns = (token[best].tolist(), origin.place.numpy()[best].tolist(), share[best].tolist())
    for owner, place, part in zip(*columns, strict=True):
        sources[owner] += (place, round(part, 4))
    return sources


def _holders(tokens: CompressedTokens, origin: Provenance, fate: Tensor, visible: Tensor) -> dict[str, list[int]]:
    """The visible places that are merged into others, and for each the token that holds most of it."""
    held = origin.share * tokens.mass.cpu()[origin.token]
    order = held.sort(stable=True).indices
    holder = np.full(len(fate), -1)
    holder[origin.place[order].numpy()] = origin.token[order].numpy()  # NumPy keeps the last one written, the greatest
    places = ((fate == Fate.MERGED) & visible).nonzero()[:, 0]
    return {"place": places.tolist(), "token": holder[places.numpy()].tolist()}
