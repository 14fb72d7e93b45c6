"""A real browser, and pages opened in it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium; the tests that open pages are skipped without one."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no browser is installed; looked for {', '.join(BROWSERS)}")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield opened
        opened.close()


@dataclass
class Opened:
    """A page in the browser, what it said on its console, and all addresses that it asked for."""

    page: Any
    said: list[str] = field(default_factory=list)
    requested: list[str] = field(default_factory=list)


@pytest.fixture
def open_page(browser: Any, tmp_path: Path) -> Iterator[Any]:
    """open_page(text or path, **options): opened in a tab of its own."""
    contexts = []

    def show(content: str | Path, **options: Any) -> Opened:
        path = content if isinstance(content, Path) else tmp_path / "page.html"
        if isinstance(content, str):
            path.write_text(content, encoding="utf-8")
        contexts.append(browser.new_context(**options))
        opened = Opened(contexts[-1].new_page())
        opened.page.on("console", lambda message: opened.said.append(message.text))
        opened.page.on("pageerror", lambda error: opened.said.append(str(error)))
        opened.page.on("request", lambda request: opened.requested.append(request.url))
        opened.page.on("dialog", lambda dialog: (opened.said.append("dialog"), dialog.dismiss()))
        opened.page.goto(path.as_uri())
        return opened

    yield show
    for context in contexts:
        context.close()
