"""Finding, checking and placing a checkpoint, with errors that say what to do.

Only safetensors weights are read, and no code that comes with a checkpoint is ever run.
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
from aot.models.language.joined import join_projections
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
    """Return arguments every transformers loader gets. For what is on this machine whole the hub is not asked, whatever
    its files name.
    """
    return {"revision": config.revision, "local_files_only": is_offline(config) or is_here(config)}


@contextmanager
def explained(config: ModelConfig) -> Iterator[None]:
    """Turn the loaders' many exceptions into one ModelError with a remedy."""
    name = config.name
    try:
        with explained_memory():
            yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ModelError(f"no space left to fetch {name}; free some, or set HF_HOME to another disk") from error
        if path_kind(str(name)) == "folder":
            raise ModelError(f"{name} is not a complete model folder: {first_line(error)}") from error
        if is_offline(config):
            suggestion = did_you_mean(str(name), KNOWN_MODELS)
            raise ModelError(
                f"{name} is neither a folder here nor in the local cache, and the offline mode is on; "
                "download it once without --offline (and HF_HUB_OFFLINE), or pass a local folder"
                f"{suggestion and f'; {suggestion}'}"
            ) from error
        raise ModelError(
            f"{name} cannot be fetched from {hub_host()} or read from the cache ({first_line(error)}); "
            f"check the name, --revision and the network, or use the bundled toy, --model {BUNDLED_MODEL}"
        ) from error
    except AOTError:
        raise
    except Exception as error:  # a damaged or hostile checkpoint fails in as many ways as there are parsers
        raise ModelError(f"{name} cannot be loaded: {first_line(error)}") from error


def read_model_config(config: ModelConfig) -> dict[str, Any]:
    """The checkpoint's config.json, with the commit hash as `_commit_hash` when it came from the hub.

    Raises:
        ModelError: it cannot be read, or Python was started so that no model can be loaded.
    """
    if sys.flags.optimize > 1:  # transformers builds its models' documentation from docstrings when it imports them
        raise ModelError(
            "python -OO (PYTHONOPTIMIZE=2) drops the docstrings that transformers needs; use -O, or leave it out"
        )
    from transformers import PretrainedConfig

    with explained(config):
        description, _ = PretrainedConfig.get_config_dict(location(config), **hub_arguments(config))
    if not description:
        raise ModelError(f"{config.name} has no config.json; check the name, or pass a folder that holds a model")
    return dict(description)


def read_json(config: ModelConfig, filename: str) -> dict[str, Any]:
    """A JSON file of the checkpoint; {} if it has none."""
    path = find_file(config, filename)
    with explained(config):
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path else {}


def load_network(config: ModelConfig, cls: Any) -> Any:
    """The network of class `cls`, in eval mode on its device, or on several.

    Raises:
        ModelError: a weight is missing (it would be random) or has another shape.
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
    """As `load_network`, whatever is missing, with what transformers' loader says of the weights; `more` is for it.

    Raises:
        ModelError: a weight has another shape.
    """
    device = pick_device(config.device)
    dtype = pick_dtype(config.dtype, device)
    asked = read_json(config, "generation_config.json")
    with explained(config):
        if asked:
            from transformers import GenerationConfig

            more["generation_config"] = GenerationConfig(**understood_settings(asked))
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
    network.eval().requires_grad_(False)
    quantised = getattr(network, "hf_quantizer", None) is not None  # also where the checkpoint was
    if is_placed(config) or quantised:
        return network, info
    join_projections(network, device)
    return network.to(device), info


def pick_device(name: str) -> torch.device:
    """The torch device for a name; "auto" is the first of CUDA, MPS and CPU that is there.

    Raises:
        ConfigError: the device asked for is not there.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device {name!r} is not one of auto, cpu, cuda, cuda:N or mps") from None
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not there.get(device.type, False):
        raise ConfigError(f"device {name} is not available on this machine; see `aot doctor`, or use --device auto")
    return device


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype for a name; "auto" is bfloat16 where a GPU has it, else float16 on GPUs; float32 on the CPU."""
    if name != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]
    if device.type == "cuda":
        native = torch.cuda.get_device_capability(device) >= (8, 0)  # older cards only emulate bfloat16
        return torch.bfloat16 if native else torch.float16
    return torch.float16 if device.type == "mps" else torch.float32


def read_weights(config: ModelConfig, wanted: Callable[[str], bool]) -> dict[str, Tensor]:
    """The tensors whose names are wanted, as they are stored, from a single or a sharded safetensors checkpoint."""
    weights: dict[str, Tensor] = {}
    with explained(config):
        for file in _shards(config, wanted):
            weights |= {key: file.get_tensor(key) for key in file.keys() if wanted(key)}  # noqa: SIM118
    return weights


def read_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all tensors of a single or a sharded safetensors checkpoint, without reading them."""
    shapes: dict[str, tuple[int, ...]] = {}
    with explained(config):
        for file in _shards(config, lambda key: True):
            shapes |= {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    return shapes


def _shards(config: ModelConfig, wanted: Callable[[str], bool]) -> Iterator[Any]:
    """The safetensors files that hold wanted tensors, open."""
    from safetensors import safe_open

    places = read_json(config, "model.safetensors.index.json").get("weight_map") or {}
    names = {shard for key, shard in places.items() if wanted(key)} if places else {"model.safetensors"}
    for name in sorted(names):
        path = find_file(config, name)
        if path is None:
            raise ModelError(
                f"{config.name} has no {name}; pass a checkpoint with safetensors weights (others are never opened)"
            )
        with safe_open(str(path), framework="pt") as file:
            yield file


def fingerprint(config: ModelConfig, suffixes: tuple[str, ...]) -> str:
    """Hash of the stored weights whose names end so: it does not depend on the dtype they are loaded in. It is of their
    float16, because that is how the hub's converted copies of bfloat16 checkpoints are stored.
    """
    weights = read_weights(config, lambda key: key.endswith(suffixes))
    digest = hashlib.sha256()
    for _, weight in sorted(weights.items()):
        digest.update(weight.to(torch.float16).contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def identify(config: ModelConfig, description: Mapping[str, Any], suffixes: tuple[str, ...]) -> ModelIdentity:
    """Of the checkpoint with config.json `description`; suffixes: of the weights that define its token space."""
    return ModelIdentity(str(config.name), description.get("_commit_hash"), fingerprint(config, suffixes))


def load_tokenizer(config: ModelConfig, /, **more: Any) -> Any:
    """The checkpoint's tokenizer; `more` is for transformers' loader."""
    from transformers import AutoTokenizer

    with explained(config):
        return AutoTokenizer.from_pretrained(location(config), trust_remote_code=False, **hub_arguments(config), **more)


def find_file(config: ModelConfig, filename: str) -> Path | None:
    """Where a file of the checkpoint is, fetched if need be; None if it has no such file."""
    from transformers.utils import cached_file

    options: dict[str, Any] = {"_raise_exceptions_for_missing_entries": False, **hub_arguments(config)}
    with explained(config):
        path = cached_file(location(config), filename, **options)
    return Path(path) if path else None
