"""Check the output files of a command before it loads or decodes anything."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from pathlib import Path

from aot.errors import ConfigError
from aot.runtime.atomic_writes import check_writable
from aot.runtime.paths import is_same_file
from aot.storage.tokens_file import check_suffix, is_tokens_file

__all__ = ["check_outputs"]

_ENDINGS = {"--report": (".json", ".csv"), "--html": (".html", ".htm"), "--overlay": (".mp4",)}


def check_outputs(
    source: str, outputs: Mapping[str, Path | None], *, force: bool, output_ending: str | None = None
) -> None:
    """Check that the files in `outputs`, which maps flags to files, can be written.

    The file of --output ends in `output_ending`; None: it is a tokens file.

    Raises:
        ConfigError: If a suffix is wrong, two flags name the same file, or `source` is a tokens
            file and `--html` is given.
        OutputError: If a file cannot be written, exists (unless `force`) or is `source` itself.
    """
    named = {flag: path for flag, path in outputs.items() if path is not None}
    if "--html" in named and is_tokens_file(source):
        raise ConfigError("--html shows the frames of a video, which a tokens file does not have; give the video")
    for flag, path in named.items():
        endings = (output_ending,) if flag == "--output" and output_ending else _ENDINGS.get(flag)
        if endings is None:
            check_suffix(path)
        elif path.suffix.lower() not in endings:
            raise ConfigError(f"{path.name} must end in {' or '.join(endings)}")
        check_writable(path, overwrite=force, source=source)
    for (flag, path), (other, second) in combinations(named.items(), 2):
        if is_same_file(path, second):
            raise ConfigError(f"{flag} and {other} are the same file; give them different names")
