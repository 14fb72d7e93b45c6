"""Reduce the work of the vision tower: merge tokens or frames, or reuse work."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from aot.compression.in_tower.earlytom import frame_merging_needs
from aot.compression.in_tower.stc import reuse_needs
from aot.config.schema import TowerConfig
from aot.types import Needs

__all__ = ["tower_needs"]

# Each reduction that a user can choose for any method adds to the needs of the method.
_REDUCTIONS: Mapping[str, Callable[[Needs, TowerConfig], Needs]] = {
    "stc": reuse_needs,
    "earlytom": frame_merging_needs,
}


def tower_needs(needs: Needs, config: TowerConfig) -> Needs:
    """Return the `needs` of a method, with the reduction of the vision tower that `config` names.

    Raises:
        UnsupportedError: If the reduction does not work with the method.
    """
    reduced = _REDUCTIONS.get(config.name)
    return needs if reduced is None else reduced(needs, config)
