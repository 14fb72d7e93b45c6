"""Pass a key-value cache under the argument name that the installed transformers uses.

Version 5.16 calls it `past_key_values`. Version 5.24 renames it to `cache`; 5.40 drops the old
name.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

__all__ = ["cache_argument"]


def cache_argument(function: Callable[..., Any], keys_and_values: Any) -> dict[str, Any]:
    """Return the keyword argument that passes a cache to `function`, for instance to `forward`."""
    # Callers pass `forward` of the class, because accelerate replaces `forward` of an instance.
    return {_name_in(function): keys_and_values}


@cache
def _name_in(function: Callable[..., Any]) -> str:
    return "cache" if "cache" in inspect.signature(function).parameters else "past_key_values"
