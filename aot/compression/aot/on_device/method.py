"""Run AOT without waiting: queue all work on the device, and read facts for the report later.

The kernels do not support `budget: paper`, the marginal stopping rule, Phase I turned off, float64,
gradients, very large grids, and devices without Triton. For these, `aot.compression.aot.method`
uses torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from aot.compression.aot.anchors import rank_patches
from aot.compression.aot.budget import copies_per_clip
from aot.compression.aot.cells import KeptCells
from aot.compression.aot.on_device.layout import QueuedLayout
from aot.compression.aot.token_order import Emission
from aot.compression.aot.token_weights import AnchorComposition
from aot.compression.ops.kernels import needs_grad, runs_triton
from aot.compression.ops.read_later import Download, Fact, FactsReadLater
from aot.config.schema import AOTConfig
from aot.types import Clip, CompressedTokens, SourceWeights, VisualTokens

if TYPE_CHECKING:
    from aot.compression.aot.on_device.token_order import QueuedEmission

__all__ = ["QueuedTransport", "can_queue"]

_MOST_PATCHES = 4096  # largest number of patches that one program can count


def can_queue(config: AOTConfig, tokens: VisualTokens, asked: int) -> bool:
    """Return whether the kernels support `config` for these `tokens`.

    `asked` is the number of anchors per frame to try first.
    """
    # The kernels have no backward and only the published stopping rule, and start the search below
    # N anchors.
    patches = tokens.features.shape[1]
    published = (config.intra.transport, config.inter.transport)
    return (
        runs_triton(tokens.features.device)
        and not needs_grad(tokens.features)
        and config.budget == "exact"
        and config.intra.enabled
        and all(each.stopping == "published" and each.solver == "auto" for each in published)
        and tokens.features.dtype in (torch.float32, torch.float16, torch.bfloat16)
        and asked < patches <= _MOST_PATCHES
    )


class QueuedTransport:
    """Queue one compression: call `allocate`, `phase_one`, `phase_two`, then `emit`."""

    def __init__(
        self, config: AOTConfig, tokens: VisualTokens, clips: tuple[Clip, ...], asked: int, budget: int
    ) -> None:
        self._config, self._tokens, self._clips, self._asked, self._budget = config, tokens, clips, asked, budget
        # As in `aot.compression.aot.budget.allocate`; the host knows these numbers.
        copies = copies_per_clip(clips, 2 if config.inter.keyframe == "both" else 1)
        self.copies = copies if budget >= sum(copies) else copies_per_clip(clips, 1)

    def allocate(self) -> None:
        """Choose anchors, kept cells and the numbers of distinct tokens."""
        # Import late: modules with kernels need Triton, which may be missing.
        from aot.compression.aot.on_device.anchors import allocate_queued

        anchors, tokens = self._config.anchors, self._tokens
        self._shallow, self._deep = (tokens.saliency[layer] for layer in (anchors.shallow_layer, anchors.deep_layer))
        self._layout = QueuedLayout.build(
            tokens.grid, tokens.pool, anchors.windows_per_side, anchors.local_ratio, self._clips, self.copies,
            tokens.features.device,
        )  # fmt: skip
        self._allocation = allocate_queued(self._layout, self._shallow, self._deep, self._asked, self._budget)

    def phase_one(self) -> None:
        """Transport within frames, and pool the kept cells."""
        from aot.compression.aot.on_device.intra_frame import IntraWeights, transport_queued

        settings, rule = self._config.intra, self._config.intra.transport
        weights = IntraWeights(
            settings.spatial_weight, settings.nearest_blend, settings.lambda_intra, settings.mass == "token",
            rule.epsilon, rule.max_iterations, rule.tolerance,
        )  # fmt: skip
        self._intra = transport_queued(self._layout, self._allocation, self._tokens.features, weights)

    def phase_two(self) -> None:
        """Transport the kept cells within clips."""
        from aot.compression.aot.on_device.inter_frame import InterWeights, match_queued

        settings, rule = self._config.inter, self._config.inter.transport
        weights = InterWeights(
            settings.sigma_frames, settings.lambda_inter, rule.epsilon, rule.max_iterations, rule.tolerance
        )
        self._inter = match_queued(self._layout, self._allocation, self._intra.tokens, weights)

    def emit(self, known: Mapping[str, Fact]) -> CompressedTokens:
        """Return the kept tokens; `known` has the facts that need no reading from the device."""
        from aot.compression.aot.on_device.token_order import emit_queued

        merged_only = self._config.inter.keyframe == "merged"
        kept = emit_queued(self._layout, self._allocation, self._intra.tokens, self._inter, self._budget, merged_only)
        return CompressedTokens(
            features=kept.features, frame=kept.frame, row=kept.row, col=kept.col, role=kept.role, mass=kept.mass,
            grid=self._layout.pooled, timestamps_s=self._tokens.timestamps_s, clips=self._clips,
            facts=self._facts(known),
            sources=self._sources(kept) if self._tokens.traced else None,
        )  # fmt: skip

    def _facts(self, known: Mapping[str, Fact]) -> FactsReadLater:
        # One copy from the device for all facts.
        found = torch.cat([self._allocation.found.double(), self._intra.iterations.double()[None]])
        error = self._intra.errors.sum(1).max().double()[None]
        copy = Download(torch.cat([found, error]))

        def read() -> dict[str, Fact]:
            asked, each, iterations, marginal_error = copy.read().tolist()
            return {
                "anchors_asked": int(asked),
                "anchors_per_frame": int(each),
                **known,
                "intra_iterations": int(iterations),
                "intra_marginal_error": marginal_error,
            }

        return FactsReadLater(read)

    def _sources(self, kept: QueuedEmission) -> SourceWeights:
        """Wait for the device, and return the source weights of the kept tokens."""
        config, tokens, allocation = self._config.anchors, self._tokens, self._allocation
        fullest = int(allocation.kept.max())
        valid = torch.arange(fullest, device=allocation.kept.device) < allocation.kept[:, None]
        cells = KeptCells(allocation.cell[:, :fullest].long().where(valid, 0), valid)
        emitted = Emission(kept.frame.long(), kept.slot.long(), kept.clip.long(), kept.role)
        return AnchorComposition(
            tokens.grid, tokens.pool, cells, self._clips, emitted,
            self._intra.weights[:, :fullest].where(valid[..., None], 0.0),
            [each[:, :fullest, :fullest] for each in self._inter.absorbed],
            rank_patches(self._shallow, self._deep, tokens.grid, config.windows_per_side),
            int(allocation.found[0]), config.local_ratio,
        ).sources()  # fmt: skip
