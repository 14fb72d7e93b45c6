"""`aot doctor`: describe this installation, for a bug report."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Annotated

import typer

from aot.config.schema import REAL_MODEL, ModelConfig
from aot.errors import first_line
from aot.models.loading.default_model import default_model
from aot.models.loading.hub import is_offline
from aot.reports.retention import versions
from aot.selftest import CheckResult, run_selftest
from aot_cli.options import JSON, command
from aot_cli.output.console import prepare_libraries, print_json
from aot_cli.output.screen import print_text
from aot_cli.output.tables import fact_table, print_result
from aot_cli.session import current

__all__ = ["doctor"]


@command()
def doctor(
    selftest: Annotated[
        bool,
        typer.Option("--selftest", help="Also test decoders, the bundled model, kernels and methods (at most 30 s)."),
    ] = False,
    as_json: JSON = False,
) -> None:
    """Show versions, devices, decoders, optional packages and the model cache.

    Add the output of `aot doctor --selftest` to a bug report. The exit code is 1 if a check fails.
    """
    devices = _devices()
    found: dict[str, Mapping[str, object]] = {
        "versions": versions(),
        "devices": devices,
        "decoders": _decoders(),
        "for_large_models": _for_large_models(),
        "model_cache": _cache(),
    }
    if not as_json:
        for title, facts in found.items():
            worded = {name: _in_words(fact) for name, fact in facts.items()}
            print_result(fact_table(title.replace("_", " "), worded), "")
    results = _selftest(as_lines=not as_json) if selftest else []
    if as_json:
        checks = {"selftest": [asdict(result) for result in results]} if selftest else {}
        print_json("aot.doctor/1", {**found, **checks})
    if any(result.outcome == "failed" for result in results):
        raise typer.Exit(1)


def _selftest(*, as_lines: bool) -> list[CheckResult]:
    """Run the checks; if `as_lines`, print a line after each check and the totals at the end."""
    prepare_libraries(offline=True)
    results = []
    current().stage = "self-test"
    for result in run_selftest():
        results.append(result)
        if as_lines:
            print_text(f"{result.outcome:<8} {result.name}: {result.detail} ({result.elapsed_ms / 1e3:.1f} s)")
    if as_lines:
        counts = Counter(result.outcome for result in results)
        sums = ", ".join(f"{counts[outcome]} {outcome}" for outcome in ("passed", "failed", "skipped"))
        print_text(f"{sums} in {sum(result.elapsed_ms for result in results) / 1e3:.1f} s")
    return results


def _in_words(fact: object) -> str:
    if isinstance(fact, list):
        return ", ".join(fact) or "none"
    return {"True": "on", "False": "off", "None": "not set"}.get(str(fact), str(fact))


def _devices() -> dict[str, str]:
    import torch

    from aot.models.loading.checkpoints import pick_dtype

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
    others = {name: _version_if_usable(name) for name in ("decord", "torchcodec")}
    return {"pyav": f"{av.__version__}: {readable}", **others}


def _version_if_usable(name: str) -> str:
    if find_spec(name) is None:
        return "not installed"
    try:
        return str(import_module(name).__version__)
    except Exception as error:  # a broken shared library may raise anything
        return f"not usable ({type(error).__name__}: {str(error).partition(chr(10))[0]})"


def _for_large_models() -> dict[str, str]:
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


def _cache() -> dict[str, object]:
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    default = default_model(ModelConfig(offline=True))  # sends no request to the hub
    answers = f"{default.name} ({default.lacking})" if default.lacking else default.name
    if default.lacking and not is_offline(ModelConfig()):
        answers = f"{REAL_MODEL}, downloaded at its first use; if that fails, {default.name}"
    folder = constants.HF_HUB_CACHE
    try:
        held = sorted(repo.repo_id for repo in scan_cache_dir().repos if repo.repo_type == "model")
    except CacheNotFound:
        held = []
    except (OSError, RuntimeError, ValueError) as error:  # no folder, no permission, or no home folder
        held, folder = [], f"{folder} cannot be used ({first_line(error)}); set HF_HOME to a folder"
    return {
        "folder": folder,
        "models": held,
        "HF_HUB_OFFLINE": constants.HF_HUB_OFFLINE,
        "AOT_MODEL": os.environ.get("AOT_MODEL"),
        "default_model": os.environ.get("AOT_MODEL") or answers,
    }
