"""Which checkpoints load, and what is said of the others. Nothing that comes with one may run."""

from __future__ import annotations

import builtins
import json
import os
import pickle
import re
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from aot.config.schema import ModelConfig
from aot.errors import AOTError, ConfigError, ModelError
from aot.models import load_model
from aot.models.families.llava import Llava
from aot.models.loading.checkpoints import fingerprint, load_network, pick_device, pick_dtype
from tests.support.checkpoint_files import Touch, edit_json
from tests.support.tiny_checkpoint import WEIGHTS, drop_weights, make_checkpoint, make_other_architecture


def config(folder: Path | str, **changes: Any) -> ModelConfig:
    return ModelConfig(name=str(folder), **{"device": "cpu", **changes})


@pytest.fixture
def folder(small_folder: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(small_folder, tmp_path / "copy"))


# --- What cannot be found


def test_no_name_says_how_to_give_one() -> None:
    with pytest.raises(ModelError, match=r"--model .* AOT_MODEL"):
        load_model(ModelConfig())


@pytest.mark.parametrize("make", [str, lambda path: os.path.relpath(path)])
def test_a_folder_without_a_config_is_not_looked_up(make: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"not a model folder: there is no config\.json"):
        load_model(config(make(tmp_path)))


@pytest.mark.parametrize("name", ["./nope", "../nope", "~/nope", "/nope"])
def test_a_path_that_is_not_there(name: str) -> None:
    with pytest.raises(ModelError, match="there is no folder"):
        load_model(config(name))


def test_an_unknown_hub_name_while_offline() -> None:
    with pytest.raises(ModelError, match=r"offline mode is on; download it once without --offline"):
        load_model(config("nobody/nothing-of-the-kind"))


@pytest.mark.parametrize(
    ("name", "told"), [("shape", "did you mean shapes?"), ("nothing", "the bundled --model shapes")]
)
def test_a_name_without_an_owner(name: str, told: str) -> None:
    with pytest.raises(ModelError, match=rf"there is no folder {name} here, .* OWNER/NAME; .*{re.escape(told)}"):
        load_model(config(name))


def test_a_name_the_hub_could_never_have() -> None:
    with pytest.raises(ModelError):
        load_model(config("a b/c d/e"))


# --- What does not load


def test_another_architecture_names_the_supported_ones(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"qwen2 model, which is not supported; use LLaVA-OneVision"):
        load_model(config(make_other_architecture(tmp_path)))


def test_a_config_without_a_model_type(folder: Path) -> None:
    edit_json(folder / "config.json", model_type=None)
    with pytest.raises(ModelError, match="nameless"):
        load_model(config(folder))


@pytest.mark.parametrize(
    "prefix", ["multi_modal_projector.", "language_model.model.layers.0.", "vision_tower.", "image_newline"]
)
def test_missing_weights_are_refused(folder: Path, prefix: str) -> None:
    names = load_file(folder / WEIGHTS)
    start = next(name[: name.index(prefix) + len(prefix)] for name in names if prefix in name)
    dropped = drop_weights(folder, start)
    with pytest.raises(ModelError, match=rf"lacks {len(dropped)} weights .*random"):
        load_model(config(folder))


