"""Write a web page in one file that shows the kept tokens.

The page shows pictures first, then numbers, then the command that reproduces the result.
"""

from __future__ import annotations

from aot.reports.html.content import ShownRun, ShownVideo
from aot.reports.html.pages import run_name, shown_run, shown_video, unshown, write
from aot.reports.html.render import render_page

__all__ = ["ShownRun", "ShownVideo", "render_page", "run_name", "shown_run", "shown_video", "unshown", "write"]
