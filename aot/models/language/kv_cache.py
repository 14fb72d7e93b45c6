"""Keys and values that a language model has read, passed under the name that the installed transformers has for them.

In 5.16 they are `past_key_values` everywhere; 5.24 renames them to `cache`, and drops the old name in 5.40.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

__all__ = ["cache_argument"]


def cache_argument(function: Callable[..., Any], keys_and_values: Any) -> dict[str, Any]:
    """Return the keyword argument that hands `keys_and_values` to a function, or to `forward` of a module's class."""
    return {_name_in(function): keys_and_values}


@cache
def _name_in(function: Callable[..., Any]) -> str:
    return "cache" if "cache" in inspect.signature(function).parameters else "past_key_values"
