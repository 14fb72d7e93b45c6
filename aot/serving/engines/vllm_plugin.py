"""Choose which visual tokens of Qwen-VL vLLM keeps: a plug-in of vLLM, not of aot.

vLLM drops the share `--video-pruning-rate` of a video's tokens after its vision tower, and gives
the others their own positions and deepstack features. `AOT_VLLM_METHOD` names the method that
chooses them. A method qualifies if it reads nothing but the tokens and changes none of them.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from aot.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from aot.compression.methods import Method
    from aot.types import VisualTokens

__all__ = ["VARIABLE", "mask_function", "register"]

VARIABLE = "AOT_VLLM_METHOD"
_RULES = "vllm.multimodal.video_prune.evs"
_MODELS = ("vllm.model_executor.models.qwen2_5_vl", "vllm.model_executor.models.qwen3_vl")
_NAME = "compute_retention_mask"

MaskFunction = Callable[..., "Tensor"]


def register() -> None:
    """Replace vLLM's choice by that of the method; do nothing without the variable.

    vLLM calls this in each of its processes, sometimes twice.

    Raises:
        ConfigError: If the method does not exist, or does not qualify.
    """
    name = os.environ.get(VARIABLE)
    if not name:
        return
    from vllm.multimodal.video_prune import evs

    replaced = mask_function(name, evs.compute_retained_tokens_count)
    for module in (_RULES, *_MODELS):  # a model that is imported later finds it among the rules
        if module in sys.modules:
            setattr(sys.modules[module], _NAME, replaced)


def mask_function(name: str, count_kept: Callable[[int, int, float], int]) -> MaskFunction:
    """Return a function with the arguments and result of vLLM's `compute_retention_mask`.

    Args:
        name: the method.
        count_kept: vLLM's number of tokens to keep, for (tokens per frame, frames, rate).

    Raises:
        ConfigError: If the method does not exist, or does not qualify.
    """
    import torch

    method = _selecting(name)

    @torch.no_grad()
    def compute_retention_mask(
        video_embeds: Tensor, video_size_thw: Sequence[int], spatial_merge_size: int, q: float
    ) -> Tensor:
        frames, height, width = map(int, video_size_thw)
        grid = (height // spatial_merge_size, width // spatial_merge_size)
        kept = count_kept(math.prod(grid), frames, q)
        return _mask(method, video_embeds.reshape(frames, math.prod(grid), -1), grid, kept)

    return compute_retention_mask


def _selecting(name: str) -> Method:
    """Return the method `name`; check that it qualifies."""
    import torch

    from aot.compression.methods import build_method
    from aot.config.schema import build_config
    from aot.types import Needs

    method = build_method(build_config({"method": name, "ratio": 0.5}))
    remedy = f"set {VARIABLE} to one such as standout or vidcom2"
    if method.needs != Needs() or not method.card.exact:
        raise ConfigError(f"{VARIABLE}={name} needs more than the tokens of a video, which is all vLLM has; {remedy}")
    features = torch.randn(3, 16, 8, generator=torch.Generator().manual_seed(0))
    kept = method.compress(_visual(features, (4, 4)), 12)
    if not torch.equal(kept.features, features.flatten(0, 1)[kept.cell]):
        raise ConfigError(f"{VARIABLE}={name} changes the tokens that it keeps, and vLLM only selects; {remedy}")
    return method


def _mask(method: Method, features: Tensor, grid: tuple[int, int], count: int) -> Tensor:
    """Return bool [F * n], true for the `count` tokens of `features` [F, n, D] to keep."""
    import torch

    from aot.types import TokenBudget

    total = math.prod(features.shape[:2])
    kept = method.compress(_visual(features, grid), TokenBudget(count, count / total))
    mask = torch.zeros(total, dtype=torch.bool, device=features.device)
    mask[kept.cell.to(features.device)] = True
    return mask


def _visual(features: Tensor, grid: tuple[int, int]) -> VisualTokens:
    from aot.types import Pooling, VisualTokens

    times_s = tuple(map(float, range(len(features))))
    return VisualTokens(features, grid, Pooling("none"), times_s, {})
