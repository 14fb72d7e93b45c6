"""Change the files of a checkpoint."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def edit_json(path: Path, **changes: Any) -> None:
    """Replace keys at the top level of a JSON file."""
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**content, **changes}), encoding="utf-8")


class Touch:
    """An object that creates a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.marker),))
