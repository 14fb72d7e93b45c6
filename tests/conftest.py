"""What several tests share: tiny checkpoints, the models loaded from them, and one real video. No network."""

from __future__ import annotations

import os

import torch

# Both are read when transformers and triton are imported, so they are set before everything else.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRITON_INTERPRET"] = str(int(not torch.cuda.is_available()))

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from skips import pytest_addoption, pytest_sessionfinish, pytest_terminal_summary  # noqa: F401

import aot
from aot.config.schema import REAL_MODEL, ModelConfig
from aot.models import load_model
from aot.models.families.llava import Llava
from tests.support.stand_in_hub import SOME_MODEL, StandInHub, go_online, stand_in_hub
from tests.support.tiny_checkpoint import make_checkpoint
from tests.support.tiny_qwen import make_qwen3_vl, make_qwen25_vl

# Shared machines stall now and then, which says nothing about the code.
settings.register_profile("aot", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("aot")

torch.set_num_threads(1)  # tiny matrices: threads cost more than they give

# All tests are quick but these folders and files, most of which run models; those of the smoke test are quick too.
SLOW = (
    "bench", "cli", "compression/aot/on_device/test_aot_queued.py",
    "compression/aot/on_device/test_queued_anchors.py", "compression/aot/on_device/test_queued_compiled.py",
    "compression/aot/on_device/test_queued_inter.py", "compression/aot/on_device/test_queued_intra.py",
    "compression/aot/test_sinkhorn_kernel.py", "compression/in_llm/test_budgets.py",
    "compression/in_llm/test_prefill.py", "compression/methods/test_presets.py",
    "compression/methods/test_sources.py", "evaluation/test_evaluate.py", "models",
    "pipeline/test_pipeline.py", "pipeline/test_segments.py", "pipeline/test_selection.py",
    "reports/html/test_page_in_browser.py", "reports/overlay/test_film.py", "serving/test_http_server.py",
    "serving/lmms/test_lmms_answering.py", "serving/lmms/test_lmms_harness.py", "serving/lmms/test_paper_tables.py",
    "serving/test_ray_workers.py",
    "shapes/test_shapes_clips.py", "shapes/training", "test_docs_site.py", "test_endurance.py", "test_gpu.py",
    "test_session.py", "test_skips.py", "test_tiny_checkpoint.py",
)  # fmt: skip
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CLIP_FRAMES = 24
SMALL_GRID = 9
WAVES = ((1.0, 0.3, 0.2), (0.2, 1.0, -0.3), (0.7, -0.7, 0.5))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    tests = Path(__file__).parent
    slow = [tests / path for path in SLOW]
    assert all(path.exists() for path in slow), "a path in SLOW is no longer there"
    for item in items:
        if item.get_closest_marker("smoke") or not any(item.path.is_relative_to(path) for path in slow):
            item.add_marker("quick")


@pytest.fixture(autouse=True)
def _on_the_cpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the machine's GPUs from all tests but those marked `gpu`: what "auto" chooses, and so every result, is the
    same on every machine.
    """
    if request.node.get_closest_marker("gpu") is None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # of processes that a test starts


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium; the tests that open pages are skipped without one."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no browser is installed; looked for {', '.join(BROWSERS)}")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with the real model's 27 x 27 patches."""
    return make_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with 9 x 9 patches, 25 tokens per frame."""
    return make_checkpoint(tmp_path_factory.mktemp("small"), grid=SMALL_GRID)


@pytest.fixture(scope="session")
def qwen25_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_qwen25_vl(tmp_path_factory.mktemp("qwen25"))


@pytest.fixture(scope="session")
def qwen3_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_qwen3_vl(tmp_path_factory.mktemp("qwen3"))


@pytest.fixture(scope="session")
def qwen3_moe_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_qwen3_vl(tmp_path_factory.mktemp("qwen3_moe"), experts=4)


def _load(folder: Path) -> Llava:
    model = load_model(ModelConfig(name=str(folder), device="cpu", dtype="float32"))
    assert isinstance(model, Llava)
    return model


@pytest.fixture(scope="session")
def tiny_model(tiny_folder: Path) -> Llava:
    return _load(tiny_folder)


@pytest.fixture(scope="session")
def small_model(small_folder: Path) -> Llava:
    return _load(small_folder)


@pytest.fixture
def hub_cache(tmp_path: Path) -> Path:
    """The folder of the hub's cache where there is a `hub`; empty at first."""
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def session(small_folder: Path) -> aot.Session:
    """A session of the small model, for four frames and short answers."""
    return aot.Session(
        model={"name": str(small_folder), "device": "cpu", "dtype": "float32"},
        ratio=0.2, sampling={"frames": 4}, generation={"max_new_tokens": 12},
    )  # fmt: skip


@pytest.fixture
def hub(small_folder: Path, hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandInHub]:
    """A hub that can be reached, with one model under two names."""
    monkeypatch.delenv("AOT_MODEL", raising=False)
    with stand_in_hub(**{SOME_MODEL: small_folder, REAL_MODEL: small_folder}) as hub:
        go_online(monkeypatch, hub.endpoint, hub_cache)
        yield hub


@pytest.fixture(scope="session")
def clip_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 H.264 frames of 160 x 120 at 8 per second: waves that move, and a square that crosses them."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    rows, columns = np.mgrid[0:120, 0:160]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        for k in range(CLIP_FRAMES):
            waves = [127 + 120 * np.sin((columns * a + rows * b) / 15 + k * c) for a, b, c in WAVES]
            picture = np.stack(waves, axis=-1).astype(np.uint8)
            picture[40:80, 6 * k : 6 * k + 30] = (255, 255 - 10 * k, 10 * k)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path
