"""Describe a method or an inner reduction: card, needs, settings, presets."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from aot.compression.methods import build_method
from aot.config.presets import preset_names, preset_settings
from aot.config.schema import AOT_METHODS, AOTConfig, Config
from aot.config.setting import Setting, settings_in
from aot.errors import BudgetError, ConfigError, first_line
from aot.plugins import METHODS, Card, Kind, find, settings_class
from aot_cli.output.setting_tables import as_yaml, setting_row

if TYPE_CHECKING:
    from aot.config.strict import Settings
    from aot.types import Needs

__all__ = ["MethodCard", "MethodDetails", "describe", "describe_fully", "settings_type"]


@dataclass(frozen=True, slots=True)
class MethodCard:
    """A short description of a method; `needs` is None for an inner reduction."""

    name: str
    acts: str
    paper: str
    exact: bool
    remark: str
    least: str
    needs: list[str] | None

    def to_dict(self) -> dict[str, object]:
        """Return the card as an object for JSON; `needs` is left out if it is None."""
        plain = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in plain.items() if (name, value) != ("needs", None)}


@dataclass(frozen=True, slots=True)
class MethodDetails(MethodCard):
    """A full description of a method: card, docstring, settings, presets and an example."""

    description: list[str]
    settings: list[Setting]
    presets: list[str]
    example: str | None

    def to_dict(self) -> dict[str, object]:
        """Return the description as an object for JSON."""
        return {**MethodCard.to_dict(self), "settings": [setting_row(setting) for setting in self.settings]}


def describe(name: str, kind: Kind) -> MethodCard:
    """Return the card of a method; if a plug-in is broken, `remark` of the card has the error."""
    needs: list[str] = []
    try:
        card: Card = find(name, kind).card
        needs = _needs(name) if kind == "methods" else []
    except ConfigError as error:
        card = Card(acts="", exact=False, remark=f"broken: {error}")
    least = card.least or (_least_share(name) if kind == "inner" and card.acts else "")
    shown_needs = needs if kind == "methods" else None
    return MethodCard(name, card.acts, card.source, card.exact, card.remark, least, shown_needs)


def describe_fully(name: str, kind: Kind) -> MethodDetails:
    """Return the full description of a method.

    Raises:
        ConfigError: If no method has this name, or if the plug-in is broken.
    """
    found, card = find(name, kind), describe(name, kind)
    if card.remark.startswith("broken: "):
        raise ConfigError(card.remark)
    cls, group = settings_type(name, kind)
    settings = list(settings_in(cls, group)) if cls else []
    shown = next((setting for setting in settings if setting.default is not None), None)
    return MethodDetails(
        **{each.name: getattr(card, each.name) for each in fields(card)},
        description=_paragraphs(found, *([cls] if cls not in (None, found) else [])),
        settings=settings,
        presets=_presets(name, kind),
        example=f"--set {shown.path}={as_yaml(shown.default)}" if shown else None,
    )


def settings_type(name: str, kind: Kind) -> tuple[type | None, str]:
    """Return the dataclass of a method's settings (None without settings) and the group's path.

    Raises:
        ConfigError: If no method has this name, or if the plug-in is broken.
    """
    found = find(name, kind)
    if kind == "inner":
        return found, f"inner.settings.{name}."
    if name in AOT_METHODS:
        return AOTConfig, "aot."
    return settings_class(found), f"methods.{name}."


def _paragraphs(*classes: type) -> list[str]:
    """Return the paragraphs of the docstrings, each as one line; a list has one line per item."""
    texts = [inspect.cleandoc(cls.__doc__ or "") for cls in classes]
    own = [text for text, cls in zip(texts, classes, strict=True) if not text.startswith(f"{cls.__name__}(")]
    parts = [part for text in own for part in text.split("\n\n") if part]
    return [part.replace("\n- ", "\0- ").replace("\n", " ").replace("\0", "\n").replace("   ", " ") for part in parts]


def _presets(name: str, kind: Kind) -> list[str]:
    """Return the presets that choose a method."""

    def chosen(settings: Settings) -> object:
        return settings.get("method") if kind == "methods" else (settings.get("inner") or {}).get("name")

    if name == "none":
        return []  # presets of inner reductions also choose the method none
    folders = ("methods/", "paper/")
    return [
        preset for preset in preset_names() if preset.startswith(folders) and chosen(preset_settings(preset)) == name
    ]


def _least_share(name: str) -> str:
    """Return the least ratio that works in `PUBLISHED_LAYERS` layers, or "" if all ratios work."""
    from aot.compression.in_llm.base import PUBLISHED_LAYERS

    for thousandth in range(1, 1001):
        try:
            find(name, "inner")().with_load(thousandth / 1000, PUBLISHED_LAYERS)
        except BudgetError:
            continue
        except Exception:  # an error of a plug-in, reported when it is used
            return ""
        return f"{thousandth / 1000:g} alone, in {PUBLISHED_LAYERS} layers" if thousandth > 1 else ""
    return ""


def _needs(name: str) -> list[str]:
    """Return the names of the encoder outputs that a method needs.

    Raises:
        ConfigError: If a plug-in fails when it is built.
    """
    try:
        return _in_words(build_method(Config(method=name)).needs)
    except Exception as error:
        if name in METHODS:
            raise
        raise ConfigError(f"the method {name} cannot be built: {type(error).__name__}: {first_line(error)}") from error


def _in_words(needs: Needs) -> list[str]:
    blocks = ", ".join(map(str, needs.saliency_layers))
    listed = {
        f"attention in block {blocks}": needs.saliency_layers,
        "keys": needs.key_layers,
        "frame embeddings": needs.frame_embeddings,
        "SigLIP's pooling head (optional)": needs.pooling_attention,
        "its own encoding": needs.merging,
        "the question": needs.question,
    }
    return [name for name, wanted in listed.items() if wanted]
