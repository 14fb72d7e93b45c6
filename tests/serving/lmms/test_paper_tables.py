"""docs/studies/paper/run.sh: the runs of the paper's tables, with a stand-in for lmms-eval that writes results."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from aot.config.schema import Config
from aot.serving.lmms.settings import read_arguments

SCRIPT = Path(__file__).parents[3] / "docs" / "studies" / "paper" / "run.sh"
STAND_IN = """
import json, sys
from pathlib import Path

words = [word for word in sys.argv[1:] if word != "--log_samples"]
given = dict(zip(words[::2], words[1::2]))
with open("runs.jsonl", "a") as file:
    file.write(json.dumps(given) + "\\n")
scores = {"mvbench": {"mvbench_a": 50.0, "mvbench_b": 60.0}, "egoschema": {"egoschema": 61.0},
          "longvideobench_val_v": {"longvideobench_val_v": 0.5}, "videomme": {"videomme": 57.0}}
metrics = {"mvbench": "mvbench_accuracy", "egoschema": "submission", "longvideobench_val_v": "lvb_acc",
           "videomme": "videomme_perception_score"}
task = given["--tasks"]
if not Path("broken").exists():
    folder = Path(given["--output_path"], "some model")
    folder.mkdir(parents=True)
    found = {name: {f"{metrics[task]},none": score} for name, score in scores[task].items()}
    kept = {"avg_kept_tokens": 60.0, "avg_visual_tokens": 500.0}
    (folder / "2026_results.json").write_text(json.dumps({"results": found, "throughput": kept}))
"""


def run(folder: Path, backbone: str, **variables: str) -> subprocess.CompletedProcess[str]:
    (folder / "stand_in.py").write_text(STAND_IN)
    environment = {
        **os.environ, "LAUNCH": f"{sys.executable} stand_in.py", **variables,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }  # fmt: skip
    command = ["bash", str(SCRIPT), backbone, "results"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def runs(folder: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder / "runs.jsonl").read_text().splitlines()]


def settings(given: dict[str, str]) -> Config:
    return read_arguments(
        {key: json.loads(value) if value.isdecimal() else value for key, value in
         (each.split("=") for each in given["--model_args"].split(","))}
    )  # fmt: skip


@pytest.mark.parametrize(("backbone", "frames"), [("onevision", 32), ("video", 64)])
def test_every_row_has_its_model_and_settings(tmp_path: Path, backbone: str, frames: int) -> None:
    done = run(tmp_path, backbone)
    assert done.returncode == 0, done.stderr
    rows = [settings(given) for given in runs(tmp_path)]
    assert len(rows) == 20
    assert [row.ratio for row in rows[4::4]] == [0.25, 0.2, 0.15, 0.1]
    assert [row.method for row in rows] == ["none"] * 4 + ["aot"] * 16
    assert {row.sampling.frames if row.sampling.fps is None else row.sampling.max_frames for row in rows} == {frames}
    assert len({row.model.name for row in rows}) == 1
    anchors = {"onevision": [205, 196, 144, 126, 126, 108, 108], "video": [198, 176, 144, 108, 108, 108, 108]}
    assert [row.aot.anchors.count for row in (*rows[4:16:4], *rows[16:])] == anchors[backbone]


def test_what_is_there_is_not_run_again_and_the_table_is_printed(tmp_path: Path) -> None:
    first = run(tmp_path, "onevision", ROWS="all 10")
    again = run(tmp_path, "onevision")
    assert len(runs(tmp_path)) == 20
    last = first.stdout.splitlines()[-1]
    assert last == "| 10 % | 55.0 (57.0) | 61.0 (60.6) | 50.0 (54.2) | 57.0 (56.1) | 12.0 to 12.0 % |"
    assert "| 25 % | - (58.7) |" in first.stdout and "| 25 % | 55.0 (58.7) |" in again.stdout


def test_a_run_without_a_result_ends_the_script(tmp_path: Path) -> None:
    (tmp_path / "broken").touch()
    done = run(tmp_path, "video")
    assert (done.returncode, done.stderr, len(runs(tmp_path))) == (1, "no result of mvbench\n", 1)
    assert run(tmp_path, "else").returncode == 2
