"""Write the language model of a checkpoint as a folder of its own, for engines."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aot.config.schema import ModelConfig
from aot.errors import ModelError, OutputError, UnsupportedError
from aot.models import describe_model
from aot.models.loading.checkpoints import find_file, read_json
from aot.runtime.atomic_writes import make_folder, write_text, write_whole
from aot.runtime.folder_lock import locked

if TYPE_CHECKING:
    from torch import Tensor

    from aot.models.base import VideoModel
    from aot.models.composed import ComposedModel
    from aot.models.loading.hub import Listing

__all__ = ["cached_language_model", "check_exportable", "check_target", "export_language_model", "stored_dtype"]

_LARGEST_FILE = "4GB"  # a file is held in memory twice while it is written
_CONFIG = "config.json"
_DTYPES = ("float32", "bfloat16", "float16")
_OURS = re.compile(r"model(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index\.json|(generation_)?config\.json")


def check_exportable(config: ModelConfig) -> None:
    """Check that the settings keep the weights as they are, and in one place.

    Raises:
        UnsupportedError: If they do not.
    """
    for name, value in (("--quantize", config.quantize), ("--device-map", config.device_map)):
        if value != "none":
            raise UnsupportedError(f"{name} {value} changes or spreads the weights that an engine needs; leave it out")


def check_target(folder: Path, *, overwrite: bool) -> None:
    """Check before the model is loaded that it can be written to `folder`.

    Raises:
        OutputError: If `folder` is a file, or not empty and `overwrite` is false.
    """
    make_folder(folder)
    if not overwrite and any(folder.iterdir()):
        raise OutputError(f"{folder} is not empty; name another folder with -o, or pass --force")


def stored_dtype(config: ModelConfig, to_fetch: Listing | None) -> ModelConfig:
    """Return `config` with the number format of the stored weights, if it leaves it open."""
    if config.dtype != "auto":
        return config
    description = describe_model(config, to_fetch).description
    text = description.get("text_config") or {}
    named = (part.get(key) for part in (description, text) for key in ("dtype", "torch_dtype"))
    return replace(config, dtype=next((each for each in named if each in _DTYPES), "auto"))


def export_language_model(model: VideoModel, folder: Path) -> list[Path]:
    """Write the language model, its tokenizer and its generation settings; return the files.

    config.json is written last. Without it, `folder` is no model: an export that was interrupted
    cannot be taken for a whole one.

    Raises:
        ModelError: If the weights are not those of a language model that transformers knows.
        OutputError: If a file cannot be written.
    """
    from aot.models.composed import ComposedModel

    assert isinstance(model, ComposedModel)
    config, weights = _parts(model)
    make_folder(folder)
    with _explained(folder):
        (folder / _CONFIG).unlink(missing_ok=True)
        for path in folder.iterdir():
            if _OURS.fullmatch(path.name):
                path.unlink()
        model.tokenizer.save_pretrained(folder)
        model.network.generation_config.save_pretrained(folder)
    _write_weights(weights, folder)
    write_text(folder / _CONFIG, json.dumps(config, indent=2) + "\n", overwrite=True)
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _parts(model: ComposedModel) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the content of config.json and the weights, named as transformers names them."""
    import torch
    from transformers import AutoModelForCausalLM

    network, text = model.network, model.network.config.text_config
    # 1. The head is a weight of its own unless it is the table of the input embeddings.
    head, table = network.get_output_embeddings().weight, network.get_input_embeddings().weight
    tied = head.data_ptr() == table.data_ptr() and head.shape == table.shape
    weights = {f"model.{name}": value for name, value in model.language.state_dict().items()}
    weights["lm_head.weight"] = head
    # 2. The names must be those of the class that an engine makes of the config.
    with torch.device("meta"):
        alone = AutoModelForCausalLM.from_config(text)
    if strange := set(alone.state_dict()) ^ set(weights):
        raise ModelError(
            f"the language model of {model.identity.name} is not the {type(alone).__name__} that its config.json "
            f"names ({min(strange)}); use --engine transformers"
        )
    if tied:
        del weights["lm_head.weight"]
    # 3. Names of folders and commits say nothing about the new folder.
    config = {name: value for name, value in text.to_dict().items() if not name.startswith("_")}
    config.pop("transformers_version", None)
    config |= {
        "architectures": [type(alone).__name__],
        "tie_word_embeddings": tied,
        "dtype": str(network.dtype).removeprefix("torch."),
    }
    return config, {name: value.detach() for name, value in weights.items()}


def _write_weights(weights: Mapping[str, Tensor], folder: Path) -> None:
    """Write `weights` to one file, or to several with an index."""
    from huggingface_hub import split_torch_state_dict_into_shards
    from safetensors.torch import save

    # Joined projections are views of one storage; only copies have a storage of their own.
    split = split_torch_state_dict_into_shards(
        {name: value.to("meta").clone() for name, value in weights.items()}, max_shard_size=_LARGEST_FILE
    )
    for filename, names in split.filename_to_tensors.items():
        part = {name: weights[name].cpu().clone().contiguous() for name in names}
        content: bytes = save(part, metadata={"format": "pt"})
        write_whole(folder / filename, lambda path, content=content: path.write_bytes(content), overwrite=True)  # type: ignore[misc]
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        write_text(folder / "model.safetensors.index.json", json.dumps(index, indent=2) + "\n", overwrite=True)


def cached_language_model(model: ComposedModel) -> Path:
    """Return the exported language model in the user's cache; write it if it is not there.

    The name of the folder depends on the files of the checkpoint and the number format.

    Raises:
        ModelError, OutputError: See `export_language_model`.
    """
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = re.sub(r"[^A-Za-z0-9._-]", "-", Path(model.identity.name).name)
    folder = caches / "aot" / "language-models" / f"{name}-{_key(model)}"
    if not (folder / _CONFIG).is_file():
        make_folder(folder)
        with locked(folder):
            if not (folder / _CONFIG).is_file():
                export_language_model(model, folder)
    return folder


def _key(model: ComposedModel) -> str:
    """Return a hash of what the checkpoint's files are: their places, sizes and times."""
    shards = read_json(model.config, "model.safetensors.index.json").get("weight_map") or {"": "model.safetensors"}
    names = {*shards.values(), _CONFIG, "generation_config.json", "tokenizer.json"}
    paths = filter(None, (find_file(model.config, name) for name in sorted(names)))
    # On the hub's cache, the target of a link is named by its content.
    facts = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    return hashlib.sha256(json.dumps([facts, str(model.network.dtype)]).encode()).hexdigest()[:16]


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"{folder} could not be written: {error.strerror or error}") from error
