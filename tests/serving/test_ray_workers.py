"""A batch on Ray Data: real workers, and the rows of a run in one process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from aot.config.schema import build_config
from aot.errors import ConfigError
from aot.serving.batch import ray_workers
from tests.support.make_videos import write

TIMES = ("decode_ms", "encode_ms", "compress_ms", "first_token_ms", "answer_ms")
PATIENCE_S = 240


def started(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", "aot_cli", "batch", *arguments, "--model", "shapes", "-q", "how many?", "-q", "who?"]
    return subprocess.Popen(
        line, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )


def rows(path: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    untimed = [{name: value for name, value in row.items() if name not in TIMES} for row in found]
    return sorted(untimed, key=lambda row: (row["id"], row["question"]))


@pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed")
def test_two_workers_give_the_rows_of_one_process(tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    for number in range(8):
        write(folder / f"{number}.mp4", 8, size=(48, 32), first=number)
    (folder / "5.mp4").write_bytes(b"\0" * 1000)
    alone = started(tmp_path, "videos", "-o", "alone")
    assert alone.communicate(timeout=PATIENCE_S)[1] is not None and alone.returncode == 1
    # The run on Ray is killed when the first rows are there, and goes on.
    killed = started(tmp_path, "videos", "-o", "spread", "--workers", "2")
    results = tmp_path / "spread" / "results.jsonl"
    end = time.monotonic() + PATIENCE_S
    while not results.exists() and killed.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate(timeout=PATIENCE_S)
    assert results.exists()
    done = started(tmp_path, "videos", "-o", "spread", "--workers", "2", "--json")
    out, err = done.communicate(timeout=PATIENCE_S)
    assert done.returncode == 1, err
    assert json.loads(out)["failed"] == 1 and json.loads(out)["videos"] == 8
    assert rows(results) == rows(tmp_path / "alone" / "results.jsonl")
    tokens = {path.name for path in (tmp_path / "alone" / "tokens").iterdir()}
    assert {path.name for path in (tmp_path / "spread" / "tokens").iterdir()} == tokens


def test_what_ray_cannot_do_is_refused_first(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="--device cuda:1 is one GPU, and Ray assigns GPUs; use --device cuda"):
        ray_workers.check_ray(build_config({"model": {"device": "cuda:1"}}))
    monkeypatch.setattr(ray_workers, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'--workers and --address need Ray Data: pip install "aot\[ray\]"'):
        ray_workers.check_ray(build_config({}))


@pytest.mark.parametrize(
    ("held", "wanted", "device", "expected"),
    [
        ({"CPU": 8}, 4, "auto", (4, {"num_cpus": 2})),
        ({"CPU": 8}, None, "cpu", (1, {"num_cpus": 8})),
        ({"CPU": 8, "GPU": 4.0}, None, "auto", (4, {"num_cpus": 2, "num_gpus": 1})),
        ({"CPU": 2, "GPU": 4.0}, 3, "cuda", "--workers 3 need as many processors"),
        ({"CPU": 8, "GPU": 4.0}, 8, "cpu", (8, {"num_cpus": 1})),
        ({"CPU": 8, "GPU": 4.0}, 5, "auto", "--workers 5 need as many GPUs, and the cluster has 4"),
        ({"CPU": 2}, 3, "auto", "--workers 3 need as many processors, and the cluster has 2"),
    ],
)
def test_each_worker_has_a_gpu_if_there_are_gpus(
    held: dict[str, float], wanted: int | None, device: str, expected: Any
) -> None:
    config = build_config({"model": {"device": device}})
    if isinstance(expected, str):
        with pytest.raises(ConfigError, match=expected):
            ray_workers.reserved(held, wanted, config)
    else:
        assert ray_workers.reserved(held, wanted, config) == expected
