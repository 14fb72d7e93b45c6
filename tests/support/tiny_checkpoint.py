"""Make tiny random checkpoints in the layout of their hub repositories, without a network.

    make_checkpoint          LLaVA-OneVision: SigLIP tower, projector, Qwen2, tokenizer, processor
    files make_siglip_head         the full SigLIP model with its pooling head
    make_other_architecture  a language model that is not a video model drop_weights             the
    same folder without some weights

Everything is a function of its arguments and leaves torch's random state unchanged. The weights are
larger than a training initialization, so that attention is uneven and an answer depends on the
question and on every frame. A matrix has the standard deviation gain / sqrt(inputs), which keeps
activations near one.
"""

from __future__ import annotations

import math
import re
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Regex, Tokenizer, normalizers
from tokenizers.models import Unigram
from tokenizers.pre_tokenizers import Metaspace
from tokenizers.processors import TemplateProcessing
from transformers import (
    GenerationConfig,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2Tokenizer,
    SiglipConfig,
    SiglipModel,
    SiglipTextConfig,
    SiglipVisionConfig,
)

from aot.shapes.training.processor import write_json, write_processor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor
    from transformers import PreTrainedModel

__all__ = [
    "BYTE_SYMBOLS",
    "SPECIAL_TOKENS",
    "VOCAB_SIZE",
    "drop_weights",
    "make_checkpoint",
    "make_other_architecture",
    "make_siglip_head",
    "video_token_count",
]

PATCH_SIZE = 4
HEADS = 4
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>")
WEIGHTS = "model.safetensors"

# (pattern of weight names, gain); the first match wins, the default gain is 1. Queries and keys
# have a higher gain, so that attention is uneven. Chosen by trial: for seeds 0 to 3 and 27 x 27
# patches, four videos times four questions give sixteen different answers, and bfloat16 mostly has
# the same first token.
_GAINS = (
    (re.compile(r"encoder\.layers\..*[qk]_proj\.weight|attn\.qkv\.weight"), 1.5),
    (re.compile(r"patch_embedding\.weight|patch_embed\.proj\.weight|in_proj_weight"), 1.5),
    (re.compile(r"[qk]_proj\.weight"), 3.0),
    (re.compile(r"(gate|up|down)_proj\.weight"), 1.5),
    (re.compile(r"\bo_proj\.weight|lm_head\.weight"), 2.0),
    (re.compile(r"multi_modal_projector\.linear_2\.weight"), 0.5),
)
# Weights with a fixed standard deviation instead.
_SCALES = (
    (re.compile(r"embed_tokens|token_embedding|image_newline|probe"), 1.0),
    (re.compile(r"position_embedding|pos_embed"), 0.3),
    (re.compile(r"bias|logit_scale"), 0.2),
)
_END_GAIN = 0.6

_leave_random_state = torch.random.fork_rng(devices=[])


