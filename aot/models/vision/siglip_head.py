"""SigLIP's attention-pooling head: one embedding per frame, for finding where a video changes.

LLaVA checkpoints leave it out; its weights come from the SigLIP checkpoint the tower was made from.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from aot.config.schema import ModelConfig
from aot.errors import ModelError
from aot.models.loading.checkpoints import explained, read_model_config, read_weights
from aot.models.loading.lookup import look_up

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
        look_up(source)
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
        weights = read_weights(source, lambda key: key.startswith(tuple(_PARTS.values())))
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

    def attention(self, features: Tensor) -> Tensor:
        """How much the head looks at each patch, mean over heads: [F, N, D_v] to [F, N] float32, sums to 1."""
        normed = self.post_layernorm(features)
        head: Any = self.head
        weights: Tensor = head.attention(head.probe.expand(len(features), -1, -1), normed, normed)[1][:, 0]
        return weights.float()
