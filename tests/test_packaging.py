"""What is installed: every module and data file of the tree but the training, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
LEFT_OUT = ROOT / "aot" / "shapes" / "training"


def test_the_wheel_holds_the_tree(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for folder in ("aot", "aot_cli", "presets"):
        shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree / name)
    words = ["wheel", "--no-deps", "--no-build-isolation", "--no-index", "-q", "-w", str(tmp_path), str(tree)]
    subprocess.run([sys.executable, "-m", "pip", *words], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == set(_expected())


def _expected() -> list[str]:
    ours = [path for folder in ("aot", "aot_cli") for path in (ROOT / folder).rglob("*") if path.is_file()]
    wanted = [path for path in ours if "__pycache__" not in path.parts and not path.is_relative_to(LEFT_OUT)]
    presets = (ROOT / "presets").rglob("*.yaml")
    return [*(str(path.relative_to(ROOT)) for path in wanted), *(f"aot/{path.relative_to(ROOT)}" for path in presets)]
