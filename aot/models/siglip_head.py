"""SigLIP's attention-pooling head: one embedding per frame, for finding where a video changes.

LLaVA checkpoints leave it out; its weights come from the SigLIP checkpoint the tower was made from.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from aot.config import ModelConfig
from aot.errors import ModelError
from aot.models.loading import explained, hub_arguments, read_model_config

__all__ = ["SiglipHead"]

_PARTS = {"post_layernorm": "vision_model.post_layernorm.", "head": "vision_model.head."}


class SiglipHead:
    """post_layernorm and pooling head of a SigLIP checkpoint, applied to features [F, N, D_v]."""

    def __init__(self, post_layernorm: nn.Module, head: nn.Module) -> None:
        self.post_layernorm = post_layernorm
        self.head = head

    @classmethod
    def load(cls, config: ModelConfig, width: int, reference: Tensor) -> SiglipHead:
        """Load from `config.siglip_head`, onto the device and dtype of `reference`.

        Raises:
            ModelError: the checkpoint has no such head, or its width is not `width`.
        """
        from transformers import SiglipVisionConfig
        from transformers.models.siglip.modeling_siglip import SiglipMultiheadAttentionPoolingHead

        source = replace(config, name=config.siglip_head, revision=None)
        description = read_model_config(source)
        with explained(source):
            vision = SiglipVisionConfig.from_dict(description.get("vision_config", description))
        if vision.hidden_size != width:
            raise ModelError(
                f"the SigLIP head of {source.name} is {vision.hidden_size} wide but the vision tower {width}; "
                "pass the SigLIP checkpoint that the tower was made from"
            )
        parts = {
            "post_layernorm": nn.LayerNorm(width, eps=vision.layer_norm_eps),
            "head": SiglipMultiheadAttentionPoolingHead(vision),
        }
        weights = _read_weights(source)
        for name, prefix in _PARTS.items():
            own = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
            if set(own) != set(parts[name].state_dict()):
                raise ModelError(f"{source.name} has no complete {prefix}*; pass a full SigLIP checkpoint")
            with explained(source):
                parts[name].load_state_dict(own)
            parts[name].to(reference.device, reference.dtype).eval().requires_grad_(False)
        return cls(parts["post_layernorm"], parts["head"])

    def __call__(self, features: Tensor) -> Tensor:
        """[F, N, D_v] tower features to [F, D_v]."""
        pooled: Tensor = self.head(self.post_layernorm(features))
        return pooled


def _read_weights(config: ModelConfig) -> dict[str, Tensor]:
    """Only the head's tensors, from a single or a sharded safetensors checkpoint."""
    from safetensors import safe_open

    index = _find(config, "model.safetensors.index.json")
    shards = {"model.safetensors"}
    if index:
        with explained(config):
            places: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            shards = {shard for key, shard in places.items() if key.startswith(tuple(_PARTS.values()))}
    weights: dict[str, Tensor] = {}
    for shard in sorted(shards):
        path = _find(config, shard)
        if path is None:
            raise ModelError(f"{config.name} has no {shard}; pass a SigLIP checkpoint with safetensors weights")
        with explained(config), safe_open(str(path), framework="pt") as file:
            weights |= {key: file.get_tensor(key) for key in file.keys() if key.startswith(tuple(_PARTS.values()))}  # noqa: SIM118
    return weights


def _find(config: ModelConfig, filename: str) -> Path | None:
    from transformers.utils import cached_file

    options: dict[str, Any] = {"_raise_exceptions_for_missing_entries": False, **hub_arguments(config)}
    with explained(config):
        path = cached_file(config.name, filename, **options)
    return Path(path) if path else None
