"""The clip again, as a video that shows what became of every patch.

`token_fates` says what is to be drawn, `paint` draws it on one picture, `film` reads, draws and encodes all of them.
"""

from __future__ import annotations

from aot.reports.overlay.film import check_overlay, write_overlay
from aot.reports.overlay.paint import TokenFates, token_fates

__all__ = ["TokenFates", "check_overlay", "token_fates", "write_overlay"]
