"""Reduce the work of the vision tower: merge tokens or frames, or reuse work."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from aot.compression.in_tower.earlytom import frame_merging_needs
from aot.compression.in_tower.stc import reuse_needs
from aot.config.schema import TowerConfig
from aot.errors import UnsupportedError
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
        UnsupportedError: If the method merges tokens inside the tower, and a reduction is named.
    """
    reduced = _REDUCTIONS.get(config.name)
    if reduced is None:
        return needs
    if needs.merging is not None:
        raise UnsupportedError(
            f"--tower {config.name} does not work with a method that merges tokens inside the vision tower (tome, "
            "tempme, or a plug-in); use --tower full, or another --method"
        )
    return reduced(needs, config)
