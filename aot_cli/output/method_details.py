"""What is known of a method or an inner reduction: its card, what it needs, its settings, its presets."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, get_type_hints

if TYPE_CHECKING:
    from aot.plugins import Kind
    from aot.types import Needs

__all__ = ["describe", "describe_fully"]

_FAR = 10**9  # out of every range, so that a setting tells its own


def describe(name: str, kind: Kind) -> dict[str, Any]:
    """Its card and what it needs; of a plug-in that is broken, what is wrong."""
    from aot.errors import ConfigError
    from aot.plugins import Card, find

    needs: list[str] = []
    try:
        card: Card = find(name, kind).card
        needs = _needs(name) if kind == "methods" else []
    except ConfigError as error:
        card = Card(acts="", exact=False, remark=f"broken: {error}")
    told = {
        "name": name, "acts": card.acts, "paper": card.source, "exact": card.exact, "remark": card.remark,
        "least": card.least or (_least_share(name) if kind == "inner" and card.acts else ""),
    }  # fmt: skip
    return {**told, "needs": needs} if kind == "methods" else told


def describe_fully(name: str, kind: Kind) -> dict[str, Any]:
    """`describe` and its docstring, settings, presets and an example of how a setting is given.

    Raises:
        ConfigError: there is none of this name, or it is broken.
    """
    from aot.errors import ConfigError
    from aot.plugins import find

    found, told = find(name, kind), describe(name, kind)
    if told["remark"].startswith("broken: "):
        raise ConfigError(told["remark"])
    settings_type, group = _settings_of(found, name, kind)
    settings = list(_settings(settings_type, group)) if settings_type else []
    shown = next((setting for setting in settings if setting["default"] is not None), None)
    return {
        **told,
        "description": _paragraphs(found, *([settings_type] if settings_type not in (None, found) else [])),
        "settings": settings,
        "presets": _presets(name, kind),
        "example": f"--set {shown['path']}={shown['default_text']}" if shown else None,
    }


def _settings_of(found: Any, name: str, kind: Kind) -> tuple[Any, str]:
    """The dataclass of its settings, and the group they are in."""
    from aot.config.schema import AOT_METHODS, AOTConfig

    if kind == "inner":
        return found, f"inner.settings.{name}."
    if name in AOT_METHODS:
        return AOTConfig, "aot."
    own = getattr(found, "settings_type", None) if hasattr(found, "from_config") else found
    return own, f"methods.{name}."


def _settings(cls: Any, group: str) -> Iterator[dict[str, Any]]:
    """Every setting of a dataclass and of those in it: path, type, range where it says one, default."""
    from aot.config.strict import type_in_words

    hints, defaults = get_type_hints(cls), cls()
    for field in fields(cls):
        hint, path = hints[field.name], group + field.name
        if is_dataclass(hint):
            yield from _settings(hint, path + ".")
            continue
        default = getattr(defaults, field.name)
        yield {
            "path": path, "type": type_in_words(hint), "rule": _rule(cls, field.name), "default": default,
            "default_text": _as_yaml(default),
        }  # fmt: skip


def _rule(cls: Any, name: str) -> str:
    """What the class says of a number far out of range, for instance "in [0, 1]"; empty where it says nothing."""
    from aot.errors import ConfigError

    for value in (-_FAR, _FAR):
        try:
            cls(**{name: value})
        except ConfigError as error:
            told = next((each for each in map(str, error.problems) if each.startswith(f"{name} must ")), "")
            rule = told.removeprefix(f"{name} must ").partition(", got")[0]
            return rule.removeprefix("be ").replace("not be ", "not ", 1)
        except Exception:  # a plug-in's check may not expect a number
            return ""
    return ""


def _as_yaml(value: Any) -> str:
    words = {None: "null", True: "true", False: "false"}
    return words[value] if value is None or isinstance(value, bool) else str(value)


def _paragraphs(*classes: Any) -> list[str]:
    """The docstrings' paragraphs, each in one line but for the items of lists."""
    texts = [inspect.cleandoc(cls.__doc__ or "") for cls in classes]
    own = [text for text, cls in zip(texts, classes, strict=True) if not text.startswith(f"{cls.__name__}(")]
    parts = [part for text in own for part in text.split("\n\n") if part]
    return [part.replace("\n- ", "\0- ").replace("\n", " ").replace("\0", "\n").replace("   ", " ") for part in parts]


def _presets(name: str, kind: Kind) -> list[str]:
    """The presets that choose it."""
    from aot.config.presets import preset_names, preset_settings

    def chosen(settings: dict[str, Any]) -> Any:
        return settings.get("method") if kind == "methods" else (settings.get("inner") or {}).get("name")

    if name == "none":
        return []  # chosen by many, for what acts inside the language model
    folders = ("methods/", "paper/")
    return [
        preset for preset in preset_names() if preset.startswith(folders) and chosen(preset_settings(preset)) == name
    ]


def _least_share(name: str) -> str:
    """The least ratio that an inner reduction alone can come down to, in a model of as many layers as the published."""
    from aot.compression.in_llm.base import PUBLISHED_LAYERS
    from aot.errors import BudgetError
    from aot.plugins import find

    for thousandth in range(1, 1001):
        try:
            find(name, "inner")().with_load(thousandth / 1000, PUBLISHED_LAYERS)
        except BudgetError:
            continue
        except Exception:  # a plug-in's own trouble, told when it is used
            return ""
        return f"{thousandth / 1000:g} alone, in {PUBLISHED_LAYERS} layers" if thousandth > 1 else ""
    return ""


def _needs(name: str) -> list[str]:
    """
    Raises:
        ConfigError: a plug-in fails when it is built.
    """
    from aot.compression.methods import build_method
    from aot.config.schema import Config
    from aot.errors import ConfigError, first_line
    from aot.plugins import METHODS

    try:
        return _in_words(build_method(Config(method=name)).needs)
    except Exception as error:
        if name in METHODS:
            raise
        raise ConfigError(f"the method {name} cannot be built: {type(error).__name__}: {first_line(error)}") from error


def _in_words(needs: Needs) -> list[str]:
    blocks = ", ".join(map(str, needs.saliency_layers))
    told = {
        f"attention in block {blocks}": needs.saliency_layers,
        "keys": needs.key_layers,
        "frame embeddings": needs.frame_embeddings,
        "SigLIP's pooling head (optional)": needs.pooling_attention,
        "its own encoding": needs.merging,
    }
    return [name for name, wanted in told.items() if wanted]
