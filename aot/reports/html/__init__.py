"""A web page in one file that shows what was kept: pictures first, then numbers, then how to do it again."""

from __future__ import annotations

from aot.reports.html.content import ShownRun, ShownVideo
from aot.reports.html.render import render_page

__all__ = ["ShownRun", "ShownVideo", "render_page"]
