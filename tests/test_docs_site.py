"""The pages of docs/ build without a broken link, are all in the navigation, and ask no other host for anything."""

from __future__ import annotations

import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import yaml

import aot
from aot.plugins import INNER as REDUCTIONS
from aot.plugins import METHODS, find

ROOT = Path(__file__).parents[1]
PAGES = sorted(path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md"))
REFERENCE = ("json.md", "log.md", "settings.md")  # pages that grow with what they record or list
# Attributes whose address a browser fetches by itself; of <link> only these kinds.
FETCHED = {"src", "srcset", "poster", "data", "background"}
FETCHED_LINKS = {"stylesheet", "icon", "preload", "prefetch", "preconnect", "dns-prefetch", "modulepreload", "manifest"}


@dataclass
class Addresses(HTMLParser):
    """What a page fetches, what it links to, and the anchors that it has."""

    fetched: list[str] = field(default_factory=list)
    linked: list[str] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value for name, value in attrs if value is not None}
        self.anchors.update(given[name] for name in ("id", "name") if name in given)
        self.fetched += [given[name] for name in FETCHED & given.keys() if not given[name].startswith("data:")]
        if tag == "link" and FETCHED_LINKS & set(given.get("rel", "").split()):
            self.fetched.append(given["href"])
        elif "href" in given and tag == "a":
            self.linked.append(given["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; a broken link, a missing anchor or an unknown Python name ends the build."""
    pytest.importorskip("zensical", reason="zensical is not installed; pip install -e '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    shutil.copy(ROOT / "mkdocs.yml", folder)
    shutil.copytree(ROOT / "docs", folder / "docs")
    shutil.copytree(ROOT / "aot", folder / "aot", ignore=shutil.ignore_patterns("model", "__pycache__"))
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return folder / "site"


def _parsed(site: Path) -> dict[Path, Addresses]:
    pages = {}
    for path in sorted(site.rglob("*.html")):
        pages[path] = Addresses()
        pages[path].feed(path.read_text(encoding="utf-8"))
    return pages


def _is_elsewhere(address: str) -> bool:
    return bool(urlsplit(address).netloc)


def test_links_lead_somewhere(site: Path) -> None:
    """Also those of the navigation, which the build does not check."""
    pages = _parsed(site)
    broken = []
    for page, found in pages.items():
        if page.name == "404.html":
            continue  # its addresses begin at the root of a server
        for address in (*found.linked, *found.fetched):
            parts = urlsplit(address)
            if parts.netloc or parts.scheme in ("mailto", "data"):
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            target = target / "index.html" if target.is_dir() else target
            exists = target.is_file() and (
                not parts.fragment
                or target.suffix != ".html"
                or target not in pages
                or unquote(parts.fragment) in pages[target].anchors | {"__skip"}
            )
            if not exists:
                broken.append(f"{page.relative_to(site)}: {address}")
    assert not broken


def test_pages_fetch_nothing_from_elsewhere(site: Path) -> None:
    for page, found in _parsed(site).items():
        assert not [address for address in found.fetched if _is_elsewhere(address)], page
    for path in site.rglob("*.css"):
        style = path.read_text(encoding="utf-8")
        assert not re.findall(r"(?:@import\s+|url\()\s*[\"']?(?:https?:)?//[^)\"']*", style), path


@pytest.fixture
def address(site: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def test_a_browser_asks_no_other_host(site: Path, address: str, browser: Any) -> None:
    """What scripts fetch is not in the HTML; so every page is opened."""
    asked: list[str] = []
    context = browser.new_context()
    page = context.new_page()
    page.on("request", lambda request: asked.append(request.url))
    for path in PAGES:
        page.goto(address + path.replace(".md", ".html"))
    context.close()
    assert len(asked) > len(PAGES)
    assert not [url for url in asked if not url.startswith((address, "data:", "blob:"))]


def _navigation(entries: object) -> Iterator[str]:
    if isinstance(entries, str):
        yield entries
    elif isinstance(entries, dict):
        yield from _navigation(list(entries.values()))
    elif isinstance(entries, list):
        for entry in entries:
            yield from _navigation(entry)


def test_every_page_is_in_the_navigation() -> None:
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert sorted(_navigation(settings["nav"])) == PAGES


@pytest.mark.parametrize("page", PAGES)
def test_pages_are_short_and_begin_with_what_they_hold(page: str) -> None:
    lines = (ROOT / "docs" / page).read_text(encoding="utf-8").splitlines()
    assert page in REFERENCE or len(lines) < 300
    assert lines[0].startswith("# ")
    assert lines[1] == ""
    assert re.match(r"[A-Z*`]", lines[2]), "a page opens with a sentence on what the reader finds in it"


def test_the_readme_is_short_and_its_links_lead_somewhere(site: Path) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) < 200
    pages = _parsed(site)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        parts = urlsplit(target)
        assert parts.netloc or (ROOT / parts.path).exists(), target
        page = site / Path(parts.path).with_suffix(".html").name
        assert not parts.fragment or parts.fragment in pages[page].anchors, target


def test_every_public_name_is_on_the_page_of_the_python_api() -> None:
    page = (ROOT / "docs" / "python-api.md").read_text(encoding="utf-8")
    shown = {name.rpartition(".")[2] for name in re.findall(r"^::: (\S+)$", page, re.MULTILINE)}
    assert set(aot.__all__) - {"__version__"} <= shown


def test_the_page_of_settings_shows_what_is_declared() -> None:
    found = runpy.run_path(str(ROOT / "docs" / "write_settings.py"))
    written = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert written == found["page"](), "run python docs/write_settings.py"
    assert all(f"\n| `{path}` |" in written for path in ("aot.clips.frames", "methods.fastvid.own_weight"))


def test_the_page_of_methods_has_all_of_them_with_their_papers() -> None:
    text = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    named = [(name, "methods") for name in METHODS] + [(name, "inner") for name in REDUCTIONS]
    cards = [(name, find(name, kind).card) for name, kind in named]
    declared = [f"| `{name}` | {card.acts} | {card.source} |" for name, card in cards]
    assert re.findall(r"^\| `[a-z][a-z0-9-]*` \| [a-z].* \| .*\|$", text, re.MULTILINE) == declared
