"""Make the tables of `aot bench`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

if TYPE_CHECKING:
    from aot.bench import CompressorSize
    from aot.bench.compressor import CompressorTimes
    from aot.bench.video import VideoTimes

__all__ = ["bench_table", "compressor_table"]


def bench_table(times: VideoTimes) -> Table:
    """Return a table with a column per arm: times and ratios, memory, rates, launches."""
    from aot.bench.rows import rows_of, title_of

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("", no_wrap=True)
    for arm in times.arms:
        table.add_column(f"{title_of(arm)}\n{arm.kept_tokens} tokens", justify="right")
    for row in rows_of(times):
        table.add_row("  " * row.is_detail + row.title, *row.cells)
    return table


def compressor_table(size: CompressorSize, times: CompressorTimes) -> Table:
    """Return a table of the compressor's input size, times, memory and bandwidth."""
    from aot.bench.rows import spread

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_header=False)
    table.add_column("")
    table.add_column("", justify="right", no_wrap=True)
    table.add_row("frames, patches, width", f"{size.frames}, {size.side} x {size.side}, {size.width}")
    table.add_row("anchors, tokens kept", f"{size.anchors}, {times.kept_tokens}")
    titles = {
        "phase_one_ms": "phase I ms", "phase_two_ms": "phase II ms", "rest_ms": "selection and order ms",
        "total_ms": "whole ms", "torch_solver_ms": "whole ms, without the Triton kernel",
    }  # fmt: skip
    for name, title in titles.items():
        if name in times.figures:
            table.add_row(title, spread(times.figures[name]))
    extra = times.extra_host_bytes if times.extra_device_bytes is None else times.extra_device_bytes
    table.add_row("features MB", f"{times.feature_bytes / 1e6:.3g}")
    peak = "not known" if extra is None else f"{extra / 1e6:.3g} MB, {extra / times.feature_bytes:.2f} x"
    table.add_row("peak memory beyond the features", peak)
    table.add_row("copy GB/s", f"{times.copy_bytes_per_s / 1e9:.1f}")
    table.add_row("bandwidth for one pass, share of a copy", f"{times.of_copy:.1%}")
    return table
