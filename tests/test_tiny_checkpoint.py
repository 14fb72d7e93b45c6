"""The tiny checkpoint is what the rest of the suite believes it is."""

from __future__ import annotations

import json
import shutil
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoTokenizer,
    GenerationConfig,
    LlavaOnevisionForConditionalGeneration,
    Qwen2ForCausalLM,
    SiglipModel,
)

from tests.support.tiny_checkpoint import (
    BYTE_SYMBOLS,
    PATCH_SIZE,
    SPECIAL_TOKENS,
    VOCAB_SIZE,
    WEIGHTS,
    drop_weights,
    make_checkpoint,
    make_other_architecture,
    make_siglip_head,
    video_token_count,
)

SIDE = 27 * PATCH_SIZE
NO_PROBLEMS = {"missing_keys": 0, "unexpected_keys": 0, "mismatched_keys": 0}


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Tensors this small are slower on two threads, and several times slower when the machine is busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("tiny") / "llava-onevision")


@pytest.fixture(scope="module")
def model(folder: Path) -> LlavaOnevisionForConditionalGeneration:
    return _load(folder)[0]


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder)


def _load(folder: Path, kind: Any = LlavaOnevisionForConditionalGeneration) -> tuple[Any, dict[str, int]]:
    model, info = kind.from_pretrained(folder, output_loading_info=True)
    return model.eval(), {name: len(info[name]) for name in NO_PROBLEMS}


def _video(seed: int, frames: int = 2) -> Tensor:
    """Smooth random frames in [-1, 1], [1, frames, 3, SIDE, SIDE]."""
    coarse = torch.rand(frames, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, SIDE, mode="bilinear")[None] * 2 - 1


def _prompt(tokenizer: Any, question: str, frames: int = 2) -> Tensor:
    slots = "<video>" * video_token_count(frames)
    text = f"<|im_start|>user\n{slots}\n{question}<|im_end|>\n<|im_start|>assistant\n"
    return torch.tensor([tokenizer(text).input_ids])


@torch.no_grad()
def _last_logits(model: Any, ids: Tensor, video: Tensor) -> Tensor:
    return model(input_ids=ids, pixel_values_videos=video).logits[0, -1]


def _json(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / name).read_text(encoding="utf-8"))


# --- weights ---


def test_loads_with_every_weight_in_its_place(folder: Path) -> None:
    assert _load(folder)[1] == NO_PROBLEMS


