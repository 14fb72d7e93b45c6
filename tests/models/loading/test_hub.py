"""What is fetched from the hub and when, through huggingface_hub's own code and a stand-in hub on this machine."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from aot.config.schema import BUNDLED_MODEL, REAL_MODEL, ModelConfig
from aot.errors import ModelError
from aot.models import fetch_model, find_model, load_model
from aot.models.loading.default_model import default_model
from aot.models.loading.hub import PATIENCE_S, HubUnreachableError, is_cached, list_files
from tests.support.stand_in_hub import SOME_MODEL, StandInHub, black_hole, closed_port, go_online

WEIGHTS = "model.safetensors"


# --- Fetching


def test_it_is_fetched_once_and_announced_with_its_size(hub: StandInHub, small_folder: Path) -> None:
    told: list[str] = []
    found = find_model(ModelConfig(name=SOME_MODEL))
    assert not hub.served(WEIGHTS)
    fetch_model(found, told.append)
    size = sum(path.stat().st_size for path in small_folder.iterdir())
    assert told == [f"fetching {SOME_MODEL} once ({size / 1e6:.1f} MB) from {hub.endpoint.removeprefix('http://')} ..."]
    assert is_cached(SOME_MODEL)
    hub.requests.clear()
    assert find_model(ModelConfig(name=SOME_MODEL)).to_fetch is None
    assert load_model(ModelConfig(name=SOME_MODEL, device="cpu")).identity.name == SOME_MODEL
    assert not hub.requests  # what is cached is not asked for again


def test_weights_come_last(hub: StandInHub) -> None:
    """An attempt that is cut short leaves no cache that looks whole."""
    listing = list_files(SOME_MODEL)
    assert listing.files[-1] == WEIGHTS
    assert len(listing.files) > 4


def test_an_interrupted_fetch_goes_on(hub: StandInHub, small_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line is cut in the middle of the weights: the rest is asked for. After a kill, whole files are kept."""
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    hub.breaks_after = (small_folder / WEIGHTS).stat().st_size // 2 // 1000 * 1000
    found = find_model(ModelConfig(name=SOME_MODEL))
    fetch_model(found)
    assert f"bytes={(small_folder / WEIGHTS).stat().st_size // 2 // 1000 * 1000}-" in hub.served(WEIGHTS)[-1]
    assert is_cached(SOME_MODEL)
    hub.requests.clear()
    fetch_model(found)
    assert not hub.served("/resolve/")


def test_a_mirror_without_the_api_serves_its_files(hub: StandInHub) -> None:
    hub.has_api = False
    assert list_files(SOME_MODEL).size_bytes is None
    assert load_model(ModelConfig(name=SOME_MODEL, device="cpu")).identity.name == SOME_MODEL
    assert is_cached(SOME_MODEL)


def test_a_fetch_that_fails_says_how_to_go_on(hub: StandInHub, monkeypatch: pytest.MonkeyPatch) -> None:
    found = find_model(ModelConfig(name=SOME_MODEL))
    hub.status = 500
    with pytest.raises(ModelError, match=r"could not be fetched completely: .*run the same command again"):
        fetch_model(found)


