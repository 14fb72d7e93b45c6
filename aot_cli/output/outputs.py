"""What a command will write, checked in one place before it loads or decodes anything."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from pathlib import Path

from aot.errors import ConfigError
from aot.runtime.atomic_writes import check_writable
from aot.runtime.paths import is_same_file
from aot.storage.tokens_file import check_suffix

__all__ = ["check_outputs"]

_ENDINGS = {"--report": (".json", ".csv"), "--html": (".html", ".htm"), "--overlay": (".mp4",)}


def check_outputs(source: str, outputs: Mapping[str, Path | None], *, force: bool) -> None:
    """See that files by the names of the flags that ask for them can be written, `force`: in place of others.

    Raises:
        ConfigError: a name has not the ending of its format, or two are of one file.
        OutputError: as `aot.runtime.atomic_writes.check_writable`, for instance because it is the source's own file.
    """
    named = {flag: path for flag, path in outputs.items() if path is not None}
    for flag, path in named.items():
        if flag == "--output":
            check_suffix(path)
        elif path.suffix.lower() not in _ENDINGS[flag]:
            raise ConfigError(f"{path.name} must end in {' or '.join(_ENDINGS[flag])}")
        check_writable(path, overwrite=force, source=source)
    for (flag, path), (other, second) in combinations(named.items(), 2):
        if is_same_file(path, second):
            raise ConfigError(f"{flag} and {other} name the same file; give them two names")
