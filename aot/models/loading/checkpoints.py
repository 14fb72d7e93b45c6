"""Find, check and load a checkpoint, and move it to its device.

Only safetensors weights are read, and no code of a checkpoint is ever run.
"""

from __future__ import annotations

import errno
import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aot.config.schema import BUNDLED_MODEL, ModelConfig
from aot.errors import AOTError, ConfigError, ModelError, first_line
from aot.models.base import ModelIdentity
from aot.models.language.joined_projections import join_projections
from aot.models.language.word_choice import understood_settings
from aot.models.loading.default_model import KNOWN_MODELS
from aot.models.loading.hub import hub_host, is_offline
from aot.models.loading.load_options import is_placed, load_arguments
from aot.models.loading.lookup import is_here, location
from aot.runtime.memory import explained_memory
from aot.runtime.paths import path_kind
from aot.text import did_you_mean

__all__ = [
    "explained",
    "find_file",
    "fingerprint",
    "hub_arguments",
    "identify",
    "load_network",
    "load_tokenizer",
    "pick_device",
    "pick_dtype",
    "read_json",
    "read_model_config",
    "read_network",
    "read_shapes",
    "read_weights",
]


def hub_arguments(config: ModelConfig) -> dict[str, Any]:
    """Return the arguments `revision` and `local_files_only` for the loaders of transformers.

    The hub is not asked in offline mode, or if the checkpoint is complete on this machine.
    """
    return {"revision": config.revision, "local_files_only": is_offline(config) or is_here(config)}


@contextmanager
def explained(config: ModelConfig) -> Iterator[None]:
    """Turn the exceptions of loaders into a ModelError that names the checkpoint."""
    name = config.name
    try:
        with explained_memory():
            yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ModelError(f"no space left to fetch {name}; free some, or set HF_HOME to another disk") from error
        if path_kind(str(name)) == "folder":
            raise ModelError(f"{name} is not a complete model folder: {first_line(error)}") from error
        # The name is a model name on the hub, or a folder that does not exist.
        if is_offline(config):
            suggestion = did_you_mean(str(name), KNOWN_MODELS)
            raise ModelError(
                f"{name} is neither a local folder nor in the cache, and offline mode is on; "
                "download it once without --offline (and HF_HUB_OFFLINE), or pass a local folder"
                f"{suggestion and f'; {suggestion}'}"
            ) from error
        raise ModelError(
            f"{name} cannot be fetched from {hub_host()} or read from the cache ({first_line(error)}); "
            f"check the name, --revision and the network, or use the bundled toy, --model {BUNDLED_MODEL}"
        ) from error
    except AOTError:
        raise
    except Exception as error:
        # A damaged or hostile checkpoint can raise any exception of any parser.
        raise ModelError(f"{name} cannot be loaded: {first_line(error)}") from error


def read_model_config(config: ModelConfig) -> dict[str, Any]:
    """Return the checkpoint's config.json, with `_commit_hash` if it came from the hub.

    Raises:
        ModelError: config.json cannot be read, or Python drops docstrings (-OO).
    """
    # When transformers is imported, it builds documentation from the docstrings of its models.
    if sys.flags.optimize > 1:
        raise ModelError(
            "python -OO (PYTHONOPTIMIZE=2) drops the docstrings that transformers needs; use -O or no option"
        )
    from transformers import PretrainedConfig

    arguments = hub_arguments(config)
    # If config.json is cached, do not ask the hub for its commit a second time.
    if not arguments["local_files_only"] and find_file(config, "config.json"):
        arguments["local_files_only"] = True
    with explained(config):
        description, _ = PretrainedConfig.get_config_dict(location(config), **arguments)
    if not description:
        raise ModelError(f"{config.name} has no config.json; check the name, or pass a folder that holds a model")
    return dict(description)


def read_json(config: ModelConfig, filename: str) -> dict[str, Any]:
    """Return the content of the checkpoint's JSON file `filename`; {} if there is no such file."""
    path = find_file(config, filename)
    with explained(config):
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path else {}


def load_network(config: ModelConfig, cls: Any) -> Any:
    """Load the checkpoint as a network of class `cls`, in eval mode, on its device or devices.

    Raises:
        ModelError: a weight is missing, or its shape does not fit the network.
    """
    network, info = read_network(config, cls)
    missing = sorted(info["missing_keys"])
    if missing:
        raise ModelError(
            f"{config.name} lacks {len(missing)} weights ({missing[0]}, ...), so its answers would be random; "
            "use a complete checkpoint in the transformers layout"
        )
    return network


