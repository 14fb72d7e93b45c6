"""`aot serve`: answer questions about videos by HTTP, in the form of the OpenAI API."""

from __future__ import annotations

import ipaddress
from contextlib import closing, suppress
from pathlib import Path
from typing import Annotated

import typer

from aot.errors import ConfigError
from aot.runtime.atomic_writes import check_writable, make_folder
from aot.runtime.paths import path_kind
from aot.serving.engines.options import EngineOptions
from aot.serving.http.server import ServerOptions, check_server, listening
from aot.serving.http.server import serve as run
from aot_cli.options import COMPRESSION, GENERATION, MODEL, SAMPLING, Given, command
from aot_cli.output.console import notify
from aot_cli.output.screen import print_text
from aot_cli.session import current
from aot_cli.signals import Terminated
from aot_cli.steps import choose_model_for_videos, load_pipeline, refuse_selection

__all__ = ["serve"]

_LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")


@command(SAMPLING, MODEL, COMPRESSION, GENERATION)
def serve(
    given: Given,
    engine: EngineOptions,
    host: Annotated[str, typer.Option("--host", help="Address to listen at; 0.0.0.0: all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port to listen at; 0: any free one.")] = 8000,
    name: Annotated[
        str | None, typer.Option("--served-model", metavar="NAME", help="Name of the model in requests.")
    ] = None,
    api_key: Annotated[
        list[str] | None,
        typer.Option("--api-key", metavar="KEY", help="Key that requests must have; others see it. Repeatable."),
    ] = None,
    api_key_file: Annotated[
        Path | None, typer.Option("--api-key-file", metavar="FILE", help="File with a key per line.")
    ] = None,
    allow: Annotated[
        list[Path] | None,
        typer.Option("--allow", metavar="FOLDER", help="Let requests name videos in this folder. Repeatable."),
    ] = None,
    allow_private: Annotated[
        bool, typer.Option("--allow-private", help="Fetch videos from private networks and by http too.")
    ] = False,
    max_concurrent: Annotated[
        int | None,
        typer.Option("--max-concurrent", min=1, help="Requests that work at once (default: 4; with vllm 64)."),
    ] = None,
    max_queue: Annotated[int, typer.Option("--max-queue", min=0, help="Requests that wait; others get 429.")] = 12,
    max_body_mb: Annotated[int, typer.Option("--max-body-mb", min=1, help="The largest request.")] = 64,
    max_video_mb: Annotated[int, typer.Option("--max-video-mb", min=1, help="The largest download.")] = 512,
    max_video_s: Annotated[float, typer.Option("--max-video-s", min=0, help="The longest video.")] = 7200.0,
    cache: Annotated[
        Path | None, typer.Option("--cache", metavar="FOLDER", help="Keep tokens of videos in this folder too.")
    ] = None,
    cache_mb: Annotated[int, typer.Option("--cache-mb", min=0, help="The most tokens in memory.")] = 1024,
    cache_disk_mb: Annotated[int, typer.Option("--cache-disk-mb", min=0, help="The most tokens in --cache.")] = 10240,
) -> None:
    """Answer questions about videos by HTTP, in the form of the OpenAI API.

    The model is loaded once, and a video is encoded once. SIGTERM and Ctrl-C let running requests
    finish.

    aot serve --allow videos/
    """
    check_server()
    refuse_selection(given)
    keys, folders = _keys(api_key or [], api_key_file), tuple(map(_folder, allow or []))
    if cache is not None:
        _prepare_cache(cache)
    with closing(listening(host, port)) as at:
        chosen = choose_model_for_videos(given)
        pipeline = load_pipeline(chosen, engine=engine)
        options = ServerOptions(
            model=name or _served_name(pipeline.model.identity.name),
            keys=keys,
            hosts=(*_LOCAL_NAMES, host) if _is_local(host) and not keys else (),
            folders=folders,
            allows_private=allow_private,
            concurrent=1 if chosen.config.model.device_map != "none" else max_concurrent or engine.answers_at_once or 4,
            encodings=1 if engine.answers_at_once else None,
            queue=max_queue,
            body_mb=max_body_mb,
            video_mb=max_video_mb,
            longest_s=max_video_s,
            cache_mb=cache_mb,
            cache_folder=cache,
            cache_disk_mb=cache_disk_mb,
        )
        if not keys and not _is_local(host):
            notify(["everybody who reaches this address may use the server; --api-key-file asks for a key"])
        with suppress(Terminated):  # asked for, and nothing was cut short
            run(pipeline, options, at, lambda: _introduce(options.model, host, at.getsockname()[1]))


def _introduce(model: str, host: str, port: int) -> None:
    print_text(f"serving {model} at http://{f'[{host}]' if ':' in host else host}:{port}/v1", to_stderr=True)
    current().stage = ""  # nothing to report while nobody asks


def _keys(typed: list[str], file: Path | None) -> list[str]:
    """Return the API keys.

    Raises:
        ConfigError: If the file cannot be read or holds none, or a key is empty.
    """
    keys = list(typed)
    if file is not None:
        try:
            found = file.read_text(encoding="utf-8").split()
        except (OSError, ValueError) as error:
            raise ConfigError(f"{file} cannot be read ({error}); --api-key-file takes a key per line") from error
        if not found:
            raise ConfigError(f"{file} holds no key; --api-key-file takes a key per line")
        keys += found
    if not all(key.strip() for key in keys):
        raise ConfigError("an API key is empty; give --api-key a text")
    return keys


def _folder(path: Path) -> Path:
    if path_kind(path) != "folder":
        raise ConfigError(f"--allow {path} is not a folder; name one")
    return path


def _prepare_cache(folder: Path) -> None:
    """Make the folder, readable for this user alone, unless it exists.

    Raises:
        OutputError: If it cannot be made or written to.
    """
    with suppress(OSError):
        folder.mkdir(mode=0o700, parents=True)
    make_folder(folder)
    check_writable(folder / "tokens.safetensors", overwrite=True)


def _served_name(name: str) -> str:
    """Return the name of the model, without the path of a folder on this machine."""
    return Path(name).resolve().name if path_kind(name) == "folder" else name


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
