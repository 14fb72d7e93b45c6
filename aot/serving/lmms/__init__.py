"""Let lmms-eval evaluate `aot`: `lmms-eval --model aot` (extra `lmms`)."""

from __future__ import annotations

from typing import Any

__all__ = ["manifest"]


def manifest() -> Any:
    """Return the class that lmms-eval loads; the entry point of the group `lmms_eval.models`."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="aot", chat_class_path="aot.serving.lmms.model.AOTModel")