def test_weights_carry_their_hub_names_and_stay_small(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    heads = ("language_model.model.", "multi_modal_projector.linear_", "vision_tower.vision_model.")
    assert {n for n in weights if not n.startswith(heads)} == {"image_newline", "language_model.lm_head.weight"}
    assert "vision_tower.vision_model.post_layernorm.weight" in weights
    assert all(weight.isfinite().all() for weight in weights.values())
    assert sum(path.stat().st_size for path in folder.iterdir()) < 3_000_000


def test_same_seed_same_bytes_whatever_the_global_seed(folder: Path, tmp_path: Path) -> None:
    state = torch.random.get_rng_state()
    again = make_checkpoint(tmp_path / "again")
    assert torch.equal(torch.random.get_rng_state(), state)
    other = make_checkpoint(tmp_path / "other", seed=1)
    for path in folder.iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes(), path.name
    assert (folder / WEIGHTS).read_bytes() != (other / WEIGHTS).read_bytes()


def test_reload_is_bit_identical(folder: Path, model: Any, tokenizer: Any) -> None:
    ids, video = _prompt(tokenizer, "What moves?", frames=1), _video(0, frames=1)
    assert torch.equal(_last_logits(model, ids, video), _last_logits(_load(folder)[0], ids, video))


@pytest.mark.parametrize("grid", [8, 9])
def test_size_and_dtype_are_arguments(tmp_path: Path, grid: int) -> None:
    folder = make_checkpoint(tmp_path / "m", grid=grid, width=48, vision_layers=6, dtype="bfloat16")
    model, problems = _load(folder)
    pixels = torch.zeros(1, 2, 3, grid * PATCH_SIZE, grid * PATCH_SIZE, dtype=torch.bfloat16)
    ids = torch.full((1, video_token_count(2, grid) + 1), model.config.video_token_id)
    ids[0, -1] = 0
    assert problems == NO_PROBLEMS
    assert (model.dtype, model.config.text_config.hidden_size) == (torch.bfloat16, 48)
    assert _last_logits(model, ids, pixels).isfinite().all()


# --- tokenizer ---


def test_special_tokens_are_one_id_each(folder: Path, tokenizer: Any) -> None:
    config = AutoConfig.from_pretrained(folder)
    assert len(tokenizer) == VOCAB_SIZE == config.text_config.vocab_size == 261
    assert [tokenizer(token).input_ids for token in SPECIAL_TOKENS] == [[256], [257], [258], [259], [260]]
    assert (config.image_token_index, config.video_token_index) == (259, 260)
    assert (tokenizer.eos_token, tokenizer.pad_token, tokenizer.bos_token) == ("<|im_end|>", "<|endoftext|>", None)
    assert tokenizer.decode(tokenizer("a<video>b<|im_end|>").input_ids, skip_special_tokens=True) == "ab"


@pytest.mark.parametrize(
    "text",
    [
        "",
        " two  spaces ",
        "line\n\n\ttab\r\n",
        "it's 12345%",
        "naïve café",
        "日本語 한국어 العربية",
        "🎉👩\u200d👧",
        "\x00\x7f\ufffd",
    ],
)
def test_text_survives_and_costs_one_token_per_byte(tokenizer: Any, text: str) -> None:
    ids = tokenizer(text).input_ids
    assert tokenizer.decode(ids) == text
    assert len(ids) == len(text.encode())


def test_only_normalization_changes_text(tokenizer: Any) -> None:
    decomposed = "cafe\u0301"
    assert tokenizer.decode(tokenizer(decomposed).input_ids) == unicodedata.normalize("NFC", decomposed)


def test_byte_symbols_are_the_byte_level_alphabet() -> None:
    assert len(set(BYTE_SYMBOLS)) == 256
    assert (BYTE_SYMBOLS[0], BYTE_SYMBOLS[93], BYTE_SYMBOLS[188], BYTE_SYMBOLS[220]) == ("!", "~", "Ā", "Ġ")


def test_vocabulary_files_agree(folder: Path, tokenizer: Any) -> None:
    vocab = {**_json(folder, "vocab.json"), **_json(folder, "added_tokens.json")}
    assert vocab == tokenizer.get_vocab()
    assert vocab == dict(zip((*BYTE_SYMBOLS, *SPECIAL_TOKENS), range(VOCAB_SIZE), strict=True))


# --- processor and generation files ---


def test_processor_files(folder: Path) -> None:
    image, video = _json(folder, "preprocessor_config.json"), _json(folder, "video_preprocessor_config.json")
    processor = _json(folder, "processor_config.json")
    for pixels in (image, video):
        assert pixels["image_mean"] == pixels["image_std"] == [0.5, 0.5, 0.5]
        assert pixels["size"] == {"height": SIDE, "width": SIDE}
        assert pixels["rescale_factor"] == pytest.approx(1 / 255)
    assert {f["processor_class"] for f in (image, video, processor)} == {"LlavaOnevisionProcessor"}
    assert (processor["num_image_tokens"], processor["vision_feature_select_strategy"]) == (729, "full")


def test_generation_ends_at_im_end(folder: Path, tokenizer: Any) -> None:
    generation = GenerationConfig.from_pretrained(folder)
    assert generation.eos_token_id == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert generation.pad_token_id == tokenizer.convert_tokens_to_ids("<|endoftext|>")


def test_chat_template_puts_the_video_before_the_text(folder: Path, tokenizer: Any) -> None:
    pytest.importorskip("jinja2")
    content = [{"type": "text", "text": "Why?"}, {"type": "video"}]
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}],
        chat_template=_json(folder, "chat_template.json")["chat_template"],
        add_generation_prompt=True,
        tokenize=False,
    )
    assert rendered == "<|im_start|>user <video>\nWhy?<|im_end|><|im_start|>assistant\n"


# --- behavior ---


