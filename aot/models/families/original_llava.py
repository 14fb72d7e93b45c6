"""LLaVA-OneVision and LLaVA-Video as their authors published them (lmms-lab).

The weights have other names than in transformers, and config.json gives sizes of the language model
only. The weights are loaded into the network that the converted copies on the hub use.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from aot.config.schema import ModelConfig
from aot.errors import ModelError
from aot.models.families.llava import Llava
from aot.models.families.llava_geometry import LlavaGeometry
from aot.models.loading.checkpoints import explained, find_file, identify, load_tokenizer, read_network, read_shapes

__all__ = ["OriginalLlava", "network_config"]

# Prefixes of weight names, in the checkpoint and in the network.
_NAMES = (
    ("model.vision_tower.vision_tower.vision_model.", "model.vision_tower."),
    ("model.mm_projector.0.", "model.multi_modal_projector.linear_1."),
    ("model.mm_projector.2.", "model.multi_modal_projector.linear_2."),
    ("model.layers.", "model.language_model.layers."),
    ("model.embed_tokens.", "model.language_model.embed_tokens."),
    ("model.norm.", "model.language_model.norm."),
)
_TOWER = _NAMES[0][0]

# SigLIP so400m. config.json gives only the name of the tower.
_HEAD_WIDTH = 72
_FULL_WIDTH, _IMAGE_SIZE = 1152, 384
# LLaVA's features are the states before the last of SigLIP's 27 blocks.
_BLOCKS = 26

# Token ids as in the converted copies.
_IMAGE_TOKEN, _VIDEO_TOKEN = 151646, 151647

_TEXT_SETTINGS = (
    "attention_dropout", "bos_token_id", "eos_token_id", "hidden_act", "hidden_size", "intermediate_size",
    "max_position_embeddings", "max_window_layers", "num_attention_heads", "num_hidden_layers", "num_key_value_heads",
    "pad_token_id", "rms_norm_eps", "rope_parameters", "rope_scaling", "rope_theta", "sliding_window",
    "tie_word_embeddings", "use_sliding_window", "vocab_size",
)  # fmt: skip
# Supported values of other keys in config.json; others mean another network or prompt.
_SUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "mm_projector_type": ("mlp2x_gelu",),
    "mm_resampler_type": (None,),
    "mm_newline_position": ("one_token", "grid", "no_token", None),
    "mm_spatial_pool_mode": ("bilinear", "average", None),
    "mm_spatial_pool_stride": (2, None),
    "add_faster_video": (False, None),
}


class OriginalLlava(Llava):
    """A LLaVA checkpoint in the original layout, which runs as `Llava`.

    Tokens files of an original checkpoint and of its converted copy are interchangeable.
    """

    token_space = ("mm_projector.2.weight", "image_newline")

    @classmethod
    def load(cls, config: ModelConfig, description: dict[str, Any]) -> OriginalLlava:
        """Load the network from renamed weights, and the tokenizer."""
        _check_tokenizer(config)
        network = _load_network(config, description)
        tokenizer = load_tokenizer(config, config=network.config.text_config)
        identity = identify(config, description, cls.token_space)
        return cls(network, tokenizer, config, identity, LlavaGeometry.of(config, description))


def _check_tokenizer(config: ModelConfig) -> None:
    """Check that tokenizer files exist; without them, transformers makes an empty tokenizer."""
    found = {name for name in ("tokenizer.json", "vocab.json", "merges.txt") if find_file(config, name)}
    if not ("tokenizer.json" in found or found == {"vocab.json", "merges.txt"}):
        raise ModelError(
            f"{config.name} has no tokenizer.json; copy the tokenizer files of its language model next to the "
            "weights (those of Qwen/Qwen2-7B-Instruct, for instance)"
        )


def _load_network(config: ModelConfig, description: Mapping[str, Any]) -> Any:
    """Load the network from renamed weights; check that no weight is missing or unused."""
    from transformers import LlavaOnevisionForConditionalGeneration

    # 1. The configuration, from config.json and the shapes of the weights.
    shapes = read_shapes(config)
    with explained(config):
        translated = network_config(str(config.name), description, shapes)
    # 2. The weights, with prefixes of names replaced.
    network, info = read_network(
        config,
        LlavaOnevisionForConditionalGeneration,
        config=translated,
        key_mapping={"^" + re.escape(original): name for original, name in _NAMES},
    )
    # 3. Missing weights would be random; unused weights mean another architecture.
    missing, unused = (
        sorted(_original(name) for name in info[kind] if not _is_spare(name))
        for kind in ("missing_keys", "unexpected_keys")
    )
    if missing:
        raise ModelError(
            f"{config.name} lacks {len(missing)} weights ({missing[0]}, ...), so its answers would be random; "
            "use a complete checkpoint"
        )
    if unused:
        raise ModelError(
            f"{config.name} has {len(unused)} weights that LLaVA-OneVision does not use ({unused[0]}, ...), so it has "
            "another architecture; use a checkpoint of LLaVA-OneVision or LLaVA-Video"
        )
    return network


def _is_spare(name: str) -> bool:
    """Return whether the weight `name` is not needed: it is in SigLIP after LLaVA's features."""
    block = re.match(r"model\.vision_tower\.encoder\.layers\.(\d+)\.", name)
    after = ("model.vision_tower.post_layernorm.", "model.vision_tower.head.")
    return int(block[1]) >= _BLOCKS if block else name.startswith(after)


