"""Options to fit a model into memory: attention kernels, quantization and several devices.

The loaders of transformers implement these options.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch

from aot.config.schema import ModelConfig
from aot.errors import ConfigError

__all__ = ["ATTENTION", "check_load_options", "is_placed", "load_arguments"]

ATTENTION = {"sdpa": "sdpa", "flash": "flash_attention_2"}  # our name: transformers' name

# Modules that are not quantized: vision tower and projector, by their names in all families, and
# the output head.
_KEPT = ("model.vision_tower", "model.visual", "model.multi_modal_projector", "lm_head")


def check_load_options(config: ModelConfig, device: torch.device) -> None:
    """Check the load options in `config` for use on `device`, before anything is fetched.

    Raises:
        ConfigError: an option needs a missing library, another device or another dtype.
    """
    # FlashAttention runs on CUDA devices only, and in 16 bits.
    if config.attention == "flash":
        if device.type != "cuda":
            raise ConfigError(f"--attn flash needs a CUDA device, and this one is {device.type}; leave --attn out")
        if config.dtype == "float32":
            raise ConfigError("--attn flash needs a 16-bit dtype; use --dtype bfloat16 or float16, or leave --attn out")
        _need("--attn flash", "flash_attn", install="flash-attn --no-build-isolation")
    # bitsandbytes does the arithmetic; accelerate places the weights.
    if config.quantize != "none":
        _need(f"--quantize {config.quantize}", "bitsandbytes", "accelerate", install='"aot[quantize]"')
    if config.device_map != "none":
        _need(f"--device-map {config.device_map}", "accelerate", install="accelerate")


def _need(option: str, *modules: str, install: str) -> None:
    """Check that the `modules` that `option` needs are installed."""
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        lacking = " and ".join(missing)
        are = "are" if len(missing) > 1 else "is"
        raise ConfigError(
            f"{option} needs {lacking}, which {are} not installed; pip install {install}, or leave it out"
        )


def is_placed(config: ModelConfig) -> bool:
    """Return whether the loader places the weights on devices, where they must stay."""
    return config.quantize != "none" or config.device_map != "none"


def load_arguments(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Return the arguments of `from_pretrained` for attention, quantization and devices."""
    arguments: dict[str, Any] = {"attn_implementation": ATTENTION[config.attention]}
    if is_placed(config):
        # The key "" means the whole model, which is quantized on this device.
        arguments["device_map"] = {"": str(device)} if config.device_map == "none" else config.device_map
    if config.quantize != "none":
        arguments["quantization_config"] = _bits(config.quantize, dtype)
    return arguments


def _bits(quantize: str, dtype: torch.dtype) -> Any:
    """Return transformers' configuration for quantization to 8 or 4 bits."""
    from transformers import BitsAndBytesConfig

    kept = list(_KEPT)
    if quantize == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=kept)
    return BitsAndBytesConfig(
        # NF4, the 4-bit type of QLoRA (Dettmers et al. 2023).
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=kept,
    )
