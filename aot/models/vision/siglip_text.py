"""SigLIP's text tower: embeddings of questions in the space of the frame embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from aot.config.schema import ModelConfig
from aot.errors import ModelError
from aot.models.loading.checkpoints import explained, hub_arguments, read_json, read_model_config, read_weights
from aot.models.loading.lookup import location, look_up

__all__ = ["SiglipText"]

_PREFIX = "text_model."
_MOST_TOKENS = 64


class SiglipText:
    """The text tower of a SigLIP checkpoint with its tokenizer."""

    def __init__(self, tower: Any, tokenizer: Any, name: str) -> None:
        self.name = name
        self._tower, self._tokenizer = tower, tokenizer

    @classmethod
    def load(cls, config: ModelConfig, reference: Tensor) -> SiglipText | None:
        """Load the text tower of `config.siglip_head`, with the device and dtype of `reference`.

        Return None if the checkpoint has no text tower or no tokenizer.json.

        Raises:
            ModelError: a weight of the tower is missing, or a file is damaged.
        """
        from transformers import PreTrainedTokenizerFast, SiglipTextConfig, SiglipTextModel

        # 1. Is there a text tower, and a tokenizer that needs no other library?
        source = replace(config, name=config.siglip_head, revision=None)
        look_up(source)
        description = read_model_config(source)
        if "text_config" not in description or not read_json(source, "tokenizer.json"):
            return None
        weights = read_weights(source, lambda key: key.startswith(_PREFIX))
        if not weights:
            return None
        # 2. The tower; no weight may be missing.
        with explained(source):
            model = SiglipTextModel(SiglipTextConfig.from_dict(description["text_config"]))
            tower = getattr(model, "text_model", model)
            own = {key.removeprefix(_PREFIX): value for key, value in weights.items()}
            lacking = sorted(set(tower.state_dict()) - set(own))
            if lacking:
                raise ModelError(f"{source.name} lacks {_PREFIX}{lacking[0]}; pass a full SigLIP checkpoint")
            tower.load_state_dict({key: own[key] for key in tower.state_dict()})
            # 3. The tokenizer. AutoTokenizer would choose a class that needs sentencepiece.
            tokenizer = PreTrainedTokenizerFast.from_pretrained(location(source), **hub_arguments(source))
        model.to(reference.device, reference.dtype).eval().requires_grad_(False)
        return cls(model, tokenizer, str(source.name))

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Return the embeddings [Q, E] of Q texts.

        As in SigLIP's training, texts are in lower case, padded, and cut off after 64 tokens.
        """
        most = min(_MOST_TOKENS, self._tower.config.max_position_embeddings)
        lowered = [" ".join(text.lower().split()) for text in texts]
        found = self._tokenizer(lowered, padding="max_length", max_length=most, truncation=True, return_tensors="pt")
        # No attention mask: in training the tower attended to the padding.
        pooled: Tensor = self._tower(input_ids=found["input_ids"].to(self._tower.device)).pooler_output
        return pooled
