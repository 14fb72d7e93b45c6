"""Read the settings in `--model_args`, and place a process of several on its GPU."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from aot.config.layers import Layer, build_layers
from aot.config.presets import preset_settings
from aot.config.schema import Config
from aot.config.setting import settings_in
from aot.config.strict import nested
from aot.errors import ConfigError

__all__ = ["Rank", "placed", "read_arguments"]

_GROUPS = ("sampling", "model", "generation")  # whose settings need no group in front
_MODEL = "pretrained"  # the harness's word for the model


def read_arguments(arguments: Mapping[str, object]) -> Config:
    """Return the configuration that `--model_args` ask for; no other file or variable is read.

    A key is the path of a setting (`aot.clips.frames`), the name alone of a setting of sampling,
    model or generation (`frames`), or a group that has a name (`tower`, `inner`). `pretrained` is
    the model, and `preset` the name of a preset or a YAML file with settings.

    Raises:
        ConfigError: If a setting is unknown or wrong; the message names the source of the value.
    """
    given = dict(arguments)
    preset = given.pop("preset", None)
    paths = {key: _path(key) for key in given}
    values = {paths[key]: value for key, value in given.items()}
    names = {path: f"--model_args {key}" for key, path in paths.items()}
    own = Layer(nested(values), "--model_args", names)
    return build_layers([_preset_layer(str(preset)), own] if preset is not None else [own])


def _preset_layer(preset: str) -> Layer:
    return Layer(preset_settings(preset), f"preset {preset}")


def _path(key: str) -> str:
    """Return the path of the setting that `key` names; an unknown key as it is."""
    known = {setting.path for setting in settings_in(Config)}
    guesses = (key, *(f"{group}.{key}" for group in _GROUPS), f"{key}.name")
    return "model.name" if key == _MODEL else next((path for path in guesses if path in known), key)


@dataclass(frozen=True, slots=True)
class Rank:
    """The place of this process among those of one run.

    Attributes:
        number: 0 to `count` - 1.
        count: the number of processes.
        local: the number of this process among those of its machine.
    """

    number: int = 0
    count: int = 1
    local: int = 0

    @classmethod
    def of_process(cls) -> Rank:
        """Return what torchrun or `accelerate launch` wrote into the environment."""
        number, count, local = (int(os.environ.get(name, default)) for name, default in _VARIABLES.items())
        return cls(number, count, local)


_VARIABLES = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0}


def placed(config: Config, rank: Rank) -> Config:
    """Return `config` with a GPU for this process alone, if there are several processes and GPUs.

    Raises:
        ConfigError: If the settings put all processes on one GPU, or the model on all GPUs.
    """
    if rank.count == 1:
        return config
    if config.model.device_map != "none":
        raise ConfigError("device_map=auto takes all GPUs; start one process, without accelerate launch or torchrun")
    device = config.model.device
    if device.startswith("cuda:"):
        raise ConfigError(f"device={device} is one GPU for all {rank.count} processes; leave out its number")
    if device not in ("auto", "cuda") or not torch.cuda.is_available():
        return config
    return replace(config, model=replace(config.model, device=f"cuda:{rank.local}"))
