"""Keys and values that a language model has read, passed under the name that the installed transformers has for them.

In 5.16 they are `past_key_values` everywhere; 5.24 renames them to `cache`, and drops the old name in 5.40 (6.0 in
`generate`).
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

__all__ = ["cache_argument", "copied_cache"]


def cache_argument(function: Callable[..., Any], keys_and_values: Any) -> dict[str, Any]:
    """Return the keyword argument that hands `keys_and_values` to a function, or to `forward` of a module's class.

    `generate` hands what it gets to its network's `forward`, so it is the one to ask about.
    """
    return {_name_in(function): keys_and_values}


@cache
def _name_in(function: Callable[..., Any]) -> str:
    return "cache" if "cache" in inspect.signature(function).parameters else "past_key_values"


def copied_cache(cache: Any) -> Any:
    """Return a cache that grows on its own. What it holds so far is shared: growing makes new tensors."""
    copied = copy.copy(cache)
    copied.layers = [copy.copy(layer) for layer in cache.layers]
    return copied
