"""Listen, and serve until a signal ends the process; running requests are finished first."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aot.errors import ConfigError

if TYPE_CHECKING:
    from fastapi import FastAPI

    from aot.pipeline.run import Pipeline
    from aot.serving.http.places import Places

__all__ = ["ServerOptions", "check_server", "listening", "make_server", "serve"]

_NEEDED = ("fastapi", "uvicorn", "prometheus_client")


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """What a server allows, and where it keeps tokens.

    Attributes:
        model: the name of the model in requests.
        keys: the API keys; without any, everybody may ask.
        hosts: the names by which clients may reach the server; without any, all. A web page that
            gives its own name the address of this machine cannot ask then.
        folders: the folders of the videos that requests may name by `file:`.
        allows_private: whether videos may come from the private network, and by http.
        concurrent: how many requests work at once.
        encodings: how many of them encode a video at once; None: all.
        queue: how many more may wait.
        body_mb: the largest body of a request.
        video_mb: the largest download.
        longest_s: the longest video.
        cache_mb: the most tokens in memory.
        cache_folder: where tokens are kept on disk; None keeps none.
        cache_disk_mb: the most tokens on disk.
    """

    model: str
    keys: Sequence[str] = ()
    hosts: Sequence[str] = ()
    folders: tuple[Path, ...] = ()
    allows_private: bool = False
    concurrent: int = 4
    encodings: int | None = None
    queue: int = 12
    body_mb: int = 64
    video_mb: int = 512
    longest_s: float = 7200.0
    cache_mb: int = 1024
    cache_folder: Path | None = None
    cache_disk_mb: int = 10240


def check_server() -> None:
    """Check that the packages of the server are installed.

    Raises:
        ConfigError: If one is not.
    """
    lacking = [name for name in _NEEDED if find_spec(name) is None]
    if lacking:
        raise ConfigError(f'aot serve needs {", ".join(lacking)}: pip install "aot[serve]"')


def listening(host: str, port: int) -> socket.socket:
    """Return a socket at `host` and `port` (0: any free one).

    Raises:
        ConfigError: If the address is taken or not of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        made = socket.socket(family, kind, protocol)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(address)
        except BaseException:
            made.close()
            raise
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot listen at {host}, port {port} ({reason}); choose others: --host, --port") from error
    return made


def serve(pipeline: Pipeline, options: ServerOptions, at: socket.socket, on_ready: Callable[[], object]) -> None:
    """Serve until SIGTERM or SIGINT; then finish what runs or waits, and raise the signal again.

    `on_ready` is called when clients can connect.
    """
    import uvicorn

    app, places = make_server(pipeline, options)
    quiet: dict[str, Any] = {"log_config": None, "log_level": "error", "access_log": False, "server_header": False}
    at.listen()
    on_ready()
    try:
        uvicorn.Server(uvicorn.Config(app, http="h11", ws="none", lifespan="off", **quiet)).run(sockets=[at])
    finally:
        places.close()


def make_server(pipeline: Pipeline, options: ServerOptions) -> tuple[FastAPI, Places]:
    """Return the application of a server and its places, which must be closed at the end."""
    from aot.serving.http.app import Door, make_app
    from aot.serving.http.metrics import Metrics
    from aot.serving.http.places import Places
    from aot.serving.http.service import Service
    from aot.serving.http.token_cache import TokenCache
    from aot.serving.http.video_files import VideoFiles

    places = Places(options.concurrent, options.queue)
    metrics = Metrics(places)
    files = VideoFiles(options.folders, options.video_mb, options.allows_private)
    cache = TokenCache(options.cache_mb, options.cache_folder, options.cache_disk_mb)
    service = Service(pipeline, files, cache, metrics, options.longest_s, options.encodings or options.concurrent)
    door = Door(service, metrics, places, options.model, options.keys, options.hosts, options.body_mb)
    return make_app(door, metrics), places
