"""What config.json tells before weights are read: the same as the loaded model, or nothing."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from aot.config.schema import ModelConfig
from aot.models import find_model, identify_model, load_model
from tests.support.checkpoint_files import edit_json
from tests.support.tiny_internvl import make_internvl


@pytest.mark.parametrize("kind", ["llava", "llava-video", "internvl", "shapes"])
def test_tokens_per_frame_layers_and_identity(kind: str, small_folder: Path, tmp_path: Path) -> None:
    folder = "shapes" if kind == "shapes" else str(tmp_path / kind)
    if kind.startswith("llava"):
        shutil.copytree(small_folder, folder)
    elif kind == "internvl":
        make_internvl(Path(folder))
    found = find_model(ModelConfig(name=folder, device="cpu"))
    model: Any = load_model(found.config)
    assert found.known_grid is not None
    assert found.known_grid[0] * found.known_grid[1] == model.tokens_per_frame
    assert found.language_layers == model.language_layers
    assert identify_model(found) == model.identity


def test_where_the_video_decides_nothing_is_said(qwen25_folder: Path) -> None:
    assert find_model(ModelConfig(name=str(qwen25_folder))).known_grid is None


@pytest.mark.parametrize(
    "vision", [None, [], {}, {"image_size": "wide", "patch_size": 4}, {"image_size": 4, "patch_size": 0}]
)
@pytest.mark.parametrize("kind", ["llava_onevision", "internvl"])
def test_what_makes_no_sense_is_left_to_loading(small_folder: Path, tmp_path: Path, kind: str, vision: Any) -> None:
    folder = Path(shutil.copytree(small_folder, tmp_path / "copy"))
    edit_json(folder / "config.json", vision_config=vision, text_config="none", model_type=kind)
    found = find_model(ModelConfig(name=str(folder)))
    assert found.known_grid is None
    assert found.language_layers is None
