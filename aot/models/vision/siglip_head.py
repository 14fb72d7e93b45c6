"""SigLIP's attention-pooling head: one embedding per frame, to find changes in a video.

LLaVA checkpoints omit the head. Its weights come from the SigLIP checkpoint of the tower.
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
    """The final norm and the pooling head of a SigLIP checkpoint, for features [F, N, D_v]."""

    def __init__(self, post_layernorm: nn.Module, head: nn.Module) -> None:
        self.post_layernorm = post_layernorm
        self.head = head

    @classmethod
    def load(cls, config: ModelConfig, width: int, reference: Tensor) -> SiglipHead:
        """Load from `config.siglip_head`, to the device and dtype of `reference`.

        Raises:
            ModelError: the checkpoint has no such head, or its width is not `width`.
        """
        from transformers import SiglipVisionConfig
        from transformers.models.siglip.modeling_siglip import SiglipMultiheadAttentionPoolingHead

        # 1. The configuration, which must be that of the tower.
        source = replace(config, name=config.siglip_head, revision=None)
        look_up(source)
        description = read_model_config(source)
        with explained(source):
            vision = SiglipVisionConfig.from_dict(description.get("vision_config", description))
        if vision.hidden_size != width:
            raise ModelError(
                f"the SigLIP head of {source.name} is {vision.hidden_size} wide but the vision tower is {width} wide; "
                "pass the SigLIP checkpoint of which the tower was made"
            )
        # 2. The two modules, and exactly their weights.
        parts = {
            "post_layernorm": nn.LayerNorm(width, eps=vision.layer_norm_eps),
            "head": SiglipMultiheadAttentionPoolingHead(vision),
        }
        weights = read_weights(source, lambda key: key.startswith(tuple(_PARTS.values())))
        for name, prefix in _PARTS.items():
            own = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
            if set(own) != set(parts[name].state_dict()):
                raise ModelError(f"{prefix}* of {source.name} is incomplete; pass a full SigLIP checkpoint")
            with explained(source):
                parts[name].load_state_dict(own)
            parts[name].to(reference.device, reference.dtype).eval().requires_grad_(False)
        return cls(parts["post_layernorm"], parts["head"])

    def __call__(self, features: Tensor) -> Tensor:
        """Embed each frame: tower features [F, N, D_v] to [F, D_v]."""
        pooled: Tensor = self.head(self.post_layernorm(features))
        return pooled

    def attention(self, features: Tensor) -> Tensor:
        """Return the head's attention to each patch, mean over heads: float32 [F, N], sums to 1."""
        normed = self.post_layernorm(features)
        head: Any = self.head
        # The probe is the head's only query, so there is one row of weights.
        weights: Tensor = head.attention(head.probe.expand(len(features), -1, -1), normed, normed)[1][:, 0]
        return weights.float()
