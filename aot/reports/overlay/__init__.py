"""Write a copy of a video that shows the fate of every patch.

`token_fates` computes the fates, `paint` draws them on one picture, and `film` reads, draws and
encodes all pictures.
"""

from __future__ import annotations

from aot.reports.overlay.film import check_overlay, write_overlay
from aot.reports.overlay.paint import TokenFates, token_fates

__all__ = ["TokenFates", "check_overlay", "token_fates", "write_overlay"]
