"""Running a vision tower over frames, a few at a time, and joining what it gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from aot.compression.contract import check_encoded
from aot.models.base import Progress
from aot.models.vision.microbatch import micro_batches
from aot.types import Needs, Pooling, VideoFrames, VisualTokens

__all__ = ["WITHOUT_HEAD", "TowerPass", "run_tower"]

WITHOUT_HEAD = "mean of the frame's features"  # where frame embeddings come from if there is no SigLIP head


@dataclass(frozen=True, slots=True)
class TowerPass:
    """What a tower made of f frames; the fields are those of `VisualTokens`, with f for F, and with saliency also what
    was recorded for something else.
    """

    features: Tensor
    saliency: Mapping[int, Tensor] = field(default_factory=dict)
    keys: Mapping[int, Tensor] = field(default_factory=dict)
    embeddings: Tensor | None = None
    pooling_attention: Tensor | None = None
    deepstack: Tensor | None = None
    finite: Tensor | None = None

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
        """Of all frames, as a method gets them. source: of embeddings; timestamps_s: the frames' own unless given."""
        told = needs.frame_embeddings or needs.pooling_attention
        return VisualTokens(
            features=self.features,
            grid=grid,
            pool=pool,
            timestamps_s=frames.timestamps_s if timestamps_s is None else timestamps_s,
            saliency={layer: self.saliency[layer] for layer in needs.saliency_layers},
            keys=self.keys,
            frame_embeddings=self.embeddings,
            pooling_attention=self.pooling_attention,
            embedding_source=source if told else None,
            notices=tuple(notices),
            video_name=Path(frames.source.path).name,
            duration_s=frames.source.duration_s,
            deepstack=self.deepstack,
            finite=self.finite,
        )


def run_tower(
    total: int,
    batch: int,
    run: Callable[[int, int], TowerPass],
    on_fewer: Callable[[int], None],
    on_frame: Progress | None,
) -> TowerPass:
    """Call `run(first, stop)` over `total` frames, up to `batch` at a time, and join what it returns on one device.

    Whether all is finite is known when the device is done. On CUDA the flag is kept in
    `TowerPass.finite`, so that more work can be queued; elsewhere it is checked here.

    Raises:
        NumericsError: the features, deepstack features or saliencies hold NaN or infinite values, off CUDA.
    """
    parts: list[TowerPass] = []
    features: Tensor | None = None  # one allocation, since they are most of what is held
    finite: list[Tensor] = []
    for first, part in micro_batches(total, batch, run, on_fewer):
        if features is None:
            features = part.features.new_empty(total, *part.features.shape[1:])
        stop = first + len(part.features)
        features[first:stop] = part.features
        part = _without_features(part, features)
        deepstack = [] if part.deepstack is None else [part.deepstack]
        checked = (features[first:stop], *deepstack, *part.saliency.values())
        finite += [torch.isfinite(values).all() for values in checked]
        parts.append(part)
        if on_frame:
            on_frame(stop, total)
    assert features is not None
    whole = replace(_joined(parts, features), finite=torch.stack(finite).all())
    if _is_queued(features.device):
        return whole
    check_encoded(whole.finite)
    return replace(whole, finite=None)


def _is_queued(device: torch.device) -> bool:
    """Whether reading a value waits for all the work that was queued before."""
    return device.type == "cuda"


def _without_features(part: TowerPass, whole: Tensor) -> TowerPass:
    """With those of the whole video instead, on their device: a tower may be spread over several."""

    def there(values: Tensor | None) -> Tensor | None:
        return None if values is None else values.to(whole.device)

    return TowerPass(
        whole,
        {layer: values.to(whole.device) for layer, values in part.saliency.items()},
        {layer: values.to(whole.device) for layer, values in part.keys.items()},
        there(part.embeddings),
        there(part.pooling_attention),
        there(part.deepstack),
    )


def _joined(parts: list[TowerPass], features: Tensor) -> TowerPass:
    def joined(values: list[Tensor | None], dim: int = 0) -> Tensor | None:
        there = [value for value in values if value is not None]
        return torch.cat(there, dim) if there else None

    return TowerPass(
        features,
        {layer: torch.cat([part.saliency[layer] for part in parts]) for layer in parts[0].saliency},
        {layer: torch.cat([part.keys[layer] for part in parts]) for layer in parts[0].keys},
        joined([part.embeddings for part in parts]),
        joined([part.pooling_attention for part in parts]),
        joined([part.deepstack for part in parts], 1),
    )