def test_other_formats_and_subfolders_are_left_alone(hub: StandInHub, small_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "repository"
    (folder / "onnx").mkdir(parents=True)
    for path in small_folder.iterdir():
        os.link(path, folder / path.name)
    for extra in ("pytorch_model.bin", "README.md", "onnx/config.json"):
        (folder / extra).write_bytes(b"x")
    hub.repositories[SOME_MODEL] = folder
    assert set(list_files(SOME_MODEL).files) == {path.name for path in small_folder.iterdir()}


# --- What the hub does not have


def test_an_unknown_name_says_both_places(hub: StandInHub) -> None:
    with pytest.raises(ModelError, match=r"there is no folder no/such here, and 127.* has no public model no/such"):
        find_model(ModelConfig(name="no/such"))


def test_a_misspelt_name_brings_a_suggestion(hub: StandInHub) -> None:
    with pytest.raises(ModelError, match=rf"did you mean {REAL_MODEL}"):
        find_model(ModelConfig(name=REAL_MODEL.replace("onevision", "onevison")))


def test_a_name_without_an_owner_is_not_looked_up(hub: StandInHub) -> None:
    with pytest.raises(ModelError, match=r"no folder shape here, .* OWNER/NAME; did you mean shapes\?"):
        find_model(ModelConfig(name="shape"))
    assert not hub.requests


def test_a_name_the_hub_could_never_have(hub: StandInHub) -> None:
    with pytest.raises(ModelError, match="is not a valid model name"):
        find_model(ModelConfig(name="a b/c d/e"))


# --- Out of reach


def test_a_closed_port_is_out_of_reach_at_once(hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go_online(monkeypatch, closed_port(), hub_cache)
    with pytest.raises(
        ModelError, match=r"neither a local folder nor in the cache, and 127.* cannot be reached"
    ) as told:
        find_model(ModelConfig(name=SOME_MODEL))
    assert f"--model {BUNDLED_MODEL}" in str(told.value)


def test_silence_is_taken_for_a_no(hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a server that takes a connection and says nothing nor a resolver that hangs is waited for longer."""
    with black_hole() as endpoint:
        go_online(monkeypatch, endpoint, hub_cache)
        started = time.perf_counter()
        with pytest.raises(HubUnreachableError, match="no answer within 3 s"):
            list_files(SOME_MODEL)
        assert time.perf_counter() - started < PATIENCE_S + 1
    monkeypatch.setattr("aot.models.loading.hub.PATIENCE_S", 0.2)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *names, **more: time.sleep(2))
    go_online(monkeypatch, "http://hub.invalid", hub_cache)
    started = time.perf_counter()
    with pytest.raises(HubUnreachableError, match=r"no answer within 0\.2 s"):
        list_files(SOME_MODEL)
    assert time.perf_counter() - started < 1.5


@pytest.mark.parametrize("status", [403, 404, 500, 503])
def test_a_hub_that_refuses_is_out_of_reach(hub: StandInHub, status: int) -> None:
    hub.status = status
    with pytest.raises(HubUnreachableError, match=f"HTTP {status}"):
        list_files(SOME_MODEL)


def test_what_is_cached_needs_no_hub(hub: StandInHub, monkeypatch: pytest.MonkeyPatch, hub_cache: Path) -> None:
    fetch_model(find_model(ModelConfig(name=SOME_MODEL)))
    go_online(monkeypatch, closed_port(), hub_cache)
    assert load_model(ModelConfig(name=SOME_MODEL, device="cpu")).identity.name == SOME_MODEL


# --- The default


def test_the_default_is_the_real_model(hub: StandInHub) -> None:
    assert default_model(ModelConfig()).name == REAL_MODEL
    assert default_model(ModelConfig()).lacking is None


@pytest.mark.parametrize("kind", ["closed port", "refuses", "is another server", "has none"])
def test_where_it_cannot_be_had_the_toy_answers(
    hub: StandInHub, kind: str, monkeypatch: pytest.MonkeyPatch, hub_cache: Path
) -> None:
    if kind == "closed port":
        go_online(monkeypatch, closed_port(), hub_cache)
    hub.status = {"refuses": 503, "is another server": 404}.get(kind)
    hub.repositories.clear()
    found = default_model(ModelConfig())
    assert found.name == BUNDLED_MODEL
    assert found.lacking is not None and "127.0.0.1" in found.lacking


def test_offline_nothing_is_asked(hub: StandInHub) -> None:
    found = default_model(ModelConfig(offline=True))
    assert found.name == BUNDLED_MODEL
    assert found.lacking is not None and "--offline" in found.lacking
    assert not hub.requests
