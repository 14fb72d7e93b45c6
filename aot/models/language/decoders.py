"""Decide whether the layers of a language model can be called one by one."""

from __future__ import annotations

from typing import Any

from aot.errors import UnsupportedError

__all__ = ["check_decoder", "is_plain_decoder"]

# Decoders whose layers have the same modules and the same attention, by `model_type`. Others may
# differ in small ways (scaled residuals, sliding windows) that would give wrong states silently.
_DECODERS = {"llama", "qwen2", "qwen2_5_vl_text", "qwen3", "qwen3_moe", "qwen3_vl_text", "qwen3_vl_moe_text"}


def is_plain_decoder(language: Any) -> bool:
    """Return whether `language`, without its head, is in `_DECODERS` and has full attention."""
    return language.config.model_type in _DECODERS and not _layer_kinds(language) - {"full_attention"}


def check_decoder(language: Any) -> None:
    """Check that `prefill` supports `language`, a language model without its head.

    Raises:
        UnsupportedError: If `prefill` might compute other states than `language`.
    """
    if is_plain_decoder(language):
        return
    kind, layers = language.config.model_type, _layer_kinds(language)
    what = f"{kind} with {', '.join(sorted(layers))}" if kind in _DECODERS else kind
    raise UnsupportedError(
        f"reductions inside the language model need a Llama or Qwen decoder whose layers attend to all tokens, and "
        f"this one is {what}; leave out --inner"
    )


def _layer_kinds(language: Any) -> set[str]:
    return set(getattr(language.config, "layer_types", None) or ())
