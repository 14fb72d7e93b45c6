"""The pictures of a page in README.md.

aot ask clouds-720p.mp4 "what happens?" --frames 16 --method aot --model shapes --html kept.html
python docs/draw_page.py kept.html
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path
from typing import Any

import av
from matplotlib.image import imsave
from playwright.sync_api import sync_playwright
from rich.console import Console

from aot.config.schema import Config, SamplingConfig
from aot_cli.output.describe import describe_video
from aot_cli.output.strips import strips_of_file

FRAME, OVERLAY_S = 4, 0.85
KEYS = ("ArrowRight", "ArrowRight", "ArrowDown", "ArrowDown")
HERE = Path(__file__).parent


def draw(tab: Any, name: str, start: str) -> None:
    """What a window shows from `start` on, with a token of a keyframe pointed at."""
    tab.locator(".view svg").nth(FRAME).focus()
    for key in KEYS:
        tab.keyboard.press(key)
    tab.evaluate(f"scrollTo(0, document.querySelector('{start}').getBoundingClientRect().top + scrollY - 8)")
    tab.wait_for_timeout(500)
    tab.screenshot(path=HERE / name, type="jpeg", quality=82)


def overlay(film: str) -> None:
    """One frame, half as wide and as high."""
    with av.open(film) as container:
        frame = next(frame for frame in container.decode(video=0) if frame.time >= OVERLAY_S)
    imsave(HERE / "overlay.jpg", frame.reformat(frame.width // 2, frame.height // 2, "rgb24").to_ndarray())


def strips(clip: str, browser: Any) -> None:
    """What `aot inspect` shows in a terminal."""
    config = Config(sampling=SamplingConfig(frames=16))
    shown = strips_of_file(clip, describe_video(clip, config), config.sampling)
    console = Console(record=True, width=80, force_terminal=True, color_system="truecolor", file=io.StringIO())
    console.print(shown)
    tab = browser.new_page(viewport={"width": 1000, "height": 500})
    tab.set_content(console.export_svg(title=f"aot inspect {Path(clip).name} --frames 16"))
    tab.locator("svg").screenshot(path=HERE / "strips.jpg", type="jpeg", quality=85)


def main(clip: str, page: str, film: str) -> None:
    overlay(film)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name, start, options in (
            ("page.jpg", ".legend", {"viewport": {"width": 1240, "height": 760}}),
            (
                "page-phone.jpg",
                "#film .clip:nth-child(2)",
                {"viewport": {"width": 390, "height": 760}, "color_scheme": "dark"},
            ),
        ):
            tab = browser.new_page(**options)
            tab.goto(Path(page).resolve().as_uri())
            draw(tab, name, start)
        strips(clip, browser)
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
