"""How tokens become fewer: one file per method, and the table that names them."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from aot.config import Config
from aot.methods.base import Method

__all__ = ["METHODS", "Method", "build_method"]

# name: where its class is, and what of the configuration it is made of
METHODS: dict[str, tuple[str, str, Callable[[Config], tuple[Any, ...]]]] = {
    "aot": ("aot", "AnchorTransport", lambda config: (config.aot, config.ratio)),
    "none": ("none", "NoCompression", lambda config: ()),
    "random": ("random", "RandomTokens", lambda config: (config.random.seed,)),
    "uniform": ("uniform", "Uniform", lambda config: ()),
    "attention": ("attention", "TopAttention", lambda config: (config.aot.anchors.deep_layer,)),
    "frames": ("frames", "FewerFrames", lambda config: ()),
}


def build_method(config: Config) -> Method:
    """The method `config` asks for; ratio 1 always means none."""
    module, name, arguments = METHODS[config.method if config.compresses else "none"]
    method: Method = getattr(import_module(f"aot.methods.{module}"), name)(*arguments(config))
    return method
