"""The pictures of a page in README.md.

aot ask clouds-720p.mp4 "what happens?" --frames 16 --method aot --model shapes --html kept.html
python docs/draw_page.py kept.html
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

FRAME = 4
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


def main(page: str) -> None:
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name, start, options in (
            ("page.jpg", ".tools", {"viewport": {"width": 1240, "height": 760}}),
            (
                "page-phone.jpg",
                "#film .clip:nth-child(2)",
                {"viewport": {"width": 390, "height": 760}, "color_scheme": "dark"},
            ),
        ):
            tab = browser.new_page(**options)
            tab.goto(Path(page).resolve().as_uri())
            draw(tab, name, start)
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1])
