"""What the Hugging Face hub, and its cache on this machine, have of a model.

Whether the hub answers is decided within `PATIENCE_S` seconds, whatever the network does.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar
from urllib.parse import urlsplit

from aot.config.schema import ModelConfig
from aot.errors import ModelError, first_line

__all__ = [
    "PATIENCE_S",
    "HubUnreachableError",
    "Listing",
    "fetch",
    "fetch_file",
    "hub_host",
    "is_cached",
    "is_offline",
    "list_files",
]

PATIENCE_S = 3.0
_WEIGHTS = ".safetensors"
_SUFFIXES = (".json", ".txt", ".jinja", _WEIGHTS)  # nothing else is ever read
_TOKENIZERS = ("tokenizer.json", "vocab.json")
T = TypeVar("T")


class HubUnreachableError(ModelError):
    """The hub does not answer in time, or what answers is no hub."""


@dataclass(frozen=True, slots=True)
class Listing:
    """Files of a repository that a model is loaded from, weights last. size_bytes: of all, None where the hub does not
    say.
    """

    files: tuple[str, ...] = ()
    size_bytes: int | None = None


def is_offline(config: ModelConfig) -> bool:
    """Return whether the hub is not to be asked: by `--offline`, HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE."""
    from huggingface_hub import constants

    return config.offline or bool(constants.HF_HUB_OFFLINE)


def hub_host() -> str:
    """Return the host of the hub: huggingface.co, or that of HF_ENDPOINT."""
    from huggingface_hub import constants

    return urlsplit(constants.ENDPOINT).netloc or str(constants.ENDPOINT)


def is_cached(name: str, revision: str | None = None) -> bool:
    """Return whether configuration, tokenizer and every shard of the weights are in the cache."""
    from huggingface_hub import try_to_load_from_cache

    def find(filename: str) -> Path | None:
        found = try_to_load_from_cache(name, filename, revision=revision)
        return Path(found) if isinstance(found, str) else None

    try:
        if find("config.json") is None or not any(map(find, _TOKENIZERS)):
            return False
        index = find("model.safetensors.index.json")
        shards = set(json.loads(index.read_text("utf-8"))["weight_map"].values()) if index else {"model.safetensors"}
        return all(find(shard) is not None for shard in shards)
    except (ValueError, KeyError, TypeError, AttributeError, OSError):  # no name for a model, or a damaged index
        return False


def list_files(name: str, revision: str | None = None) -> Listing:
    """Ask the hub which files of a model there are to fetch. This is also how to see whether the hub can be reached.

    Raises:
        HubUnreachableError: there is no answer within `PATIENCE_S`, or none of a hub.
        ModelError: the hub has no such model or revision, or shows it only to others.
    """
    from huggingface_hub import HfApi, errors

    host = hub_host()
    try:
        found = _within(
            PATIENCE_S,
            lambda: HfApi().model_info(name, revision=revision, timeout=PATIENCE_S, files_metadata=True),
        )
        sizes = {file.rfilename: file.size for file in found.siblings or [] if _is_read(file.rfilename)}
    except errors.HFValidationError as error:
        raise ModelError(f"{name} can be no name of a model on {host}, which are called OWNER/NAME") from error
    except errors.GatedRepoError as error:
        raise ModelError(f"{name} asks for consent: give it on {host}/{name}, then `hf auth login`") from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(f"{name} has no revision {revision} on {host}; check --revision") from error
    except errors.RepositoryNotFoundError as error:
        raise ModelError(f"{host} has no model {name} for everyone; check the name, or `hf auth login`") from error
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status == 404 and _serves_files(name, revision):
            return Listing()  # a mirror that answers no questions
        raise HubUnreachableError(f"{host} does not answer as a hub (HTTP {status})") from error
    except Exception as error:  # whatever networks, proxies and resolvers do
        raise HubUnreachableError(f"{host} cannot be reached ({_reason(error)})") from error
    files = tuple(sorted(sizes, key=lambda file: (file.endswith(_WEIGHTS), file)))
    known = [size for size in sizes.values() if size is not None]
    return Listing(files, sum(known) if known and len(known) == len(sizes) else None)


def _serves_files(name: str, revision: str | None) -> bool:
    """Return whether the host has files of a model, as a mirror without the hub's API does."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(name, "config.json", revision=revision)
    try:
        return _within(PATIENCE_S, lambda: get_hf_file_metadata(url, timeout=PATIENCE_S)) is not None
    except Exception:  # whatever networks, proxies and web servers do
        return False


def _is_read(filename: str) -> bool:
    """Whether loaders may want this file: other formats lie in subfolders."""
    return "/" not in filename and filename.endswith(_SUFFIXES)


def _within(seconds: float, work: Callable[[], T]) -> T:
    """Return what `work` returns. A resolver knows no timeout, so it is left behind in its thread.

    Raises:
        TimeoutError: it takes longer.
    """
    done: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            done.append(work())
        except BaseException as error:
            failed.append(error)

    thread = Thread(target=run, name="aot-hub", daemon=True)
    thread.start()
    thread.join(seconds)
    if failed:
        raise failed[0]
    if not done:
        raise TimeoutError(f"no answer within {seconds:g} s")
    return done[0]


def _reason(error: BaseException) -> str:
    told = first_line(error) or type(error).__name__
    return f"no answer within {PATIENCE_S:g} s" if "timed out" in told else told


def fetch(config: ModelConfig, listing: Listing, announce: Callable[[str], None]) -> None:
    """Fetch the files into the cache, with a progress bar for weights in a terminal. What an earlier attempt fetched
    whole is kept; a connection that breaks is taken up again where it broke.

    Raises:
        ModelError: the network failed on the way.
        OSError: there is no space left.
    """
    size = "" if listing.size_bytes is None else f" ({_in_words(listing.size_bytes)})"
    announce(f"fetching {config.name} once{size} from {hub_host()} ...")
    for file in listing.files:
        fetch_file(config, file)


def fetch_file(config: ModelConfig, file: str) -> None:
    """As `fetch`, for one file and without a word."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import tqdm

    class Silent(tqdm):  # type: ignore[misc]
        """For small files, a dozen of which would push the bar that matters off the screen."""

        def __init__(self, *given: Any, **more: Any) -> None:
            super().__init__(*given, **{**more, "disable": True})

    bar = None if file.endswith(_WEIGHTS) else Silent
    try:
        hf_hub_download(str(config.name), file, revision=config.revision, tqdm_class=bar)
    except Exception as error:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ModelError(
            f"{config.name} could not be fetched whole: {file} failed ({_reason(error)}); "
            "run the same command again, which keeps the files that are there"
        ) from error


def _in_words(size_bytes: int) -> str:
    """Return a size in words, for instance "1.8 GB"."""
    return f"{size_bytes / 1e9:.1f} GB" if size_bytes >= 1e8 else f"{size_bytes / 1e6:.1f} MB"
