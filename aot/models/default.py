"""Which model answers when none is named."""

from __future__ import annotations

from aot.config import BUNDLED_MODEL, REAL_MODEL

__all__ = ["default_model"]

# From the smallest: it fits wherever a larger one does.
_CACHEABLE = (
    REAL_MODEL,
    "llava-hf/llava-onevision-qwen2-0.5b-si-hf",
    "llava-hf/llava-onevision-qwen2-7b-ov-hf",
    "llava-hf/llava-onevision-qwen2-7b-ov-chat-hf",
    "llava-hf/llava-onevision-qwen2-7b-si-hf",
    "llava-hf/llava-onevision-qwen2-72b-ov-hf",
    "llava-hf/llava-onevision-qwen2-72b-ov-chat-hf",
)


def default_model() -> str:
    """The smallest LLaVA-OneVision that lies whole in the Hugging Face cache, otherwise the bundled shapes model."""
    return next((name for name in _CACHEABLE if _is_cached(name)), BUNDLED_MODEL)


def _is_cached(name: str) -> bool:
    """Whether the configuration and every shard of the weights are there."""
    import json
    from pathlib import Path

    from huggingface_hub import try_to_load_from_cache

    def find(filename: str) -> Path | None:
        found = try_to_load_from_cache(name, filename)
        return Path(found) if isinstance(found, str) else None

    if find("config.json") is None:
        return False
    index = find("model.safetensors.index.json")
    if index is None:
        return find("model.safetensors") is not None
    shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    return all(find(shard) is not None for shard in shards)
