"""The model that answers when none is named, and models of the hub, as commands show them: with a stand-in hub."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from huggingface_hub.utils import are_progress_bars_disabled

from aot.config.schema import REAL_MODEL
from aot.models.loading.hub import PATIENCE_S
from aot_cli.output.console import prepare_libraries
from tests.support.cli_run import Aot
from tests.support.stand_in_hub import SOME_MODEL, StandInHub, black_hole, closed_port, go_online

SHORT = ("--frames", "4", "--max-new-tokens", "2")
TOY = "aot: note: toy model in use (shapes): "


def test_the_real_model_is_fetched_and_answers(run_aot: Aot, hub: StandInHub, clip_file: Path) -> None:
    run = run_aot("ask", clip_file, "hi?", *SHORT, "--ratio", "1", "--json")
    assert run.code == 0, run.err
    assert run.err.startswith(f"aot: note: fetching {REAL_MODEL} once (")
    assert len(run.err.splitlines()) == 1
    assert run.json["toy_model"] is False
    assert run.json["model"]["name"] == REAL_MODEL
    assert sum("/api/models/" in request for request in hub.requests) == 1  # what was found is passed on
    hub.requests.clear()
    again = run_aot("ask", clip_file, "hi?", *SHORT, "--ratio", "1")
    assert again.code == 0
    assert again.err == ""  # nothing to say of the default
    assert not hub.requests


def test_a_request_that_cannot_be_met_fetches_no_weights(run_aot: Aot, hub: StandInHub, clip_file: Path) -> None:
    run = run_aot("ask", clip_file, "hi?", "--ratio", "0.001")
    assert run.code == 2
    assert not hub.served("safetensors")
    hub.requests.clear()
    assert run_aot("ask", clip_file, "hi?", "--start", "99").code == 3
    assert not hub.requests


@pytest.mark.parametrize("command", ["ask", "compress", "compare", "inspect", "eval"])
def test_json_says_that_the_toy_answered(
    run_aot: Aot, hub: StandInHub, hub_cache: Path, clip_file: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_online(monkeypatch, closed_port(), hub_cache)
    line: dict[str, tuple[str | Path, ...]] = {
        "ask": ("ask", clip_file, "what happens?", *SHORT),
        "compress": ("compress", clip_file, "-o", "t.pt"),
        "compare": ("compare", clip_file, "what happens?", *SHORT, "--methods", "none"),
        "inspect": ("inspect", clip_file, "--model", "shapes"),
        "eval": ("eval", "--shapes", "1", "-o", "out", "--methods", "none", "--ratios", "1"),
    }
    run = run_aot(*line[command], "--json")
    assert run.code == 0, run.err
    if command != "inspect":
        assert run.err.startswith(TOY + "127.0.0.1")
        assert f"downloads {REAL_MODEL} (1.8 GB)" in run.err
    found = run.json
    assert (found["model"] if command == "inspect" else found)["toy_model"] is True
    if command == "compress":
        assert found["model"]["toy_model"] is True
        tokens = run_aot("inspect", "t.pt", "--json").json
        assert tokens["model"]["toy_model"] is True
        assert run_aot("ask", "t.pt", "what happens?", *SHORT, "--json").json["toy_model"] is True


def test_quiet_does_not_hide_that_the_toy_answers(
    run_aot: Aot, hub: StandInHub, hub_cache: Path, clip_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_online(monkeypatch, closed_port(), hub_cache)
    run = run_aot("ask", clip_file, "who is it?", *SHORT, "--quiet")
    assert run.code == 0
    assert run.err.startswith(TOY) and len(run.err.splitlines()) == 1


def test_a_fetch_shows_a_bar_in_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers' bars are switched off, and with them the hub's, which are wanted; they look for a terminal."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_PROGRESS_BARS", None)
    prepare_libraries(offline=False)
    assert not are_progress_bars_disabled()


def test_a_named_model_out_of_reach(
    run_aot: Aot, hub: StandInHub, hub_cache: Path, clip_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_online(monkeypatch, closed_port(), hub_cache)
    run = run_aot("ask", clip_file, "hi?", "--model", REAL_MODEL)
    assert run.code == 4
    assert "neither a local folder nor in the cache, and 127.0.0.1" in run.err


def test_a_named_model_is_asked_for_once(run_aot: Aot, hub: StandInHub, clip_file: Path) -> None:
    assert run_aot("compress", clip_file, "-o", "t.pt", "--model", SOME_MODEL, "--frames", "4").code == 0
    assert sum("/api/models/" in request for request in hub.requests) == 1


def test_a_stranger_without_a_network_is_not_left_waiting(clip_file: Path, tmp_path: Path) -> None:
    """A process of its own, so that the environment is what decides: a hub that takes connections and says nothing."""
    with black_hole() as endpoint:
        environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
        for name in ("AOT_MODEL", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            environment.pop(name, None)
        line = [sys.executable, "-c", "from aot_cli.entry import main; main()", "ask", str(clip_file), "hi?", "--json"]
        started = time.perf_counter()
        with subprocess.Popen(
            line, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stderr is not None
            first = process.stderr.readline()
            waited_s = time.perf_counter() - started
            out, _ = process.communicate()
    assert first.startswith(TOY + endpoint.removeprefix("http://") + " cannot be reached (no answer within 3 s)")
    assert waited_s < PATIENCE_S + 10  # 4 s on a quiet machine; without the limit 10 s for each of a dozen files
    assert json.loads(out)["toy_model"] is True
