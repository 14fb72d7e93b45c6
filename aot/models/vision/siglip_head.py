"""SigLIP's attention-pooling head: one embedding per frame, to find changes in a video.

LLaVA checkpoints omit the head, so its weights are read from a SigLIP checkpoint.
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
        """Load the head of `config.siglip_head`, with the device and dtype of `reference`.

        Raises:
            ModelError: the checkpoint lacks the head, or the width of the head is not `width`.
        """
        from transformers import SiglipVisionConfig
        from transformers.models.siglip.modeling_siglip import SiglipMultiheadAttentionPoolingHead

        # 1. The configuration; its width must be the tower's width.
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
        # 2. The two modules; no weight may be missing or left over.
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
        """Return the frame embeddings [F, D_v] for tower features [F, N, D_v]."""
        pooled: Tensor = self.head(self.post_layernorm(features))
        return pooled

    def attention(self, features: Tensor) -> Tensor:
        """Return the attention that the pooling head pays to each patch, float32 [F, N].

        Weights are averaged over attention heads; each row sums to 1.
        """
        normed = self.post_layernorm(features)
        head: Any = self.head
        # The probe is the head's only query, so there is one row of weights.
        weights: Tensor = head.attention(head.probe.expand(len(features), -1, -1), normed, normed)[1][:, 0]
        return weights.float()
