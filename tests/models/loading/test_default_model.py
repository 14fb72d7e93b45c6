"""Which model answers when none is named, told from a Hugging Face cache of our own making."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from aot.config.schema import BUNDLED_MODEL, ModelConfig
from aot.models import load_model
from aot.models.loading.default_model import DefaultModel, default_model
from aot.models.loading.lookup import location

SMALL = "llava-hf/llava-onevision-qwen2-0.5b-ov-hf"
LARGE = "llava-hf/llava-onevision-qwen2-7b-ov-hf"
TEXTS = {"config.json": "{}", "tokenizer.json": "{}"}
Cached = Callable[..., None]


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cached:
    """cached(repository, files): as if the hub client had fetched them."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))

    def put(repository: str, files: dict[str, str]) -> None:
        folder = tmp_path / f"models--{repository.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True, exist_ok=True)
        (folder / "refs" / "main").write_text("abc")
        for name, content in files.items():
            path = folder / "snapshots" / "abc" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)

    return put


def index(*shards: str) -> str:
    return json.dumps({"weight_map": {f"layer.{number}": shard for number, shard in enumerate(shards)}})


def default() -> str:
    return default_model(ModelConfig()).name  # the suite is offline


def test_an_empty_cache_gives_the_bundled_model(cached: Cached) -> None:
    assert default() == BUNDLED_MODEL


def test_the_cached_model_comes_first(cached: Cached) -> None:
    cached(SMALL, {**TEXTS, "model.safetensors": ""})
    assert default_model(ModelConfig()) == DefaultModel(SMALL)


def test_another_real_one_of_the_cache_comes_before_the_toy(cached: Cached) -> None:
    cached(LARGE, {**TEXTS, "model.safetensors.index.json": index("a.safetensors"), "a.safetensors": ""})
    found = default_model(ModelConfig())
    assert found.name == LARGE
    assert found.lacking is not None and "offline" in found.lacking
    cached(SMALL, {**TEXTS, "model.safetensors": ""})
    assert default() == SMALL


@pytest.mark.parametrize(
    "files",
    [
        TEXTS,
        {"tokenizer.json": "{}", "model.safetensors": ""},
        {"config.json": "{}", "model.safetensors": ""},
        {**TEXTS, "model.safetensors.index.json": index("a.st", "b.st"), "a.st": ""},
        {**TEXTS, "model.safetensors.index.json": "[", "model.safetensors": ""},
    ],
    ids=["no weights", "no configuration", "no tokenizer", "half of the shards", "a damaged index"],
)
def test_an_unfinished_download_does_not_count(cached: Cached, files: dict[str, str]) -> None:
    cached(LARGE, files)
    assert default() == BUNDLED_MODEL


def test_the_bundled_model_is_found_by_its_name_and_stays_so_called() -> None:
    model = load_model(ModelConfig(name="shapes", device="cpu"))
    assert model.identity.name == "shapes"
    assert model.tokens_per_frame == 64
    assert (Path(location(ModelConfig(name="shapes"))) / "config.json").is_file()


def test_it_says_which_words_it_cannot_read() -> None:
    model = load_model(ModelConfig(name="shapes", device="cpu"))
    assert model.unknown_words("What color is the dog, and the orange circles?") == ["dog", "circles"]
    assert model.unknown_words("What colour is the star?") == []


def test_british_spelling_is_read_as_american() -> None:
    tokenizer = load_model(ModelConfig(name="shapes", device="cpu")).tokenizer  # type: ignore[attr-defined]
    assert tokenizer("Which COLOUR is it?")["input_ids"] == tokenizer("which color is it ?")["input_ids"]


def test_a_home_folder_is_expanded(monkeypatch: pytest.MonkeyPatch, small_folder: Path) -> None:
    monkeypatch.setenv("HOME", str(small_folder.parent))
    monkeypatch.setenv("USERPROFILE", str(small_folder.parent))
    assert load_model(ModelConfig(name=f"~/{small_folder.name}", device="cpu")).tokens_per_frame == 25
