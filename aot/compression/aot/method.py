"""AOT: anchors and optimal transport within frames, then within clips (arXiv 2603.01400).

If the setting is `budget: exact`, the number of kept tokens is the budget. If the setting is
`budget: paper`, the number depends on the content, as in the authors' code. Section numbers refer
to docs/algorithm.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import ClassVar

import torch
from torch import Tensor

from aot.compression.aot.anchors import AnchorRanking, rank_patches
from aot.compression.aot.budget import Allocation, allocate, anchors_for_ratio, copies_per_clip, kept_cells
from aot.compression.aot.cells import KeptCells
from aot.compression.aot.inter_frame import ClipTransport, DistinctRule, transport_within_clips
from aot.compression.aot.intra_frame import transport_within_frames
from aot.compression.aot.on_device.method import QueuedTransport, can_queue
from aot.compression.aot.token_order import emission
from aot.compression.aot.token_weights import AnchorComposition
from aot.compression.methods.subset import least_ratio, pooled_cells, pooled_saliency
from aot.compression.ops.clips import dynamic_clips
from aot.compression.ops.grid import pool, pooled_grid, pooling_weights
from aot.compression.ops.products import take_rows, weighted_sums
from aot.config.schema import AOTConfig, Config
from aot.errors import BudgetError
from aot.plugins import Card
from aot.types import Clip, CompressedTokens, Needs, TransportPlan, VisualTokens

__all__ = ["AnchorTransport", "DynamicAnchorTransport"]


class AnchorTransport:
    """Keep the salient and the changed tokens of each clip, and merge the other tokens into them.

    Both phases of the paper are implemented, for any number of frames, any grid and any device.
    """

    card: ClassVar = Card(
        "before and after pooling",
        "arXiv 2603.01400, CVPR 2026",
        remark="salient tokens of a clip's first frame and what changes after it; optimal transport moves the rest in",
        least="one token per clip of frames",
    )

    def __init__(self, config: AOTConfig, ratio: float) -> None:
        self.config = config
        self.ratio = ratio

    @classmethod
    def from_config(cls, config: Config) -> AnchorTransport:
        """Return the method for the settings `config.resolved_aot` and the ratio `config.ratio`."""
        return cls(config.resolved_aot, config.ratio)

    @property
    def needs(self) -> Needs:
        """Ask for the saliency of two layers and, if clips are dynamic, for frame embeddings."""
        anchors = self.config.anchors
        return Needs(
            saliency_layers=(anchors.shallow_layer, anchors.deep_layer),
            frame_embeddings=self.config.clips.mode == "dynamic",
        )

    def compress(self, tokens: VisualTokens, budget: int) -> CompressedTokens:
        """Keep exactly `budget` tokens; if the setting is `budget: paper`, ignore this argument.

        Raises:
            BudgetError: If the setting is `budget: exact` and `budget` is below one token per clip.
        """
        # If possible, run the same stages as GPU kernels without waits.
        clips = self._clips(tokens)
        if can_queue(self.config, tokens, self._asked(tokens)):
            return self._queued(tokens, clips, budget)
        # 1. Rank the patches (section 1), and choose the number of anchors (section 6).
        anchors = self.config.anchors
        shallow, deep = (tokens.saliency[layer] for layer in (anchors.shallow_layer, anchors.deep_layer))
        ranking = rank_patches(shallow, deep, tokens.grid, anchors.windows_per_side)
        allocation = self._allocate(tokens, ranking, clips, budget)
        cells = KeptCells.build(allocation.kept)
        # 2. Phase I and pooling: the kept cells of each frame (sections 2 and 3).
        pooled, weights, plan = self.phase_one(tokens, ranking, allocation.anchors, cells)
        # 3. Phase II: distinct and merged tokens of each clip (section 4).
        moved = self.phase_two(pooled, cells, allocation, clips)
        # 4. The order of the kept tokens (section 4).
        emitted = emission(cells, allocation.copies, clips, moved.distinct, self.config.inter.keyframe)
        cell = cells.index[emitted.frame, emitted.slot]
        rows, cols = pooled_grid(tokens.grid, tokens.pool)
        sources = None
        if tokens.traced:
            sources = AnchorComposition(
                tokens.grid, tokens.pool, cells, clips, emitted, weights, moved.absorbed,
                ranking, allocation.anchors, self.config.anchors.local_ratio,
            ).sources()  # fmt: skip
        return CompressedTokens(
            features=emitted.of(pooled, moved.merged),
            frame=emitted.frame.to(torch.int32),
            row=(cell // cols).to(torch.int32),
            col=(cell % cols).to(torch.int32),
            role=emitted.role,
            mass=emitted.of(moved.mass.new_ones(cells.index.shape), moved.mass),
            grid=(rows, cols),
            timestamps_s=tokens.timestamps_s,
            clips=clips,
            facts=self._facts(tokens, ranking, allocation, plan),
            sources=sources,
        )

    def _queued(self, tokens: VisualTokens, clips: tuple[Clip, ...], budget: int) -> CompressedTokens:
        """Compress with the kernels of `on_device`, without waiting for the device."""
        self._check_budget(budget, len(clips), math.prod(pooled_cells(tokens)))
        transport = QueuedTransport(self.config, tokens, clips, self._asked(tokens), budget)
        transport.allocate()
        self.queue_phase_one(transport)
        self.queue_phase_two(transport)
        return transport.emit(self._known_facts(tokens, transport.copies))

    def queue_phase_one(self, transport: QueuedTransport) -> None:
        """Queue Phase I on the device."""
        transport.phase_one()

    def queue_phase_two(self, transport: QueuedTransport) -> None:
        """Queue Phase II on the device."""
        transport.phase_two()

    def _asked(self, tokens: VisualTokens) -> int:
        """Return the number of anchors per frame to try first, at most the number of patches."""
        patches = tokens.features.shape[1]
        return min(self.config.anchors.count or anchors_for_ratio(self.ratio, patches), patches)

    def _clips(self, tokens: VisualTokens) -> tuple[Clip, ...]:
        """Return fixed or dynamic clips (section 5), or clips of one frame if Phase II is off."""
        # In a clip of one frame, Phase II merges nothing.
        frames, settings = tokens.features.shape[0], self.config.clips
        if not self.config.inter.enabled:
            return Clip.runs(frames, 1)
        if settings.mode == "fixed":
            return Clip.runs(frames, settings.frames)
        if tokens.frame_embeddings is None:
            raise ValueError("frame_embeddings: expected [F, E] for dynamic clips, got None")
        # The number of clips decides which budgets are refused, so it is read here.
        return tuple(dynamic_clips(tokens.frame_embeddings, settings.segments, settings.threshold))

    def check_frames(self, budget: int, frames: int, total: int) -> None:
        """Check `budget` for a video of `frames` frames before the content is known.

        `total` is F * n. The number of dynamic clips depends on the content, so 1 is assumed.

        Raises:
            BudgetError: If the setting is `budget: exact` and `budget` is below one token per clip.
        """
        settings = self.config.clips
        fixed = not self.config.inter.enabled or settings.mode == "fixed"
        length = settings.frames if self.config.inter.enabled else 1
        self._check_budget(budget, -(-frames // length) if fixed else 1, total)

    def _check_budget(self, budget: int, clips: int, total: int) -> None:
        if self.config.budget == "exact" and budget < clips:
            raise BudgetError(
                f"ratio {self.ratio:g} leaves {budget} tokens for {clips} clips; "
                f"use --ratio {least_ratio(clips, total):g} or more{self._longer_clips()}"
            )

    def _longer_clips(self) -> str:
        """Return the part of the error message that suggests fewer clips."""
        if not self.config.inter.enabled:
            return ""
        if self.config.clips.mode == "fixed":
            return ", or longer clips (--clip-frames)"
        return ", or fewer clips (--set aot.clips.segments=, --set aot.clips.threshold=)"

    def _allocate(
        self, tokens: VisualTokens, ranking: AnchorRanking, clips: tuple[Clip, ...], budget: int
    ) -> Allocation:
        """Choose the anchors, the kept cells and the numbers of distinct tokens (section 6)."""
        settings = self.config.anchors
        patches, asked = tokens.features.shape[1], self._asked(tokens)

        def votes_for(anchors: int) -> Tensor:
            """Return the pooled anchor mask [F, n] for `anchors` anchors per frame (section 3)."""
            mask = ranking.select(anchors, settings.local_ratio)
            return pool(mask.float()[..., None], tokens.grid, tokens.pool)[..., 0]

        # Without an exact budget, kept cells and q decide, as in the published code.
        copies = 2 if self.config.inter.keyframe == "both" else 1
        if self.config.budget == "paper":
            return Allocation(asked, kept_cells(votes_for(asked)), None, copies_per_clip(clips, copies))
        self._check_budget(budget, len(clips), math.prod(pooled_cells(tokens)))
        saliency = pooled_saliency(tokens, settings.deep_layer)
        return allocate(budget, asked, patches, clips, votes_for, saliency, copies)

    def phase_one(
        self, tokens: VisualTokens, ranking: AnchorRanking, anchors: int, cells: KeptCells
    ) -> tuple[Tensor, Tensor | None, TransportPlan | None]:
        """Transport within frames, and pool the kept cells (sections 2 and 3).

        Returns:
            The kept cells [F, P, D] in the dtype of the features, the weights of patches in these
            cells [F, P, N], and the transport plan. Weights and plan are None if nothing moves.
        """
        settings, local_ratio = self.config.intra, self.config.anchors.local_ratio
        moved = (
            transport_within_frames(
                tokens.features,
                ranking.select(anchors, local_ratio),
                ranking.total(anchors, local_ratio),
                tokens.grid,
                spatial_weight=settings.spatial_weight,
                nearest_blend=settings.nearest_blend,
                lambda_intra=settings.lambda_intra,
                mass=settings.mass,
                **asdict(settings.transport),
            )
            if settings.enabled
            else None
        )
        # Without transport, the tokens are the pooled tokens of the model.
        if moved is None:
            return take_rows(pool(tokens.features, tokens.grid, tokens.pool), cells.index), None, None
        # Transport and pooling in one product, only for the kept cells.
        weights = moved.weights(pooling_weights(tokens.grid, tokens.pool).to(moved.mixing)[cells.index])
        return weighted_sums(weights, tokens.features).to(tokens.features.dtype), weights, moved.plan

    def phase_two(
        self, pooled: Tensor, cells: KeptCells, allocation: Allocation, clips: tuple[Clip, ...]
    ) -> ClipTransport:
        """Transport `pooled`, the kept cells [F, P, D], within clips (section 4)."""
        settings = self.config.inter
        # Exact budgets set a count; the published code uses a quantile, the paper a threshold.
        if allocation.distinct is not None:
            rule = DistinctRule("count", counts=torch.tensor(allocation.distinct, device=pooled.device))
        elif settings.distinct == "quantile":
            rule = DistinctRule("quantile", level=settings.keep_ratio)
        else:
            rule = DistinctRule("threshold", level=settings.tau)
        return transport_within_clips(
            pooled,
            cells.valid,
            clips,
            rule,
            sigma_frames=settings.sigma_frames,
            lambda_inter=settings.lambda_inter,
            **asdict(settings.transport),
        )

    def _facts(
        self, tokens: VisualTokens, ranking: AnchorRanking, allocation: Allocation, plan: TransportPlan | None
    ) -> dict[str, int | float | str | bool | None]:
        """Return the facts that the report shows about this compression."""
        return {
            "anchors_asked": allocation.anchors,
            "anchors_per_frame": ranking.total(allocation.anchors, self.config.anchors.local_ratio),
            **self._known_facts(tokens, allocation.copies),
            "intra_iterations": None if plan is None else int(plan.iterations.max()),
            "intra_marginal_error": None if plan is None else float(plan.marginal_error.detach().max()),
        }

    def _known_facts(self, tokens: VisualTokens, copies: Sequence[int]) -> dict[str, int | float | str | bool | None]:
        """Return the facts that the host knows without reading from the device."""
        return {
            "keyframe_copies": max(copies),
            "clip_mode": self.config.clips.mode if self.config.inter.enabled else "off",
            "frame_embeddings": tokens.embedding_source,
        }


class DynamicAnchorTransport(AnchorTransport):
    """AOT with clips that end where the picture changes; see `Config.resolved_aot`."""

    card: ClassVar = replace(AnchorTransport.card, remark="aot with clips that end where the picture changes")
