"""Draw docs/pipeline.svg: python docs/draw_pipeline.py

The anchors and kept cells are what `aot.compression.ops` selects for a saliency map with two bright spots that move;
a later frame's cells count as changed where the keyframe keeps none.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from aot.compression.aot.anchors import rank_patches
from aot.compression.aot.budget import kept_cells
from aot.compression.ops.grid import pool
from aot.types import Pooling

GRID, ANCHORS = (27, 27), 126
INK, SOFT, PAPER = "#1f2933", "#7b8794", "#ffffff"
LOCAL, GLOBAL, KEPT, DISTINCT, MERGED = "#0072b2", "#d55e00", "#0072b2", "#e69f00", "#009e73"
FAINT = "#e4e7eb"


def saliency(shift: float, waves: float) -> Tensor:
    row, col = torch.meshgrid(torch.arange(27.0), torch.arange(27.0), indexing="ij")
    spots = sum(
        torch.exp(-((row - r) ** 2 + (col - c - shift) ** 2) / (2 * s**2)) for r, c, s in ((9, 7, 3.5), (18, 19, 4.5))
    )
    texture = 0.15 * torch.sin(waves * row) * torch.cos(0.8 * waves * col)
    return (0.3 + spots + texture).flatten()[None]


def cells(x: float, y: float, size: float, grid: int, colors: list[str]) -> str:
    gap = size * 0.14
    return "".join(
        f'<rect x="{x + (i % grid) * size:.1f}" y="{y + (i // grid) * size:.1f}" width="{size - gap:.2f}" '
        f'height="{size - gap:.2f}" fill="{color}"/>'
        for i, color in enumerate(colors)
    )


def text(x: float, y: float, words: str, size: int = 13, color: str = INK, weight: str = "normal") -> str:
    return (
        f'<text x="{x}" y="{y}" font-size="{size}" fill="{color}" font-weight="{weight}" '
        f'text-anchor="middle">{words}</text>'
    )


def arrow(x: float, y: float, length: float, label: str) -> str:
    return (
        f'<path d="M{x} {y}h{length - 8}" stroke="{SOFT}" stroke-width="2" fill="none"/>'
        f'<path d="M{x + length - 9} {y - 5}l9 5l-9 5z" fill="{SOFT}"/>' + text(x + length / 2, y - 10, label, 11, SOFT)
    )


def anchor_colors(shift: float) -> tuple[list[str], Tensor]:
    shallow, deep = saliency(shift, 1.3), saliency(shift, 0.2)
    ranking = rank_patches(shallow, deep, GRID)
    mask = ranking.select(ANCHORS, 0.5)
    per_window, _ = ranking.split(ANCHORS, 0.5)
    local = ranking.window_rank[0] < per_window
    colors = [LOCAL if near else GLOBAL if any_ else FAINT for near, any_ in zip(local, mask[0], strict=True)]
    return colors, kept_cells(pool(mask.float()[..., None], GRID, Pooling("bilinear"))[..., 0])[0]


def pooled_colors(kept: Tensor, first: Tensor | None) -> list[str]:
    """Keyframe cells, or for a later frame the cells that the keyframe does not have (distinct)."""
    if first is None:
        return [KEPT if cell else FAINT for cell in kept]
    return [DISTINCT if now and not then else MERGED if now else FAINT for now, then in zip(kept, first, strict=True)]


def legend(x: float, y: float, entries: list[tuple[str, str]]) -> str:
    parts = []
    for color, words in entries:
        parts.append(f'<rect x="{x}" y="{y - 10}" width="11" height="11" fill="{color}"/>')
        parts.append(f'<text x="{x + 17}" y="{y}" font-size="12" fill="{INK}">{words}</text>')
        y += 19
    return "".join(parts)


def draw() -> str:
    colors, key = anchor_colors(0.0)
    later = [anchor_colors(shift)[1] for shift in (1.2, 2.6, 4.2)]
    parts = []
    for i in range(4):  # the clip
        parts.append(
            f'<rect x="{24 + 8 * i}" y="{82 - 8 * i}" width="112" height="84" rx="4" fill="{PAPER}" '
            f'stroke="{SOFT}" stroke-width="1.5"/>'
        )
    parts += [text(92, 190, "frames", 13), text(92, 207, "729 patches each", 11, SOFT)]
    parts += [arrow(166, 115, 74, "encoder")]
    parts += [cells(252, 40, 5.8, 27, colors), text(330, 24, "Phase I: anchors", 13, INK, "bold")]
    parts += [legend(268, 218, [(LOCAL, "local anchor"), (GLOBAL, "global anchor"), (FAINT, "moves into anchors")])]
    parts += [arrow(416, 115, 74, "pool")]
    for i, frame in enumerate([key, *later]):
        x, y = 502 + (i % 2) * 88, 40 + (i // 2) * 82
        parts.append(cells(x, y, 5.4, 14, pooled_colors(frame, key if i else None)))
    parts += [text(584, 24, "Phase II: one clip", 13, INK, "bold")]
    parts += [
        legend(520, 218, [(KEPT, "keyframe"), (DISTINCT, "changed: kept"), (MERGED, "repeats: moves into keyframe")])
    ]
    parts += [arrow(678, 115, 70, "a tenth")]
    distinct = sum(int((frame & ~key).sum()) for frame in later)
    emitted = [KEPT] * int(key.sum()) + [DISTINCT] * distinct + [MERGED] * int(key.sum())
    parts += [cells(760, 50, 8, 8, emitted), text(792, 24, "tokens", 13, INK, "bold")]
    parts += [arrow(836, 115, 60, ""), text(938, 111, "language", 13), text(938, 128, "model", 13)]
    body = "".join(parts)
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 990 280" font-family="system-ui, sans-serif" '
        'role="img" aria-label="AOT keeps anchors in each frame, then what changes across a clip">'
        f'<rect width="990" height="280" fill="{PAPER}"/>{body}</svg>\n'
    )


if __name__ == "__main__":
    (Path(__file__).parent / "pipeline.svg").write_text(draw(), encoding="utf-8")
