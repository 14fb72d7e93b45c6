"""Make the bundled video and the record of kept tokens: `python -m aot.selftest.record`.

Run this module again after an intended change of a method; a test fails until then.
"""

from __future__ import annotations

import json
from pathlib import Path

from aot.runtime.atomic_writes import write_text
from aot.selftest.bundled import FRAME_SIDE, scene
from aot.selftest.kept_tokens import RECORD_FILE, kept_cells
from aot.shapes.clips import write_clip

__all__ = ["main"]


def main() -> None:
    """Write the video and the record of kept tokens next to this module."""
    folder = Path(__file__).parent
    write_clip(scene(), folder / "clip.mp4", side=FRAME_SIDE, frames_per_second=4, quality=24)
    rows = [f'  "{name}": {json.dumps(cells)}' for name, cells in kept_cells("cpu").items()]
    write_text(folder / RECORD_FILE, "{\n" + ",\n".join(rows) + "\n}\n", overwrite=True)


if __name__ == "__main__":
    main()
