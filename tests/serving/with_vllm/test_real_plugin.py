"""Our methods in vLLM's video pruning, as far as its wheel for CPUs loads Qwen-VL.

The models import torchvision, which has no wheel that goes with torch for CPUs; a stand-in lets them be imported. What
needs the vision tower itself is not run here.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import tomllib

from aot.serving.engines.vllm_plugin import VARIABLE

ROOT = Path(__file__).parents[3]
# Imported first in a process: a torchvision of which every name is a stand-in.
STAND_IN = """
import importlib.machinery, importlib.metadata, sys, types
from unittest.mock import MagicMock

real = importlib.metadata.version
importlib.metadata.version = lambda name: "0.28.0" if name == "torchvision" else real(name)

class Module(types.ModuleType):
    __path__ = []
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return MagicMock()

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torchvision":
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
    def create_module(self, spec):
        return Module(spec.name)
    def exec_module(self, module):
        pass

sys.meta_path.insert(0, Finder())
"""
CHECK = """
import torch
from types import SimpleNamespace as Names
from vllm.plugins import load_general_plugins
from vllm.multimodal.video_prune import evs

kept_by_vllm = evs.compute_retention_mask
load_general_plugins()
import vllm.model_executor.models.qwen2_5_vl as qwen25
import vllm.model_executor.models.qwen3_vl as qwen3

ours = evs.compute_retention_mask
assert ours is not kept_by_vllm and qwen25.compute_retention_mask is ours and qwen3.compute_retention_mask is ours

# The tokens of the method itself, in the count of vLLM.
T, H, W, q = 8, 12, 8, 0.75
features = torch.randn(T * 24, 32, generator=torch.Generator().manual_seed(0))
mask = ours(features, torch.tensor([T, H, W]), spatial_merge_size=2, q=q)
count = evs.compute_retained_tokens_count(24, T, q)
assert mask.dtype == torch.bool and mask.shape == (T * 24,) and int(mask.sum()) == count == 48

from aot.compression.methods.standout import Standout
from aot.types import Pooling, VisualTokens

alone = Standout().compress(VisualTokens(features.view(T, 24, 32), (6, 4), Pooling("none"), (0.0,) * T, {}), count)
assert torch.equal(mask.nonzero()[:, 0], alone.cell)
assert not torch.equal(mask, kept_by_vllm(features, (T, H, W), spatial_merge_size=2, q=q))

# vLLM's own function after the tower of Qwen2.5-VL: the kept tokens, with the positions of their cells.
fake = Names(
    visual=Names(spatial_merge_size=2), video_pruning_rate=q,
    config=Names(vision_config=Names(tokens_per_second=2)),
)
(found,) = qwen25.Qwen2_5_VLForConditionalGeneration._postprocess_video_embeds_evs(
    fake, (features,), {"video_grid_thw": torch.tensor([[T, H, W]]), "second_per_grid_ts": torch.tensor([1.0])}
)
assert torch.equal(found[:, :32], features[mask])
times, rows, cols = found[:, 32:35].T.long()
assert torch.equal(times // 2 * 24 + rows * 4 + cols, alone.cell)
load_general_plugins()
from aot.serving.engines.vllm_plugin import register
register()  # once more changes nothing that matters
assert torch.equal(qwen3.compute_retention_mask(features, (T, H, W), spatial_merge_size=2, q=q), mask)
print("done")
"""


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder by which Python finds the entry points of pyproject.toml, as after an installation."""
    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["vllm.general_plugins"]
    folder = tmp_path / "aot-0.1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: aot\nVersion: 0.1.0\n")
    lines = "".join(f"{name} = {value}\n" for name, value in points.items())
    (folder / "entry_points.txt").write_text(f"[vllm.general_plugins]\n{lines}")
    return tmp_path


def run(code: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    env = {"PYTHONPATH": f"{folder}:{ROOT}", "VLLM_LOGGING_LEVEL": "ERROR", "PATH": "/usr/bin:/bin", **variables}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)


def test_standout_chooses_the_tokens_of_qwen(installed: Path) -> None:
    found = run(STAND_IN + CHECK, installed, **{VARIABLE: "standout"})
    assert found.stdout.strip().endswith("done"), found.stderr


def test_without_the_variable_nothing_changes(installed: Path) -> None:
    code = (
        "from vllm.multimodal.video_prune import evs; before = evs.compute_retention_mask\n"
        "from vllm.plugins import load_general_plugins; load_general_plugins()\n"
        "assert evs.compute_retention_mask is before; print('done')"
    )
    assert run(code, installed).stdout.strip().endswith("done")


def test_vllm_does_not_start_with_a_method_that_does_not_qualify(installed: Path) -> None:
    found = run("from vllm.plugins import load_general_plugins; load_general_plugins()", installed, **{VARIABLE: "aot"})
    assert found.returncode and "AOT_VLLM_METHOD=aot needs more than the tokens" in found.stderr