def test_weights_of_another_size_are_refused(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    name = next(name for name in weights if name.endswith("linear_2.weight"))
    save_file({**weights, name: torch.zeros(33, 32)}, folder / "new", metadata={"format": "pt"})
    (folder / "new").replace(folder / WEIGHTS)
    with pytest.raises(ModelError):
        load_model(config(folder))


@pytest.mark.parametrize("filename", ["config.json", "tokenizer.json", "preprocessor_config.json", WEIGHTS])
@pytest.mark.parametrize("damage", ["truncated", "noise"])
def test_damaged_files_are_explained(folder: Path, filename: str, damage: str) -> None:
    for other in ("processor_config.json", "video_preprocessor_config.json"):
        (folder / other).unlink()
    data = (folder / filename).read_bytes()
    (folder / filename).write_bytes(data[: len(data) // 2] if damage == "truncated" else b"\xff\x00noise" * 50)
    with pytest.raises(ModelError):
        load_model(config(folder))


@pytest.mark.parametrize(
    ("filename", "changes"),
    [
        pytest.param(
            "config.json",
            {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
            marks=pytest.mark.skipif(find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed"),
        ),
        ("config.json", {"vision_config": {"hidden_size": "wide"}}),
        ("config.json", {"text_config": []}),
        ("preprocessor_config.json", {"image_mean": "half"}),
        ("preprocessor_config.json", {"image_mean": [0.5]}),
        ("preprocessor_config.json", {"image_std": ["a", "b", "c"]}),
    ],
    ids=["quantized", "text for a number", "list for a group", "text for a list", "one channel", "no numbers"],
)
def test_settings_of_the_checkpoint_that_make_no_sense(folder: Path, filename: str, changes: dict[str, Any]) -> None:
    for other in ("processor_config.json", "video_preprocessor_config.json"):
        (folder / other).unlink()
    edit_json(folder / filename, **changes)
    with pytest.raises(ModelError):
        load_model(config(folder))


def test_a_folder_without_a_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json", "added_tokens.json"):
        (folder / name).unlink()
    with pytest.raises(ModelError):
        load_model(config(folder))


# --- What must not run


def test_pickled_weights_are_not_opened(folder: Path, tmp_path: Path) -> None:
    (folder / WEIGHTS).unlink()
    marker = tmp_path / "ran"
    with (folder / "pytorch_model.bin").open("wb") as file:
        pickle.dump({"weight": Touch(marker)}, file)
    with pytest.raises(ModelError, match="safetensors"):
        load_model(config(folder))
    assert not marker.exists()


@pytest.mark.parametrize("tokenizer_class", ["Qwen2Tokenizer", "EvilTokenizer"])
def test_code_of_the_checkpoint_is_not_run(
    folder: Path, tmp_path: Path, tokenizer_class: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even after a yes: the libraries may ask on the terminal, which is not theirs."""
    asked: list[Any] = []
    monkeypatch.setattr(builtins, "input", lambda *prompt: asked.append(prompt) or "y")
    marker = tmp_path / "ran"
    (folder / "evil.py").write_text(
        f"from pathlib import Path\nPath({str(marker)!r}).mkdir(exist_ok=True)\n"
        "from transformers import LlavaOnevisionConfig as EvilConfig, Qwen2Tokenizer as EvilTokenizer\n"
        "from transformers import LlavaOnevisionForConditionalGeneration as EvilModel\n"
    )
    auto_map = {
        "AutoConfig": "evil.EvilConfig",
        "AutoModel": "evil.EvilModel",
        "AutoTokenizer": ["evil.EvilTokenizer", "evil.EvilTokenizer"],
    }
    edit_json(folder / "config.json", auto_map=auto_map)
    edit_json(folder / "tokenizer_config.json", auto_map=auto_map, tokenizer_class=tokenizer_class)
    try:
        assert load_model(config(folder)).tokens_per_frame == 25
    except ModelError:
        assert tokenizer_class == "EvilTokenizer"  # refusing is right too
    assert not marker.exists()
    assert not asked


# --- Device and dtype


@pytest.mark.parametrize("name", ["cuda", "cuda:7", "mps"])
def test_a_device_that_is_not_there(small_folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=rf"{name} is not available .*--device auto"):
        load_model(config(small_folder, device=name))


def test_a_cuda_number_beyond_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert pick_device("cuda:0") == torch.device("cuda:0")
    with pytest.raises(ConfigError):
        pick_device("cuda:1")


@pytest.mark.parametrize("name", ["cuda:x", "cuda:", "cpu:a"])
def test_a_device_that_makes_no_sense(name: str) -> None:
    with pytest.raises(ConfigError):
        pick_device(name)


@pytest.mark.parametrize(("cuda", "mps", "expected"), [(1, 1, "cuda"), (0, 1, "mps"), (0, 0, "cpu")])
def test_auto_device(cuda: int, mps: int, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(cuda))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: bool(mps))
    assert pick_device("auto") == torch.device(expected)


@pytest.mark.parametrize(
    ("name", "device", "bf16", "expected"),
    [
        ("auto", "cpu", True, torch.float32),
        ("auto", "cuda", True, torch.bfloat16),
        ("auto", "cuda", False, torch.float16),
        ("auto", "mps", True, torch.float16),
        ("float16", "cpu", True, torch.float16),
        ("float32", "cuda", True, torch.float32),
        ("bfloat16", "mps", False, torch.bfloat16),
    ],
)
def test_dtype(name: str, device: str, bf16: bool, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0) if bf16 else (7, 5))
    assert pick_dtype(name, torch.device(device)) == expected


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_the_network_has_the_dtype(small_folder: Path, name: str) -> None:
    network = load_network(config(small_folder, dtype=name), network_class())
    assert {weight.dtype for weight in network.parameters()} == {getattr(torch, name)}
    assert not network.training and not any(weight.requires_grad for weight in network.parameters())


def network_class() -> type[nn.Module]:
    from transformers import LlavaOnevisionForConditionalGeneration

    return LlavaOnevisionForConditionalGeneration


# --- Identity and preprocessing


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_fingerprint_does_not_depend_on_the_dtype(small_folder: Path, small_model: Llava, dtype: str) -> None:
    other = load_model(config(small_folder, dtype=dtype))
    assert other.identity == small_model.identity
    assert len(other.identity.fingerprint) == 16


def test_fingerprint_depends_on_the_weights(tmp_path: Path, small_model: Llava) -> None:
    other = load_model(config(make_checkpoint(tmp_path, grid=9, seed=1)))
    assert other.identity.fingerprint != small_model.identity.fingerprint


def test_fingerprint_sees_every_weight(small_folder: Path) -> None:
    names = ("image_newline", "multi_modal_projector.linear_2.weight")
    prints = {fingerprint(config(small_folder), wanted) for wanted in (names, names[:1], names[1:])}
    assert len(prints) == 3


PREPROCESSING = ("processor_config.json", "video_preprocessor_config.json", "preprocessor_config.json")
CLIP_MEAN = [0.48, 0.46, 0.41]


@pytest.mark.parametrize("filename", PREPROCESSING)
def test_mean_and_deviation_come_from_the_checkpoint(folder: Path, filename: str) -> None:
    for other in PREPROCESSING:
        (folder / other).unlink()
    (folder / filename).write_text(json.dumps({"image_mean": CLIP_MEAN, "image_std": [0.25] * 3}))
    model = load_model(config(folder))
    white = model.normalize(torch.full((1, 3, 2, 2), 255, dtype=torch.uint8))
    torch.testing.assert_close(white[0, :, 0, 0], (1 - torch.tensor(CLIP_MEAN)) / 0.25)


def test_the_video_part_of_a_joint_processor_file_counts(folder: Path) -> None:
    edit_json(folder / PREPROCESSING[0], video_processor={"image_mean": CLIP_MEAN, "image_std": [0.25] * 3})
    assert load_model(config(folder)).mean.flatten().tolist() == pytest.approx(CLIP_MEAN)


def test_mean_and_deviation_default_to_a_half(folder: Path) -> None:
    for filename in PREPROCESSING:
        (folder / filename).unlink()
    model = load_model(config(folder))
    ends = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 1, 1)
    assert model.normalize(ends)[:, 0, 0, 0].tolist() == [-1, 1]


def test_every_refusal_is_an_aot_error() -> None:
    assert issubclass(ModelError, AOTError) and issubclass(ConfigError, AOTError)
