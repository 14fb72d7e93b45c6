"""Make small runs by hand, for pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from aot.compression.ops.source_weights import of_kept
from aot.config.schema import Config
from aot.reports.frame_pictures import jpeg
from aot.reports.html import ShownRun, ShownVideo
from aot.reports.retention import frame_retention
from aot.types import Clip, CompressedTokens, Role, SourceWeights

ROWS, COLS = 4, 6
PER_FRAME = ROWS * COLS


def kept_by(cells: Sequence[int], roles: Sequence[Role], frames: int, clips: Sequence[Clip]) -> CompressedTokens:
    """Return tokens with these indices among all F * 24 of a 4 x 6 grid."""
    index = torch.tensor(cells)
    cell = index % PER_FRAME
    role = torch.tensor([int(each) for each in roles], dtype=torch.uint8)
    return CompressedTokens(
        features=torch.zeros(len(cells), 2),
        frame=(index // PER_FRAME).int(),
        row=(cell // COLS).int(),
        col=(cell % COLS).int(),
        role=role,
        mass=torch.where(role == Role.MERGED, 3.0, 1.0),
        grid=(ROWS, COLS),
        timestamps_s=tuple(0.5 * frame for frame in range(frames)),
        clips=tuple(clips),
    )


def small_run(frames: int = 4, **changes: Any) -> ShownRun:
    """Return a run with clips of two frames.

    In each keyframe, positions 0 and 9 are kept. Position 9 is kept a second time, merged with the
    same position of the later frame and a little of position 10. The later frame keeps position 3,
    which is distinct.
    """
    clips = Clip.runs(frames, 2)
    cells, roles, entries = [], [], []
    for clip in clips:
        key = clip.first * PER_FRAME
        for cell, role in ((0, Role.KEYFRAME), (9, Role.KEYFRAME), (PER_FRAME + 3, Role.DISTINCT), (9, Role.MERGED)):
            if cell < len(clip) * PER_FRAME:
                own = 1.0 if role != Role.MERGED else 0.4
                entries.append((len(cells), key + cell, own))
                if role == Role.MERGED:
                    entries += [(len(cells), key + PER_FRAME + 9, 0.5), (len(cells), key + 10, 0.1)]
                cells.append(key + cell)
                roles.append(role)
    tokens = kept_by(cells, roles, frames, clips)
    token, source, weight = map(torch.tensor, zip(*entries, strict=True))
    is_global = tokens.cell % PER_FRAME == 9
    sources = SourceWeights(len(cells), token, source, weight, is_global=is_global)
    return shown("aot at 10 %", replace(tokens, sources=sources), **changes)


def whole_run(frames: int = 4) -> ShownRun:
    """Return a run that keeps all tokens unchanged."""
    cells = list(range(frames * PER_FRAME))
    tokens = kept_by(cells, [Role.KEPT] * len(cells), frames, Clip.runs(frames, 1))
    return shown("none", replace(tokens, sources=of_kept(tokens)))


def shown(method: str, tokens: CompressedTokens, **changes: Any) -> ShownRun:
    """Return a run with plausible costs; `changes` replace its fields."""
    frames = len(tokens.timestamps_s)
    values: dict[str, Any] = {
        "name": method,
        "tokens": tokens,
        "frames": frame_retention(tokens, PER_FRAME, [0.95] * (frames - 1)),
        "visual_tokens": frames * PER_FRAME,
        "budget_tokens": len(tokens.features),
        "costs_ms": {"decode": 100.0, "encode": 2000.0, "compress": 30.0},
        "peak_bytes": {"host": 10**9},
        "command": f"aot ask clip.mp4 'what happens?' --method {method}",
        "config": Config(),
        "answers": [("what happens?", "a cloud grows.")],
    }
    return ShownRun(**(values | changes))


def small_video(frames: int = 4, **changes: Any) -> ShownVideo:
    """Return a video of gray pictures; `changes` replace its fields."""
    pictures = [jpeg(torch.full((3, 24, 36), 40 + 50 * (frame % 4), dtype=torch.uint8)) for frame in range(frames)]
    values: dict[str, Any] = {
        "name": "clip.mp4",
        "size": (36, 24),
        "pictures": pictures,
        "facts": {"model": "tiny"},
        "versions": {"aot": "0"},
    }
    return ShownVideo(**(values | changes))
