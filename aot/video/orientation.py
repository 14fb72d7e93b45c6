"""Rotate and mirror stored pictures for display."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Orientation"]


@dataclass(frozen=True, slots=True)
class Orientation:
    """One of the eight orientations of a picture.

    Attributes:
        rotation_degrees: the clockwise rotation: 0, 90, 180 or 270.
        mirrored: whether left and right are swapped after the rotation.
    """

    rotation_degrees: int = 0
    mirrored: bool = False

    @classmethod
    def of_matrix(cls, matrix: Sequence[int] | None) -> Orientation:
        """Return the orientation of a display matrix, rounded to a quarter turn.

        The orientation is upright if `matrix` is None or singular.

        Args:
            matrix: the numbers a b u c d v x y w of ISO 14496-12, 6.2.2. A pixel at (p, q), with q
                downwards, is shown at (a p + c q, b p + d q).
        """
        if matrix is None:
            return cls()
        a, b, _, c, d = matrix[:5]
        area = a * d - b * c
        if not area:
            return cls()
        if area < 0:  # undo the mirror, which leaves a turn
            a, c = -a, -c
        quarters = round(math.degrees(math.atan2(b - c, a + d)) / 90)
        return cls(quarters % 4 * 90, area < 0)

    @property
    def swaps_sides(self) -> bool:
        """Return whether rows become columns."""
        return self.rotation_degrees in (90, 270)

    def upright(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the stored picture `rgb` [H, W, 3] as displayed, contiguous in memory."""
        import numpy as np

        turned = np.rot90(rgb, k=-self.rotation_degrees // 90)
        return np.ascontiguousarray(turned[:, ::-1] if self.mirrored else turned)