def test_stock_forward_fills_the_video_slots(model: Any, tokenizer: Any) -> None:
    logits = _last_logits(model, _prompt(tokenizer, "What moves?"), torch.randn(1, 2, 3, SIDE, SIDE))
    assert logits.isfinite().all()
    assert logits.std() > 0.5


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_stays_finite(folder: Path, tokenizer: Any, dtype: str) -> None:
    model = LlavaOnevisionForConditionalGeneration.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    ids, video = _prompt(tokenizer, "What moves?", frames=1), _video(0, frames=1).to(model.dtype)
    assert _last_logits(model, ids, video).isfinite().all()


def test_every_frame_and_the_question_change_the_answer(model: Any, tokenizer: Any) -> None:
    video, other = _video(0), _video(1)
    first, second = torch.cat([other[:, :1], video[:, 1:]], 1), torch.cat([video[:, :1], other[:, 1:]], 1)
    ids, question = _prompt(tokenizer, "What moves?"), _prompt(tokenizer, "Who is there?")
    reference = _last_logits(model, ids, video)
    for variant in [(ids, other), (ids, first), (ids, second), (question, video)]:
        assert (_last_logits(model, *variant) - reference).norm() / reference.norm() > 0.05


def test_greedy_answers_are_printable_and_differ(model: Any, tokenizer: Any) -> None:
    answers = set()
    for seed in (0, 1):
        for question in ("What moves?", "Who is there?"):
            ids, video = _prompt(tokenizer, question, frames=1), _video(seed, frames=1)
            new = model.generate(input_ids=ids, pixel_values_videos=video, max_new_tokens=12, do_sample=False)
            answers.add(tokenizer.decode(new[0, ids.shape[1] :], skip_special_tokens=True))
    assert len(answers) == 4
    assert all(answer and answer.isascii() and answer.isprintable() for answer in answers), answers


def test_saliency_is_uneven_and_follows_the_pixels(folder: Path) -> None:
    tower = _load(folder)[0].model.vision_tower
    tower.set_attn_implementation("eager")
    with torch.no_grad():
        attentions = tower(_video(0)[0], output_attentions=True).attentions
    assert len(attentions) == 7
    for block in (5, -2):
        received = attentions[block].mean(1).sum(1)
        assert received.shape == (2, 27 * 27)
        assert (received.std(-1) / received.mean(-1) > 0.05).all()
        assert torch.corrcoef(received)[0, 1] < 0.9


# --- damaged and other folders ---


def test_dropped_weights_are_missing_keys(folder: Path, tmp_path: Path) -> None:
    damaged = shutil.copytree(folder, tmp_path / "damaged")
    dropped = drop_weights(damaged, "multi_modal_projector.")
    _, problems = _load(damaged)
    assert len(dropped) == 4
    assert problems == {**NO_PROBLEMS, "missing_keys": 4}
    assert _load(folder)[1] == NO_PROBLEMS


def test_dropping_nothing_is_an_error(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"no weight .* starts with 'mm_projector'"):
        drop_weights(folder, "mm_projector")


def test_other_architecture_is_a_language_model(tmp_path: Path) -> None:
    folder = make_other_architecture(tmp_path / "qwen2")
    model, problems = _load(folder, Qwen2ForCausalLM)
    ids = torch.tensor([AutoTokenizer.from_pretrained(folder)("Hello").input_ids])
    assert _json(folder, "config.json")["architectures"] == ["Qwen2ForCausalLM"]
    assert problems == NO_PROBLEMS
    assert model(ids).logits.isfinite().all()


def test_siglip_head_matches_the_tower(tmp_path: Path, model: Any) -> None:
    folder = make_siglip_head(tmp_path / "siglip")
    siglip, problems = _load(folder, SiglipModel)
    names = set(load_file(folder / WEIGHTS))
    assert problems == NO_PROBLEMS
    assert _json(folder, "config.json")["model_type"] == "siglip"
    assert {"vision_model.head.probe", "vision_model.head.attention.in_proj_weight", "logit_scale"} <= names
    assert {"vision_model.post_layernorm.weight", "vision_model.head.mlp.fc1.bias"} <= names
    assert siglip.config.vision_config.hidden_size == model.config.vision_config.hidden_size
    with torch.no_grad():
        pooled = siglip.vision_model(_video(0)[0]).pooler_output
    assert pooled.shape == (2, 32)
    assert pooled.isfinite().all()
    assert not torch.allclose(pooled[0], pooled[1], atol=1e-2)
