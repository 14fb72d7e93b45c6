"""List and fetch the files of a model on the Hugging Face hub, and find them in the cache.

A listing waits at most `PATIENCE_S` seconds for an answer, even if the network hangs.
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

# How long to wait for an answer of the hub.
PATIENCE_S = 3.0
_WEIGHTS = ".safetensors"
# Suffixes of the files that loaders read.
_SUFFIXES = (".json", ".txt", ".jinja", _WEIGHTS)
_TOKENIZERS = ("tokenizer.json", "vocab.json")
T = TypeVar("T")


class HubUnreachableError(ModelError):
    """Raised if the hub does not answer in time, or the host is not a hub."""


@dataclass(frozen=True, slots=True)
class Listing:
    """Files of a repository that are needed to load a model.

    Attributes:
        files: file names, weights last.
        size_bytes: the total size of the files; None if the hub does not state all sizes.
    """

    files: tuple[str, ...] = ()
    size_bytes: int | None = None


def is_offline(config: ModelConfig) -> bool:
    """Return whether --offline, HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE forbids hub access."""
    from huggingface_hub import constants

    return config.offline or bool(constants.HF_HUB_OFFLINE)


def hub_host() -> str:
    """Return the host name of the hub: huggingface.co, unless HF_ENDPOINT sets another."""
    from huggingface_hub import constants

    return urlsplit(constants.ENDPOINT).netloc or str(constants.ENDPOINT)


def is_cached(name: str, revision: str | None = None) -> bool:
    """Return whether the cache holds configuration, tokenizer and all weights of a model."""
    from huggingface_hub import try_to_load_from_cache

    def find(filename: str) -> Path | None:
        found = try_to_load_from_cache(name, filename, revision=revision)
        return Path(found) if isinstance(found, str) else None

    try:
        if find("config.json") is None or not any(map(find, _TOKENIZERS)):
            return False
        # Without an index, the weights are a single file.
        index = find("model.safetensors.index.json")
        shards = set(json.loads(index.read_text("utf-8"))["weight_map"].values()) if index else {"model.safetensors"}
        return all(find(shard) is not None for shard in shards)
    except (ValueError, KeyError, TypeError, AttributeError, OSError):
        # The name is invalid, or the index is damaged.
        return False


def list_files(name: str, revision: str | None = None) -> Listing:
    """Return the files of the model `name`, as the hub lists them.

    The listing is empty if the host has the files but not the hub's API (a mirror).

    Raises:
        HubUnreachableError: the host does not answer within `PATIENCE_S` seconds, or is not a hub.
        ModelError: the hub does not have the model or the revision, or denies access.
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
        raise ModelError(f"{name} is not a valid model name on {host}; names have the form OWNER/NAME") from error
    except errors.GatedRepoError as error:
        raise ModelError(f"{name} is gated; accept its terms on {host}/{name}, then run `hf auth login`") from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(f"{name} has no revision {revision} on {host}; check --revision") from error
    except errors.RepositoryNotFoundError as error:
        raise ModelError(f"{host} has no public model {name}; check the name, or run `hf auth login`") from error
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status == 404 and _serves_files(name, revision):
            # A mirror without the hub's API: loaders fetch files from it by name.
            return Listing()
        raise HubUnreachableError(f"{host} does not respond like a hub (HTTP {status})") from error
    except Exception as error:
        # Networks, proxies and resolvers raise exceptions of many kinds.
        raise HubUnreachableError(f"{host} cannot be reached ({_reason(error)})") from error
    # Weights come last, so that an error in a small file comes before the long download.
    files = tuple(sorted(sizes, key=lambda file: (file.endswith(_WEIGHTS), file)))
    known = [size for size in sizes.values() if size is not None]
    return Listing(files, sum(known) if known and len(known) == len(sizes) else None)


def _serves_files(name: str, revision: str | None) -> bool:
    """Return whether the host has the model's config.json, as a mirror without the API does."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(name, "config.json", revision=revision)
    try:
        return _within(PATIENCE_S, lambda: get_hf_file_metadata(url, timeout=PATIENCE_S)) is not None
    except Exception:
        # Networks, proxies and web servers raise exceptions of many kinds.
        return False


def _is_read(filename: str) -> bool:
    """Return whether loaders may read `filename`; subfolders hold other formats."""
    return "/" not in filename and filename.endswith(_SUFFIXES)


def _within(seconds: float, work: Callable[[], T]) -> T:
    """Run `work` in a thread, and return its result.

    Raises:
        TimeoutError: `work` takes longer than `seconds`.
    """
    done: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            done.append(work())
        except BaseException as error:
            # The caller's thread raises the error.
            failed.append(error)

    # Name resolution has no timeout. If the thread hangs there, it stays as a daemon.
    thread = Thread(target=run, name="aot-hub", daemon=True)
    thread.start()
    thread.join(seconds)
    if failed:
        raise failed[0]
    if not done:
        raise TimeoutError(f"no answer within {seconds:g} s")
    return done[0]


def _reason(error: BaseException) -> str:
    """Return the reason for `error` in one line."""
    # Libraries report a timeout in different words.
    reason = first_line(error) or type(error).__name__
    return f"no answer within {PATIENCE_S:g} s" if "timed out" in reason else reason


def fetch(config: ModelConfig, listing: Listing, announce: Callable[[str], None]) -> None:
    """Download the files of `listing` to the cache; in a terminal, weights have a progress bar.

    Complete files of an earlier attempt are kept, and an interrupted download is resumed.

    Raises:
        ModelError: a download fails.
        OSError: no disk space is left.
    """
    size = "" if listing.size_bytes is None else f" ({_in_words(listing.size_bytes)})"
    announce(f"fetching {config.name} once{size} from {hub_host()} ...")
    for file in listing.files:
        fetch_file(config, file)


def fetch_file(config: ModelConfig, file: str) -> None:
    """Download one file to the cache; for errors see `fetch`."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import tqdm

    class Silent(tqdm):  # type: ignore[misc]
        """A hidden progress bar: bars of small files would push the weights' bar off the screen."""

        def __init__(self, *given: Any, **more: Any) -> None:
            super().__init__(*given, **{**more, "disable": True})

    bar = None if file.endswith(_WEIGHTS) else Silent
    try:
        hf_hub_download(str(config.name), file, revision=config.revision, tqdm_class=bar)
    except Exception as error:
        # The caller reports a full disk.
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ModelError(
            f"{config.name} could not be fetched completely: {file} failed ({_reason(error)}); "
            "run the same command again, which keeps the complete files"
        ) from error


def _in_words(size_bytes: int) -> str:
    """Return a size as text, for instance "1.8 GB"."""
    return f"{size_bytes / 1e9:.1f} GB" if size_bytes >= 1e8 else f"{size_bytes / 1e6:.1f} MB"