def _byte_symbols() -> tuple[str, ...]:
    """Return the characters for the 256 bytes in byte-level BPE's order: printable bytes first."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = len(set(range(256)) - set(printable))
    return tuple(map(chr, [*printable, *range(256, 256 + others)]))


BYTE_SYMBOLS = _byte_symbols()
VOCAB_SIZE = len(BYTE_SYMBOLS) + len(SPECIAL_TOKENS)
_IDS = {token: index for index, token in enumerate((*BYTE_SYMBOLS, *SPECIAL_TOKENS))}


@_leave_random_state
def make_checkpoint(
    folder: Path,
    *,
    seed: int = 0,
    grid: int = 27,
    width: int = 32,
    vision_layers: int = 7,
    vision_width: int = 32,
    vision_heads: int = HEADS,
    dtype: str = "float32",
    printable: bool = True,
    tied: bool = False,
) -> Path:
    """Write a LLaVA-OneVision checkpoint with `grid` x `grid` patches and return its folder.

    With `printable`, a greedy answer consists of printable ASCII and seldom ends before its limit.
    Without it, or if the embeddings are `tied` to the head, it consists of any bytes (mostly
    invalid UTF-8) and special tokens.
    """
    config = LlavaOnevisionConfig(
        vision_config=_vision_config(grid, vision_width, vision_layers, vision_heads, head=False),
        text_config=_text_config(width, tied),
        image_token_index=_IDS["<image>"],
        video_token_index=_IDS["<video>"],
        projector_hidden_act="gelu",
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_grid_pinpoints=_pinpoints(grid * PATCH_SIZE),
    )
    model = LlavaOnevisionForConditionalGeneration(config)
    _fill(model, seed)
    if printable and not tied:
        _make_printable(model.lm_head.weight)
    _save(model, folder, dtype)
    _rename_weights(folder, "vision_tower.", "vision_tower.vision_model.")
    _write_tokenizer(folder)
    side = grid * PATCH_SIZE
    write_processor(folder, side, grid, _pinpoints(side))
    return folder


@_leave_random_state
def make_siglip_head(
    folder: Path,
    *,
    hidden: int = 32,
    grid: int = 27,
    vision_layers: int = 8,
    seed: int = 0,
    dtype: str = "float32",
) -> Path:
    """Write a whole SigLIP checkpoint with its pooling head, text tower and tokenizer."""
    text = SiglipTextConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=1,
        num_attention_heads=HEADS,
        bos_token_id=None,
        eos_token_id=_IDS["<|im_end|>"],
        pad_token_id=_IDS["<|endoftext|>"],
    )
    vision = _vision_config(grid, hidden, vision_layers, HEADS, head=True)
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision))
    _fill(model, seed)
    _save(model, folder, dtype)
    _write_siglip_tokenizer(folder)
    return folder


@_leave_random_state
def make_other_architecture(folder: Path, *, seed: int = 0, width: int = 32) -> Path:
    """Write a valid Qwen2 language model with its tokenizer: loadable, but no video model."""
    model = Qwen2ForCausalLM(_text_config(width))
    _fill(model, seed)
    _save(model, folder, "float32")
    _write_tokenizer(folder)
    return folder


def drop_weights(folder: Path, prefix: str) -> list[str]:
    """Rewrite the weights without names that start with `prefix`; return the dropped names."""
    weights = load_file(folder / WEIGHTS)
    dropped = sorted(name for name in weights if name.startswith(prefix))
    if not dropped:
        raise ValueError(f"no weight in {folder / WEIGHTS} starts with {prefix!r}; there are {sorted(weights)}")
    _write_weights(folder, {name: weight for name, weight in weights.items() if name not in dropped})
    return dropped


def video_token_count(frames: int, grid: int = 27) -> int:
    """Return the stock model's tokens of a video: sides halved and rounded up, and one newline."""
    return frames * ((grid + 1) // 2) ** 2 + 1


def _vision_config(grid: int, hidden: int, layers: int, heads: int, *, head: bool) -> SiglipVisionConfig:
    return SiglipVisionConfig(
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        image_size=grid * PATCH_SIZE,
        patch_size=PATCH_SIZE,
        vision_use_head=head,
    )


def _text_config(width: int, tied: bool = False) -> Qwen2Config:
    return Qwen2Config(
        vocab_size=VOCAB_SIZE,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=3,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS // 2,
        max_position_embeddings=32768,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        tie_word_embeddings=tied,
        bos_token_id=_IDS["<|endoftext|>"],
        eos_token_id=_IDS["<|im_end|>"],
        pad_token_id=_IDS["<|endoftext|>"],
    )


def _pinpoints(side: int) -> list[list[int]]:
    """Return the picture sizes of anyres_max_9: every rectangle of up to six by six tiles."""
    return [[rows * side, columns * side] for rows in range(1, 7) for columns in range(1, 7)]


@torch.no_grad()
def _fill(model: PreTrainedModel, seed: int) -> None:
    """Draw every weight from the seed and its name, so that a new weight does not change others."""
    for name, weight in model.named_parameters():
        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
        noise = torch.randn(weight.shape, generator=generator)
        weight.copy_(_scaled(name, noise))


def _scaled(name: str, noise: Tensor) -> Tensor:
    if re.search(r"norm|\bln_q\b", name) and name.endswith(".weight"):
        return 1 + 0.1 * noise
    for pattern, scale in _SCALES:
        if pattern.search(name):
            return scale * noise
    gain = next((gain for pattern, gain in _GAINS if pattern.search(name)), 1.0)
    return noise * gain / math.sqrt(noise[0].numel())


@torch.no_grad()
def _make_printable(head: Tensor) -> None:
    """Zero the rows of `head` that printable answers do not need; make an early end unlikely."""
    # A logit of 0 is never the highest of 95 random ones.
    end = _IDS["<|im_end|>"]
    speakable = {end, _IDS["Ġ"], *(_IDS[chr(code)] for code in range(ord("!"), ord("~") + 1))}
    head[sorted(set(range(len(head))) - speakable)] = 0
    head[end] *= _END_GAIN


def _save(model: PreTrainedModel, folder: Path, dtype: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    if model.can_generate():
        GenerationConfig(
            bos_token_id=_IDS["<|endoftext|>"], eos_token_id=_IDS["<|im_end|>"], pad_token_id=_IDS["<|endoftext|>"]
        ).save_pretrained(folder)


def _rename_weights(folder: Path, old: str, new: str) -> None:
    """Rename weights to the hub's prefix, which transformers reads but no longer writes."""
    weights = load_file(folder / WEIGHTS)
    _write_weights(folder, {(new + n[len(old) :] if n.startswith(old) else n): w for n, w in weights.items()})


def _write_weights(folder: Path, weights: dict[str, Tensor]) -> None:
    """Replace the file; it is not changed, because loaded weights may be mapped from it."""
    new = folder / f"{WEIGHTS}.new"
    save_file(weights, new, metadata={"format": "pt"})
    new.replace(folder / WEIGHTS)


def _write_tokenizer(folder: Path, special: Sequence[str] = SPECIAL_TOKENS, processor: str = "LlavaOnevision") -> None:
    """Write Qwen2's byte-level BPE without merges: one token per byte and per special token."""
    vocab = {symbol: _IDS[symbol] for symbol in BYTE_SYMBOLS}
    added = {token: len(vocab) + number for number, token in enumerate(special)}
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    tokenizer = Qwen2Tokenizer(vocab=vocab, merges=[]).backend_tokenizer
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / "vocab.json", vocab)
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    write_json(folder / "added_tokens.json", added)
    write_json(
        folder / "tokenizer_config.json",
        {
            "add_prefix_space": False,
            "added_tokens_decoder": {str(index): {"content": token, **flags} for token, index in added.items()},
            "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
            "bos_token": None,
            "clean_up_tokenization_spaces": False,
            "eos_token": "<|im_end|>",
            "errors": "replace",
            "model_max_length": 32768,
            "pad_token": "<|endoftext|>",
            "processor_class": f"{processor}Processor",
            "split_special_tokens": False,
            "tokenizer_class": "Qwen2Tokenizer",
            "unk_token": None,
        },
    )


def _write_siglip_tokenizer(folder: Path) -> None:
    """Write a tokenizer like SigLIP's: lower case, no punctuation, letters as pieces."""
    pieces = ["<pad>", "</s>", "<unk>", "▁", *(chr(code) for code in range(ord("a"), ord("z") + 1)), "▁red", "▁the"]
    tokenizer = Tokenizer(Unigram([(piece, -1.0) for piece in pieces], unk_id=2, byte_fallback=False))
    punctuation = normalizers.Replace(Regex(r"[!-/:-@\[-`{-~]"), "")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), punctuation, normalizers.Strip()])
    tokenizer.pre_tokenizer = Metaspace()
    tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in ("</s>", "<unk>")])
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(
        folder / "tokenizer_config.json",
        {
            "do_lower_case": True,
            "eos_token": "</s>",
            "model_max_length": 64,
            "pad_token": "</s>",
            "tokenizer_class": "SiglipTokenizer",
            "unk_token": "<unk>",
        },
    )