def read_network(config: ModelConfig, cls: Any, /, **more: Any) -> tuple[Any, dict[str, Any]]:
    """Load a network as `load_network` does; return the network and the loader's report.

    Missing weights are listed in the report and raise no error. `more` is passed to
    `cls.from_pretrained`.

    Raises:
        ModelError: the shape of a weight does not fit the network.
    """
    # 1. Device and dtype.
    device = pick_device(config.device)
    dtype = pick_dtype(config.dtype, device)
    # 2. The checkpoint's generation settings, without those that decoding does not support.
    asked = read_json(config, "generation_config.json")
    with explained(config):
        if asked:
            from transformers import GenerationConfig

            more["generation_config"] = GenerationConfig(**understood_settings(asked))
        # 3. The weights, from safetensors files only; no code of the checkpoint runs.
        network, info = cls.from_pretrained(
            location(config),
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            **load_arguments(config, device, dtype),
            **hub_arguments(config),
            **more,
        )
    # 4. Join projections and move the network, unless the loader placed or quantized it.
    network.eval().requires_grad_(False)
    quantized = getattr(network, "hf_quantizer", None) is not None  # by `config.quantize`, or in the checkpoint
    if is_placed(config) or quantized:
        return network, info
    join_projections(network, device)
    return network.to(device), info


def pick_device(name: str) -> torch.device:
    """Return the device called `name`; "auto" means the first available of CUDA, MPS and CPU.

    Raises:
        ConfigError: `name` is not a valid device name, or the device is not available.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device {name!r} is not one of auto, cpu, cuda, cuda:N or mps") from None
    available = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not available.get(device.type, False):
        raise ConfigError(f"device {name} is not available on this machine; see `aot doctor`, or use --device auto")
    return device


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the dtype called `name`; "auto" means 16 bits on GPUs and float32 on the CPU."""
    if name != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]
    if device.type == "cuda":
        # Older cards emulate bfloat16, which is slow.
        native = torch.cuda.get_device_capability(device) >= (8, 0)
        return torch.bfloat16 if native else torch.float16
    return torch.float16 if device.type == "mps" else torch.float32


def read_weights(config: ModelConfig, wanted: Callable[[str], bool]) -> dict[str, Tensor]:
    """Return, by name, the weights for which `wanted(name)` is true, in their stored dtype."""
    weights: dict[str, Tensor] = {}
    with explained(config):
        for file in _shards(config, wanted):
            weights |= {key: file.get_tensor(key) for key in file.keys() if wanted(key)}  # noqa: SIM118
    return weights


def read_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all weights by name, without reading the weights."""
    shapes: dict[str, tuple[int, ...]] = {}
    with explained(config):
        for file in _shards(config, lambda key: True):
            shapes |= {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    return shapes


def _shards(config: ModelConfig, wanted: Callable[[str], bool]) -> Iterator[Any]:
    """Open and yield the safetensors files with the weights for which `wanted(name)` is true."""
    from safetensors import safe_open

    # An index maps weights to shards. Without an index there is a single file.
    shards = read_json(config, "model.safetensors.index.json").get("weight_map") or {}
    names = {shard for key, shard in shards.items() if wanted(key)} if shards else {"model.safetensors"}
    for name in sorted(names):
        path = find_file(config, name)
        if path is None:
            raise ModelError(
                f"{config.name} has no {name}; pass a checkpoint with safetensors weights (no others are opened)"
            )
        with safe_open(str(path), framework="pt") as file:
            yield file


def fingerprint(config: ModelConfig, suffixes: tuple[str, ...]) -> str:
    """Return a hash of the weights whose names end with one of `suffixes`.

    The hash does not depend on the dtype of a loaded network.
    """
    weights = read_weights(config, lambda key: key.endswith(suffixes))
    digest = hashlib.sha256()
    for _, weight in sorted(weights.items()):
        # On the hub, copies of bfloat16 checkpoints are float16: always hash float16 values.
        digest.update(weight.to(torch.float16).contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def identify(config: ModelConfig, description: Mapping[str, Any], suffixes: tuple[str, ...]) -> ModelIdentity:
    """Return name, revision, and hash of the weights whose names end with one of `suffixes`."""
    return ModelIdentity(str(config.name), description.get("_commit_hash"), fingerprint(config, suffixes))


def load_tokenizer(config: ModelConfig, /, **more: Any) -> Any:
    """Return the checkpoint's tokenizer; `more` is passed to transformers' loader."""
    from transformers import AutoTokenizer

    with explained(config):
        return AutoTokenizer.from_pretrained(location(config), trust_remote_code=False, **hub_arguments(config), **more)


def find_file(config: ModelConfig, filename: str) -> Path | None:
    """Return the path of `filename`, fetched if necessary; None if there is no such file."""
    from transformers.utils import cached_file

    options: dict[str, Any] = {"_raise_exceptions_for_missing_entries": False, **hub_arguments(config)}
    with explained(config):
        path = cached_file(location(config), filename, **options)
    return Path(path) if path else None
