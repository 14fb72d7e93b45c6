"""Build models of real size with random weights, to measure times without a download.

The answers are noise; the times are those of the real checkpoints.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from aot.config.schema import BUNDLED_MODEL, ModelConfig
from aot.errors import ConfigError
from aot.models import load_model
from aot.models.base import ModelIdentity, VideoModel
from aot.models.families.llava import Llava
from aot.models.language.joined_projections import join_projections
from aot.models.loading.checkpoints import pick_device, pick_dtype
from aot.models.loading.load_options import ATTENTION, check_load_options, is_placed

__all__ = ["SYNTHETIC", "synthetic_model"]

# Hidden size, MLP size, layers, heads, key-value heads, vocabulary: from the published config.json.
_LANGUAGE = {
    "onevision-0.5b": (896, 4864, 24, 14, 2, 152000),
    "onevision-7b": (3584, 18944, 28, 28, 4, 152128),
}
SYNTHETIC = ("shapes", *_LANGUAGE)


def synthetic_model(name: str, config: ModelConfig) -> VideoModel:
    """Return a LLaVA-OneVision of size `name` with random weights; "shapes" is the bundled model.

    Raises:
        ConfigError: If a device or a library is missing, or `config` sets `quantize` or
            `device_map` for random weights.
    """
    bundled = load_model(ModelConfig(name=BUNDLED_MODEL, device="cpu"))
    assert isinstance(bundled, Llava)
    if name == BUNDLED_MODEL:
        return load_model(replace(config, name=BUNDLED_MODEL))
    device = pick_device(config.device)
    check_load_options(config, device)
    if is_placed(config):
        raise ConfigError("--quantize and --device-map work on a checkpoint; leave them out with --synthetic")
    network = _random_network(_architecture(name, bundled.network.config), device, pick_dtype(config.dtype, device))
    identity = ModelIdentity(f"random {name}", None, f"random {name}")
    network.set_attn_implementation(ATTENTION[config.attention])
    # The name selects the files of the bundled model, so that nothing is read from the hub.
    return Llava(network, bundled.tokenizer, replace(config, name=BUNDLED_MODEL), identity)


def _architecture(name: str, bundled: Any) -> Any:
    """Return a configuration with the published sizes and the bundled model's special tokens."""
    from transformers import LlavaOnevisionConfig, Qwen2Config, SiglipVisionConfig

    hidden, intermediate, layers, heads, key_heads, vocabulary = _LANGUAGE[name]
    return LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(
            hidden_size=1152,
            intermediate_size=4304,
            num_hidden_layers=26,
            num_attention_heads=16,
            image_size=384,
            patch_size=14,
            vision_use_head=False,
        ),
        text_config=Qwen2Config(
            vocab_size=vocabulary,
            hidden_size=hidden,
            intermediate_size=intermediate,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=key_heads,
            max_position_embeddings=32768,
            rope_parameters={"rope_type": "default", "rope_theta": 1e6},
            tie_word_embeddings=name == "onevision-0.5b",
            eos_token_id=vocabulary - 1,  # never generated, so that all answers have the same length
            pad_token_id=bundled.text_config.pad_token_id,
        ),
        image_token_index=bundled.image_token_index,
        video_token_index=bundled.video_token_index,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=name == "onevision-0.5b",
    )


def _random_network(architecture: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """Return a network with random weights, created directly on `device` in `dtype`."""
    from transformers import LlavaOnevisionForConditionalGeneration

    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            torch.manual_seed(0)
            network = LlavaOnevisionForConditionalGeneration(architecture)
    finally:
        torch.set_default_dtype(before)
    network.eval().requires_grad_(False)
    join_projections(network, device)
    if device.type == "cuda":
        torch.cuda.empty_cache()  # releases the separate projections that were joined
    return network
