"""The kernels that queue AOT build to machine code for both GPUs; needs no device."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch

from tests.support.compile_kernels import AMPERE, HOPPER, Job, cubin_bytes

pytest.importorskip("triton")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(sys.platform != "linux", reason="Triton compiles for CUDA on Linux"),
]
INTS, SINGLES, DOUBLES, BYTES, HALVES = "*i32", "*fp32", "*fp64", "*i8", "*bf16"
TINY, TINY_DOUBLE = torch.finfo(torch.float32).tiny, torch.finfo(torch.float64).tiny


def pointers(**by_type: str) -> dict[str, str]:
    """Argument names, each with the type of the group it is named in."""
    types = {"ints": INTS, "singles": SINGLES, "doubles": DOUBLES, "bytes": BYTES, "halves": HALVES}
    return {name: types[group] for group, names in by_type.items() for name in names.split()}


ANCHORS = pointers(
    ints="window window_rank deep_order per_window n_global total found counts keyframe copies row_tap col_tap kept "
    "votes best anchor_index first_frame dropped dropped_counts cell_index kept_counts distinct",
    singles="shallow deep row_part col_part salience",
    bytes="masks is_anchor",
)
INTRA = pointers(
    ints="anchor_index found nearest nearest_at stopped iterations cell_index kept",
    singles="gibbs products norms rows_out rows_in rows unshift partial change late_rows late_sums late_change "
    "final_rows final_sums column_sums row_pool col_pool weights errors",
    bytes="is_anchor",
    halves="features tokens",
) | dict.fromkeys(("spatial", "epsilon", "tolerance", "lam", "blend"), "fp32")
INTER = pointers(
    ints="first_frame length kept wanted", bytes="distinct", halves="tokens",
    doubles="merged products lengths state absorbed mass",
)  # fmt: skip
EMISSION = pointers(
    ints="clip_of keyframe copies several cell_index kept wanted frame_out row_out col_out slot_out clip_out frame "
    "slot clip",
    singles="mass_out", doubles="merged_mass merged", bytes="distinct", halves="tokens features",
) | {"role_out": "*u8"}  # fmt: skip
ROLES = {"as_kept": 0, "as_keyframe": 1, "as_distinct": 2, "as_merged": 3}
BLOCKS = {"taps": 2, "patch_block": 1024, "cell_block": 256}
FRAMES, TILE = {"frame_block": 32}, {"tile_rows": 64, "tile_columns": 64, "tiny": TINY}
PROGRAMS = {"program_block": 512, "tile_block": 16}
MATCH: dict[str, Any] = {
    "sigma_frames": 1.5, "lam": 1.0, "epsilon": 0.1, "tolerance": 0.01, "margin": 1e-6, "tiny": TINY_DOUBLE,
    "parts": 8, "tile_rows": 16, "tile_columns": 256,
}  # fmt: skip
KERNELS: dict[str, list[tuple[str, dict[str, str], dict[str, Any]]]] = {
    "anchors": [
        ("rank_kernel", ANCHORS, {"tile": 64}),
        ("count_kernel", ANCHORS, {**BLOCKS, **FRAMES, "pruned": True}),
        ("search_kernel", ANCHORS, FRAMES),
        ("select_kernel", ANCHORS, BLOCKS),
        ("trim_kernel", ANCHORS, {"tile": 64, **FRAMES}),
        ("share_kernel", ANCHORS, {"cell_block": 256, **FRAMES}),
    ],
    "intra_cost": [
        ("product_kernel", INTRA, {"tile_rows": 128, "tile_columns": 128, "tile_width": 64}),
        ("gibbs_kernel", INTRA, TILE),
    ],
    "intra_sinkhorn": [
        ("step_kernel", INTRA, {**TILE, **PROGRAMS}),
        ("late_kernel", INTRA, {**TILE, **PROGRAMS}),
        ("verdict_kernel", INTRA, {"tile": 256, "late_block": 128, **PROGRAMS}),
    ],
    "intra_frame": [
        ("mixing_kernel", INTRA, {"tiny": TINY, "tile_rows": 64, "tile_columns": 32, "tile_cells": 32}),
        ("pooled_kernel", INTRA, {"tile_cells": 64, "tile_width": 128, "tile_patches": 32}),
    ],
    "inter_frame": [
        ("products_kernel", INTER, {"is_first": False, "parts": 8, "side": 32, "tile_width": 64}),
        ("match_kernel", INTER, MATCH),
        ("absorb_kernel", INTER, {"is_first": True, "side": 16, "tile_width": 128, "unroll": 4}),
    ],
    "token_order": [
        ("order_kernel", EMISSION, {**ROLES, "merged_only": 0, "frame_block": 32, "cell_block": 256}),
        ("copy_kernel", EMISSION, {"block": 4096}),
    ],
}


@pytest.mark.parametrize("gpu", [AMPERE, HOPPER])
@pytest.mark.parametrize("module", KERNELS)
def test_it_compiles_to_machine_code(module: str, gpu: int) -> None:
    jobs: list[Job] = [(*kernel, gpu) for kernel in KERNELS[module]]
    assert min(cubin_bytes(f"aot.compression.aot.on_device.{module}", jobs)) > 1000
