"""Answer questions about a video with a tenth of the visual tokens.

`import aot` is fast: torch and transformers are imported when a name that needs them is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "AOTError": "aot.errors",
    "CompressedTokens": "aot.types",
    "Pipeline": "aot.pipeline.run",
    "Compression": "aot.reports.retention",
    "Config": "aot.config.schema",
    "RetentionReport": "aot.reports.retention",
    "Role": "aot.types",
    "Session": "aot.session",
    "Turn": "aot.models.base",
    "VisualTokens": "aot.types",
    "build_config": "aot.config.schema",
    "build_method": "aot.compression.methods",
    "decode": "aot.video",
    "load_model": "aot.models",
    "load_tokens": "aot.storage.tokens_file",
    "probe": "aot.video",
    "save_tokens": "aot.storage.tokens_file",
}
__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'aot' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
