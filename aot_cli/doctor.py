"""`aot doctor`: what this machine has; paste it into a bug report."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

from aot_cli.console import print_json
from aot_cli.options import command

__all__ = ["doctor"]


@command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Versions, devices, decoders, what large models need, model cache and offline state."""
    from aot.report import versions

    found: dict[str, Any] = {
        "versions": versions(),
        "devices": _devices(),
        "decoders": _decoders(),
        "for_large_models": _for_large_models(),
        "model_cache": _cache(),
    }
    if as_json:
        print_json("aot.doctor/1", found)
        return
    from aot_cli.render import fact_table, print_result

    for title, facts in found.items():
        print_result(fact_table(title.replace("_", " "), {name: _in_words(fact) for name, fact in facts.items()}), "")


def _in_words(fact: Any) -> str:
    if isinstance(fact, list):
        return ", ".join(fact) or "none"
    return {"True": "on", "False": "off", "None": "not set"}.get(str(fact), str(fact))


def _devices() -> dict[str, str]:
    import torch

    from aot.models.loading import pick_dtype

    devices = {"cpu": f"{os.cpu_count()} cores, {torch.get_num_threads()} threads"}
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        bf16 = "bfloat16" if pick_dtype("auto", torch.device("cuda", number)) is torch.bfloat16 else "no bfloat16"
        devices[f"cuda:{number}"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, {bf16}"
    if not torch.cuda.is_available():
        devices["cuda"] = "none" if torch.version.cuda else "none (this torch is built without CUDA)"
    devices["mps"] = "available" if torch.backends.mps.is_available() else "none"
    return devices


def _decoders() -> dict[str, str]:
    import av

    names = {"h264": "H.264", "hevc": "H.265", "vp9": "VP9", "libdav1d": "AV1"}
    readable = ", ".join(label for codec, label in names.items() if codec in av.codecs_available)
    return {"pyav": f"{av.__version__}: {readable}", "decord": _decord()}


def _decord() -> str:
    try:
        import decord
    except Exception as error:  # a broken shared library raises whatever it likes
        return f"not usable ({type(error).__name__}: {error})"
    return str(decord.__version__)


def _for_large_models() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    options = {
        "flash_attn": "--attn flash",
        "bitsandbytes": "--quantize",
        "accelerate": "--quantize and --device-map",
    }
    found = {}
    for name, option in options.items():
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = f"not installed ({option} needs it)"
    return found


def _cache() -> dict[str, Any]:
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    from aot.models.default import default_model

    try:
        held = sorted(repo.repo_id for repo in scan_cache_dir().repos if repo.repo_type == "model")
    except CacheNotFound:
        held = []
    return {
        "folder": constants.HF_HUB_CACHE,
        "models": held,
        "HF_HUB_OFFLINE": constants.HF_HUB_OFFLINE,
        "AOT_MODEL": os.environ.get("AOT_MODEL"),
        "default_model": os.environ.get("AOT_MODEL") or default_model(),
    }
