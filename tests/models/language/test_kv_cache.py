"""Keys and values go by the name that each callable has for them."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import Qwen2Model
from transformers.masking_utils import create_causal_mask
from transformers.utils.deprecation import deprecate_kwarg

from aot.models.language.kv_cache import cache_argument


def older(hidden_states: Any, past_key_values: Any = None) -> Any:
    return past_key_values


@deprecate_kwarg("past_key_values", "99.0.0", new_name="cache")
def newer(hidden_states: Any, cache: Any = None) -> Any:
    return cache


def newest(hidden_states: Any, cache: Any = None, **kwargs: Any) -> Any:
    assert not kwargs
    return cache


@pytest.mark.parametrize("function", [older, newer, newest])
@pytest.mark.filterwarnings("error")
def test_functions_of_every_age(function: Any) -> None:
    assert function(None, **cache_argument(function, "kept")) == "kept"


@pytest.mark.parametrize("function", [Qwen2Model.forward, create_causal_mask])
def test_the_installed_functions_have_that_name(function: Any) -> None:
    import inspect

    (name,) = cache_argument(function, None)
    assert name in inspect.signature(function).parameters
