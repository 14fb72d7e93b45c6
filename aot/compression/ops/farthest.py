"""Pick items one after the other, each as far as possible from those picked before.

Three methods pick in this way, each with a table of its own: `standout` in each frame, and
`simplecluster` and `unified-stc` in the whole video.
"""

from __future__ import annotations

import torch
from torch import Tensor

from aot.compression.ops.kernels import runs_triton

__all__ = ["TABLE_BYTES", "pick_farthest", "table_fits"]

# Largest table of all pairs. Without a table, each pick multiplies all features and so reads them:
# 28 GB, 7 ms, for 627 picks among 6272 tokens with D = 3584 in half precision. The table takes one
# product, 0.28 TFLOP or 0.5 ms, and each pick reads 25 KB of it.
TABLE_BYTES = 1 << 30
_CHECKED = 6  # steps after which the CPU checks whether it can stop


def table_fits(items: int, device: torch.device, most_bytes: int = TABLE_BYTES) -> bool:
    """Return whether to pick on `device` from a float32 table of all pairs of items."""
    return runs_triton(device) and 4 * items * items <= most_bytes


def pick_farthest(gains: Tensor, table: Tensor, steps: int, enough: int | None = None) -> tuple[Tensor, Tensor]:
    """Return the gains and the indices, [B, steps], of the items that B problems pick.

    Each step picks the item with the highest gain; ties go to the lower index. Then row i of the
    table, where i is the picked item, limits all gains: gain = min(gain, table[i]). So the gains of
    the steps never increase. The diagonal limits the gains of the picked items themselves.

    Args:
        gains: [B, m], the gains before the first step.
        table: [B, m, m], the limits.
        steps: the number of steps, at most m.
        enough: stop when this number of gains is above all gains that can follow. Only the CPU
            stops, as no other device can without a wait; the results then have fewer columns.
    """
    if runs_triton(gains.device):
        from aot.compression.ops.farthest_kernel import pick_queued

        return pick_queued(gains, table, steps)
    batch, items = gains.shape
    enough = enough if gains.device.type == "cpu" else None
    # The loop allocates nothing; each step is one row of the results.
    rows, gains, limits = table.flatten(0, 1), gains.clone(), torch.empty_like(gains)
    first = torch.arange(batch, device=gains.device) * items
    best, picks, at = gains.new_empty(steps, batch), first.new_empty(steps, batch), torch.empty_like(first)
    for step in range(steps):
        torch.max(gains, -1, out=(best[step], picks[step]))
        if enough and step % _CHECKED == 0 and (best[:step] > best[step].max()).sum() >= enough:
            return best[:step].mT, picks[:step].mT
        torch.index_select(rows, 0, torch.add(first, picks[step], out=at), out=limits)
        torch.minimum(gains, limits, out=gains)
    return best.mT, picks.mT
