"""Run a vision tower over frames in batches, and join its outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from aot.compression.contract import check_encoded
from aot.compression.in_tower.earlytom import FrameMerger
from aot.compression.ops.uploads import uploaded
from aot.models.base import Progress
from aot.models.vision.microbatch import micro_batches
from aot.types import Needs, Pooling, VideoFrames, VisualTokens

__all__ = ["WITHOUT_HEAD", "TowerPass", "run_tower", "run_tower_in_stages"]

# The source of frame embeddings without a SigLIP head.
WITHOUT_HEAD = "mean of the frame's features"


@dataclass(frozen=True, slots=True)
class TowerPass:
    """Output of a tower for a batch of frames.

    The shapes are as in `VisualTokens`, where F is the number of frames in the batch. `saliency`
    may hold more layers than a method asked for. If the tower has merged frames, F counts those
    that are left, and `merger` says which are in each.
    """

    features: Tensor
    saliency: Mapping[int, Tensor] = field(default_factory=dict)
    keys: Mapping[int, Tensor] = field(default_factory=dict)
    embeddings: Tensor | None = None
    pooling_attention: Tensor | None = None
    deepstack: Tensor | None = None
    finite: Tensor | None = None
    merger: FrameMerger | None = None

    def frames(self, index: Sequence[int]) -> TowerPass:
        """Return the output for the frames with the indices `index`, in this order."""
        wanted = uploaded(torch.tensor(index), self.features.device)

        def chosen(values: Tensor | None, dim: int = 0) -> Tensor | None:
            return None if values is None else values.index_select(dim, wanted.to(values.device))

        return TowerPass(
            self.features.index_select(0, wanted),
            {layer: values.index_select(0, wanted.to(values.device)) for layer, values in self.saliency.items()},
            {layer: values.index_select(0, wanted.to(values.device)) for layer, values in self.keys.items()},
            chosen(self.embeddings),
            chosen(self.pooling_attention),
            # [levels, f, N, D]: frames are the second axis.
            chosen(self.deepstack, 1),
        )

    def visual(
        self,
        frames: VideoFrames,
        needs: Needs,
        *,
        grid: tuple[int, int],
        pool: Pooling,
        source: str = WITHOUT_HEAD,
        timestamps_s: tuple[float, ...] | None = None,
        notices: Sequence[str] = (),
    ) -> VisualTokens:
        """Return the visual tokens of all frames, as a method receives them.

        `source` says how embeddings were made. `timestamps_s` defaults to `frames.timestamps_s`.
        """
        embedded = needs.frame_embeddings or needs.pooling_attention
        times_s = frames.timestamps_s if timestamps_s is None else timestamps_s
        merged = None if self.merger is None else self.merger.found(times_s)
        return VisualTokens(
            features=self.features,
            grid=grid,
            pool=pool,
            timestamps_s=times_s if merged is None else tuple(times_s[mix[0][0]] for mix in merged.sources),
            saliency={layer: self.saliency[layer] for layer in needs.saliency_layers},
            keys=self.keys,
            frame_embeddings=self.embeddings,
            pooling_attention=self.pooling_attention,
            embedding_source=source if embedded else None,
            notices=tuple(notices),
            video_name=Path(frames.source.path).name,
            duration_s=frames.source.duration_s,
            deepstack=self.deepstack,
            merged_frames=merged,
            finite=self.finite,
        )


def run_tower(
    total: int,
    batch: int,
    run: Callable[[int, int], TowerPass],
    on_fewer: Callable[[int], None],
    on_frame: Progress | None,
    borders: Sequence[int] = (),
) -> TowerPass:
    """Run a tower over `total` frames, up to `batch` at a time, and join its outputs on one device.

    `run(first, stop)` returns the output for the frames from `first` to `stop` - 1. `on_fewer`
    receives each reduced batch size. Batches end at `borders` where possible. On CUDA this function
    does not wait for the check for finite values, so that more work can be queued;
    `TowerPass.finite` will hold the result.

    Raises:
        NumericsError: features or saliency hold NaN or infinite values, and the device is not CUDA.
    """
    parts: list[TowerPass] = []
    # Features are most of the memory, so they are allocated once and not concatenated.
    features: Tensor | None = None
    finite: list[Tensor] = []
    for first, part in micro_batches(total, batch, run, on_fewer, borders):
        if features is None:
            features = part.features.new_empty(total, *part.features.shape[1:])
        # 1. Copy the features into place.
        stop = first + len(part.features)
        features[first:stop] = part.features
        # 2. Keep the rest of the output on the same device.
        part = _without_features(part, features)
        # 3. Queue the check for finite values; its result is read after all batches.
        finite.append(_is_finite(part, features[first:stop]))
        parts.append(part)
        if on_frame:
            on_frame(stop, total)
    assert features is not None
    return _checked(_joined(parts, features), torch.stack(finite).all())


def run_tower_in_stages(
    total: int, batch: int, run: Callable[[int], TowerPass], on_fewer: Callable[[int], None], on_frame: Progress | None
) -> TowerPass:
    """Run a tower whose blocks take `total` frames, up to `batch` at a time, and check its output.

    `run(size)` returns the output of a tower whose blocks take `size` frames at a time. For the
    other arguments and the check see `run_tower`.
    """
    _, whole = next(micro_batches(total, batch, lambda first, stop: run(stop - first), on_fewer))
    if on_frame:
        on_frame(total, total)
    return _checked(whole, _is_finite(whole, whole.features))


def _is_finite(part: TowerPass, features: Tensor) -> Tensor:
    deepstack = [] if part.deepstack is None else [part.deepstack]
    checked = (features, *deepstack, *part.saliency.values())
    return torch.stack([torch.isfinite(values).all().to(features.device) for values in checked]).all()


def _checked(whole: TowerPass, finite: Tensor) -> TowerPass:
    # Reading the flag would wait for the device.
    if _is_queued(finite.device):
        return replace(whole, finite=finite)
    check_encoded(finite)
    return whole


def _is_queued(device: torch.device) -> bool:
    """Return whether `device` queues work, so that reading a value waits for all of it."""
    return device.type == "cuda"


def _without_features(part: TowerPass, whole: Tensor) -> TowerPass:
    """Return `part` on the device of `whole`, with its features replaced by `whole`."""

    # A tower may be spread over several devices.
    def moved(values: Tensor | None) -> Tensor | None:
        return None if values is None else values.to(whole.device)

    return TowerPass(
        whole,
        {layer: values.to(whole.device) for layer, values in part.saliency.items()},
        {layer: values.to(whole.device) for layer, values in part.keys.items()},
        moved(part.embeddings),
        moved(part.pooling_attention),
        moved(part.deepstack),
    )


def _joined(parts: list[TowerPass], features: Tensor) -> TowerPass:
    """Concatenate the outputs of all batches along the frames; `features` are joined already."""

    def joined(values: list[Tensor | None], dim: int = 0) -> Tensor | None:
        present = [value for value in values if value is not None]
        return torch.cat(present, dim) if present else None

    return TowerPass(
        features,
        {layer: torch.cat([part.saliency[layer] for part in parts]) for layer in parts[0].saliency},
        {layer: torch.cat([part.keys[layer] for part in parts]) for layer in parts[0].keys},
        joined([part.embeddings for part in parts]),
        joined([part.pooling_attention for part in parts]),
        # [levels, f, N, D]: frames are the second axis.
        joined([part.deepstack for part in parts], 1),
    )
