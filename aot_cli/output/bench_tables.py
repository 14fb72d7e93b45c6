"""Make the tables of `aot bench`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

if TYPE_CHECKING:
    from aot.bench import CompressorSize, Figure
    from aot.bench.compressor import CompressorTimes
    from aot.bench.video import VideoTimes

__all__ = ["bench_table", "compressor_table"]


def bench_table(times: VideoTimes) -> Table:
    """Return a table with a row per stage: time without and with compression, and the speed-up."""
    plain, kept = times.arms
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True)
    for arm in (plain, kept):
        table.add_column(f"{arm.name}, {arm.kept_tokens} tokens", justify="right", no_wrap=True)
    table.add_column("faster", justify="right", no_wrap=True)
    names = {
        "decode_ms": "decode ms (in parallel)", "encode_ms": "encode ms", "compress_ms": "compress ms",
        "phase_one_ms": "  phase I of it", "phase_two_ms": "  phase II of it", "prefill_ms": "prefill ms",
        "first_token_ms": "file to first token ms", "total_ms": "file to last token ms",
        "tokens_per_s": "tokens per s after the first",
    }  # fmt: skip
    for name, title in names.items():
        speedup = times.speedup.get(name)
        cells = (_spread(arm.figures[name]) for arm in (plain, kept))
        table.add_row(title, *cells, f"{speedup.median:.2f} x" if speedup else "")
    table.add_row("peak host MB", *(_megabytes(arm.host_bytes) for arm in (plain, kept)), "")
    if plain.device_bytes is not None:
        table.add_row("peak device MB", *(_megabytes(arm.device_bytes) for arm in (plain, kept)), "")
    return table


def compressor_table(size: CompressorSize, times: CompressorTimes) -> Table:
    """Return a table of the compressor's input size, times, memory and bandwidth."""
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
            table.add_row(title, _spread(times.figures[name]))
    extra = times.extra_host_bytes if times.extra_device_bytes is None else times.extra_device_bytes
    table.add_row("features MB", f"{times.feature_bytes / 1e6:.3g}")
    peak = "not known" if extra is None else f"{extra / 1e6:.3g} MB, {extra / times.feature_bytes:.2f} x"
    table.add_row("peak memory beyond the features", peak)
    table.add_row("copy GB/s", f"{times.copy_bytes_per_s / 1e9:.1f}")
    table.add_row("bandwidth for one pass, share of a copy", f"{times.of_copy:.1%}")
    return table


def _megabytes(size_bytes: int | None) -> str:
    return "not known" if size_bytes is None else f"{size_bytes / 1e6:.0f}"


def _spread(figure: Figure) -> str:
    """Return "median (least to most)", or "" if the stage did not run."""
    if not figure.most:
        return ""
    digits = 0 if figure.median >= 100 else 1 if figure.median >= 1 else 3
    return f"{figure.median:.{digits}f} ({figure.least:.{digits}f} to {figure.most:.{digits}f})"
