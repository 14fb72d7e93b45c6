"""Which language models are made of the parts that are called one by one here."""

from __future__ import annotations

from typing import Any

from aot.errors import UnsupportedError

__all__ = ["check_decoder", "is_plain_decoder"]

# Decoders whose layers are called alike and attend alike, by the `model_type` of their configuration.
_DECODERS = {"llama", "qwen2", "qwen2_5_vl_text", "qwen3", "qwen3_moe", "qwen3_vl_text", "qwen3_vl_moe_text"}


def is_plain_decoder(language: Any) -> bool:
    """Whether a language model (without its head) is one of them, and all its layers attend to all tokens."""
    return language.config.model_type in _DECODERS and not _layer_kinds(language) - {"full_attention"}


def check_decoder(language: Any) -> None:
    """
    Raises:
        UnsupportedError: `prefill` would compute something else than this language model does.
    """
    if is_plain_decoder(language):
        return
    kind, layers = language.config.model_type, _layer_kinds(language)
    what = f"{kind} with {', '.join(sorted(layers))}" if kind in _DECODERS else kind
    raise UnsupportedError(
        f"reductions inside the language model work with Llama and Qwen decoders that attend to all tokens, and this "
        f"one is {what}; leave out --inner"
    )


def _layer_kinds(language: Any) -> set[str]:
    return set(getattr(language.config, "layer_types", None) or ())
