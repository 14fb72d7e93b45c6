"""How long a page of 64 frames takes: to make, and to open in a headless Chromium.

    python docs/performance/page.py [FRAMES] [RATIO]

The frames are noise over a gradient, so that their pictures are larger files than those of most videos.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from aot.compression.methods import Method, build_method
from aot.compression.ops.source_weights import of_kept
from aot.config.schema import Config
from aot.reports.frame_pictures import jpeg
from aot.reports.html import ShownRun, ShownVideo, render_page
from aot.reports.retention import frame_retention
from aot.types import CompressedTokens, Pooling, VisualTokens

GRID, PER_FRAME, WIDTH = (27, 27), 196, 896
RUNS = 5


def timed(run: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    start = time.perf_counter()
    return run(*arguments), time.perf_counter() - start


def tokens_of(frames: int, layers: tuple[int, ...]) -> VisualTokens:
    generator = torch.Generator().manual_seed(0)
    patches = GRID[0] * GRID[1]
    scene = torch.randn(1, patches, WIDTH, generator=generator)
    features = scene + 0.5 * torch.randn(frames, patches, WIDTH, generator=generator)
    saliency = {layer: torch.rand(frames, patches, generator=generator) for layer in layers}
    return VisualTokens(features, GRID, Pooling("bilinear", 2), tuple(map(float, range(frames))), saliency)


def traced(method: Method, visual: VisualTokens, budget: int) -> CompressedTokens:
    kept = method.compress(replace(visual, traced=True), budget)
    return replace(kept, sources=of_kept(kept))


def pictures_of(frames: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    ramp = torch.linspace(0, 200, 384)[:, None].expand(384, 384)
    noise = torch.rand(frames, 3, 96, 96, generator=generator).mul(55).repeat_interleave(4, 2).repeat_interleave(4, 3)
    return (ramp + noise).to(torch.uint8)


def shown_in(tab: Any, page: Path) -> None:
    tab.goto(page.as_uri())
    tab.wait_for_selector(".token")


def opening_s(page: Path) -> list[float]:
    """From the request to the picture with overlay of the first frame, one tab after the other."""
    from playwright.sync_api import sync_playwright

    found = []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for _ in range(RUNS):
            tab = browser.new_page()
            found.append(timed(shown_in, tab, page)[1])
            tab.close()
        browser.close()
    return found


def main(frames: int, ratio: float) -> None:
    config = Config(method="aot", ratio=ratio)
    method = build_method(config)
    visual = tokens_of(frames, method.needs.saliency_layers)
    pixels = pictures_of(frames)
    rows: dict[str, list[float]] = {"compress": [], "sources": [], "pictures": [], "page": []}
    for _ in range(RUNS):
        kept, spent = timed(method.compress, visual, config.token_budget(frames, PER_FRAME))
        rows["compress"].append(spent)
        kept, spent = timed(traced, method, visual, config.token_budget(frames, PER_FRAME))
        rows["sources"].append(spent)
        pictures, spent = timed(lambda: [jpeg(image) for image in pixels])
        rows["pictures"].append(spent)
        run = ShownRun(
            "aot", kept, frame_retention(kept, PER_FRAME, [0.9] * (frames - 1)), frames * PER_FRAME,
            len(kept.features), {"encode": 1.0}, {}, "aot", config,
        )  # fmt: skip
        video = ShownVideo("clip.mp4", (1280, 720), pictures, {}, {"aot": "0"})
        text, spent = timed(render_page, video, [run])
        rows["page"].append(spent)
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        page.write_text(text, encoding="utf-8")
        rows["opening"] = opening_s(page)
        size = page.stat().st_size
    print(f"{frames} frames, {len(kept.features)} tokens kept, {size / 1e6:.2f} MB")
    for name, times in rows.items():
        print(f"{name:>9}  median {statistics.median(times):.3f} s  ({min(times):.3f} to {max(times):.3f})")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 64, float(sys.argv[2]) if len(sys.argv) > 2 else 0.1)
