"""The pooling head borrowed from a SigLIP checkpoint: transformers' own numbers, or a refusal."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import SiglipVisionModel

from aot.config.schema import ModelConfig
from aot.errors import ModelError
from aot.models.vision.siglip_head import SiglipHead
from aot.types import Needs
from tests.support.model_inputs import frames_for, variant
from tests.support.tiny_checkpoint import WEIGHTS, drop_weights, make_other_architecture, make_siglip_head

if TYPE_CHECKING:
    from aot.models.families.llava import Llava

WIDTH = 32


@pytest.fixture(scope="module")
def siglip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_siglip_head(tmp_path_factory.mktemp("siglip"), grid=9, hidden=WIDTH)


@pytest.fixture
def folder(siglip_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(siglip_folder, tmp_path / "siglip"))


def load(folder: Path | str, width: int = WIDTH, dtype: torch.dtype = torch.float32) -> SiglipHead:
    return SiglipHead.load(ModelConfig(siglip_head=str(folder)), width, torch.zeros(1, dtype=dtype))


@pytest.fixture(scope="module")
def stock(siglip_folder: Path) -> Any:
    return SiglipVisionModel.from_pretrained(siglip_folder).eval()


@torch.inference_mode()
def test_equals_the_pooler_of_transformers(siglip_folder: Path, stock: Any) -> None:
    pixels = torch.randn(3, 3, 36, 36, generator=torch.Generator().manual_seed(0))
    output = stock(pixels, output_hidden_states=True)
    found = load(siglip_folder)(output.hidden_states[-1])
    torch.testing.assert_close(found, output.pooler_output, rtol=1e-6, atol=1e-6)
    assert found.shape == (3, WIDTH) and found.std(0).mean() > 1e-3


@torch.inference_mode()
def test_a_sharded_checkpoint_is_the_same(folder: Path, siglip_folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    places = {name: f"model-0000{1 + k % 2}-of-00002.safetensors" for k, name in enumerate(sorted(weights))}
    for shard in set(places.values()):
        save_file({name: weights[name] for name, place in places.items() if place == shard}, folder / shard)
    (folder / WEIGHTS).unlink()
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": places}))
    features = torch.randn(2, 81, WIDTH)
    assert torch.equal(load(folder)(features), load(siglip_folder)(features))


def test_takes_the_dtype_of_the_features(siglip_folder: Path) -> None:
    head = load(siglip_folder, dtype=torch.bfloat16)
    assert head(torch.zeros(1, 81, WIDTH, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_another_width_is_refused(siglip_folder: Path) -> None:
    with pytest.raises(ModelError, match=r"32 wide but the vision tower is 48 wide"):
        load(siglip_folder, 48)


@pytest.mark.parametrize("prefix", ["vision_model.head.", "vision_model.head.probe", "vision_model.post_layernorm."])
def test_a_missing_head_is_refused(folder: Path, prefix: str) -> None:
    drop_weights(folder, prefix)
    with pytest.raises(ModelError, match="pass a full SigLIP checkpoint"):
        load(folder)


def test_a_head_of_another_shape_is_refused(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    weights["vision_model.head.probe"] = torch.zeros(1, 1, WIDTH + 1)
    (folder / WEIGHTS).unlink()
    save_file(weights, folder / WEIGHTS)
    with pytest.raises(ModelError):
        load(folder)


def test_a_checkpoint_without_safetensors_is_refused(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    with pytest.raises(ModelError, match="safetensors"):
        load(folder)


def test_damaged_weights_are_explained(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:1000])
    with pytest.raises(ModelError):
        load(folder)


def test_a_damaged_index_is_explained(folder: Path) -> None:
    (folder / f"{WEIGHTS}.index.json").write_text("{")
    with pytest.raises(ModelError):
        load(folder)


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        load(make_other_architecture(tmp_path))


@pytest.mark.parametrize("name", ["./nope", "nobody/nothing-of-the-kind"])
def test_a_head_that_is_not_there(name: str, small_model: Llava) -> None:
    model = variant(small_model, siglip_head=name)
    with pytest.raises(ModelError, match=r"nope|offline"):
        model.encode(frames_for(model, 1), Needs(frame_embeddings=True))
