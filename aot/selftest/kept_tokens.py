"""Check that every method keeps, on every device, the tokens listed in the bundled record.

Rounding differs between devices, which may change close decisions. A method therefore passes if it
keeps at least 90 % of the recorded tokens.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from functools import partial
from importlib.resources import files

from aot.pipeline.run import Pipeline, Refusal, compress_each
from aot.plugins import METHODS
from aot.selftest.bundled import clip_file, config_of, devices, loaded
from aot.selftest.check import Check, CheckFailedError

__all__ = ["RECORD_FILE", "checks", "kept_cells", "recorded_cells"]

RECORD_FILE = "kept.json"
_RATIO = 0.25  # the lowest ratio that all methods support
_SHARE_LIMIT = 0.9
_QUESTION = "what happens?"  # for methods that read it


def checks() -> Iterator[Check]:
    """Yield one check per device, which covers all methods in float32."""
    for device in devices():
        yield Check(f"kept tokens on {device}", partial(_compare_all, device))


def kept_cells(device: str) -> dict[str, list[int]]:
    """Return the cells that each method keeps: indices in [0, F * n), in output order."""
    model = loaded(device, "float32")
    pipelines = {name: Pipeline(model, config_of(method=name, ratio=_RATIO)) for name in METHODS if name != "none"}
    with clip_file() as clip:
        kept = {id(pipeline): result for pipeline, result in compress_each(list(pipelines.values()), clip, [_QUESTION])}
    cells = {}
    for name, pipeline in pipelines.items():
        result = kept[id(pipeline)]
        if isinstance(result, Refusal):
            raise result.error
        cells[name] = result.tokens.cell.tolist()
    return cells


def recorded_cells() -> dict[str, list[int]]:
    """Return the result of `kept_cells` that is bundled with the package."""
    record: dict[str, list[int]] = json.loads((files("aot.selftest") / RECORD_FILE).read_text(encoding="utf-8"))
    return record


def _compare_all(device: str) -> str:
    record = recorded_cells()
    found = kept_cells(device)
    shares = {name: _shared(found[name], cells) for name, cells in record.items()}
    same = sum(found[name] == cells for name, cells in record.items())
    detail = f"{same} of {len(record)} methods keep exactly the recorded tokens"
    off = {name: share for name, share in shares.items() if share < 1}
    if off:
        detail += "; the others: " + ", ".join(f"{name} {share:.0%}" for name, share in off.items())
    if min(shares.values()) < _SHARE_LIMIT:
        raise CheckFailedError(f"{detail} (at least {_SHARE_LIMIT:.0%} each)")
    return detail


def _shared(found: list[int], recorded: list[int]) -> float:
    """Return (number of common cells) / (length of the longer list); cells may repeat."""
    both = Counter(found) & Counter(recorded)
    return both.total() / max(len(found), len(recorded))