def _original(name: str) -> str:
    """Translate `name`, a weight's name in the network, to its name in the checkpoint."""
    return next((old + name.removeprefix(new) for old, new in _NAMES if name.startswith(new)), name)


def network_config(name: str, description: Mapping[str, Any], shapes: Mapping[str, Sequence[int]]) -> Any:
    """Return the transformers configuration of the network whose weights have `shapes`.

    Raises:
        ModelError: config.json asks for another architecture, or the tower lacks a weight.
    """
    from transformers import LlavaOnevisionConfig

    # 1. Refuse settings that mean another network or prompt.
    for key, supported in _SUPPORTED.items():
        if description.get(key) not in supported:
            raise ModelError(
                f"{name} has {key} {description.get(key)!r} in its config.json, which is not supported; "
                f"use a checkpoint with {' or '.join('none' if value is None else repr(value) for value in supported)}"
            )
    # 2. The language model. Small vocabularies, as in tests, end with the two placeholders.
    text = {key: description[key] for key in _TEXT_SETTINGS if key in description}
    vocabulary = text["vocab_size"]
    full = vocabulary > _VIDEO_TOKEN
    # 3. The whole network. The tower is built without its last block, so features are of layer -1.
    return LlavaOnevisionConfig(
        vision_config={"model_type": "siglip_vision_model", **_vision_settings(name, shapes)},
        text_config={"model_type": "qwen2", **text},
        image_token_index=_IMAGE_TOKEN if full else vocabulary - 2,
        video_token_index=_VIDEO_TOKEN if full else vocabulary - 1,
        projector_hidden_act="gelu",
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=text.get("tie_word_embeddings", False),
    )


def _vision_settings(name: str, shapes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Return the tower's settings, read from the shapes of its weights."""

    def shape(weight: str) -> Sequence[int]:
        if _TOWER + weight not in shapes:
            raise ModelError(f"{name} lacks {_TOWER}{weight}; use a checkpoint that includes its SigLIP tower")
        return shapes[_TOWER + weight]

    width, _, patch, _ = shape("embeddings.patch_embedding.weight")
    positions = shape("embeddings.position_embedding.weight")[0]
    # Shapes do not give the number of heads, so their width is fixed.
    if width % _HEAD_WIDTH:
        raise ModelError(f"the vision tower of {name} is {width} wide; only SigLIP so400m (1152) is supported")
    block = re.compile(re.escape(_TOWER) + r"encoder\.layers\.(\d+)\.")
    blocks = [int(found[1]) for found in map(block.match, shapes) if found]
    return {
        "hidden_size": width,
        "num_attention_heads": width // _HEAD_WIDTH,
        "intermediate_size": shape("encoder.layers.0.mlp.fc1.weight")[0],
        "num_hidden_layers": _BLOCKS if width == _FULL_WIDTH else min(max(blocks) + 1, _BLOCKS),
        "patch_size": patch,
        "image_size": _image_size(positions, patch),
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": 1e-6,
        "vision_use_head": False,
    }


def _image_size(positions: int, patch: int) -> int:
    """Return the image's side in pixels, for `positions` square patches of side `patch` pixels.

    If SigLIP's 384 x 384 pixels hold exactly `positions` whole patches, the side is 384, although
    27 patches of 14 pixels leave 6 pixels unused.
    """
    side = round(positions**0.5)
    return _IMAGE_SIZE if _IMAGE_SIZE // patch == side else side * patch
