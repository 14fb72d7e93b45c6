"""Build the shapes model: LLaVA-OneVision with 3 million parameters, and its tokenizer."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from torch import Tensor
from transformers import (
    GenerationConfig,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    Qwen2Config,
    SiglipVisionConfig,
)

from aot.shapes.questions import NUMBERS, WORDINGS
from aot.shapes.training.processor import write_json, write_processor
from aot.shapes.world import COLORS, MOTIONS, SHAPES, SIDE, SIZES

__all__ = ["GRID", "SPECIAL_TOKENS", "build_network", "build_tokenizer", "save_folder", "vocabulary"]

PATCH = 6
GRID = SIDE // PATCH
TOWER_WIDTH = 128
WIDTH = 192
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>", "<unk>")
FATES = ("appears", "disappears", "stays", "flashes", "turns")
_ANSWERS = (
    "yes no top bottom left right up down still nowhere before after the is and small large moves scene changes . ,"
)
_PROMPT = "system user assistant you are a an helpful"
_TOKENIZER_CONFIG = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "processor_class": "LlavaOnevisionProcessor",
    "eos_token": "<|im_end|>",
    "pad_token": "<|endoftext|>",
    "unk_token": "<unk>",
    "clean_up_tokenization_spaces": False,
    "model_max_length": 8192,
}


def vocabulary() -> list[str]:
    """Return all tokens, special tokens first."""
    words = {word for wordings in WORDINGS.values() for text in wordings for word in text.split() if word != "{}"}
    words |= {*COLORS, *SHAPES, *SIZES, *NUMBERS, *FATES, *_ANSWERS.split(), *_PROMPT.split()} | set(MOTIONS)
    return [*SPECIAL_TOKENS, *sorted(words)]


def build_tokenizer() -> Tokenizer:
    """Return a tokenizer with one token per word, in lower case; unknown words share one token.

    Punctuation marks are separate tokens, and "colour" becomes "color".
    """
    tokens = {token: index for index, token in enumerate(vocabulary())}
    tokenizer = Tokenizer(models.WordLevel(tokens, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace("colour", "color")])
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL_TOKENS])
    return tokenizer


def build_network(seed: int) -> LlavaOnevisionForConditionalGeneration:
    """Return an untrained network. Two non-random initializations save training time.

    - Position embeddings of patches start as two-dimensional sines and cosines, so that the tower's
      output contains the positions.
    - Half of the language model's heads start with equal query and key matrices ("mimetic"
      initialization, Trockman and Kolter 2023), so that a token attends to similar tokens from the
      first step.
    """
    torch.manual_seed(seed)
    network = LlavaOnevisionForConditionalGeneration(_architecture())
    with torch.no_grad():
        network.model.image_newline.normal_(0, WIDTH**-0.5)
        network.model.vision_tower.embeddings.position_embedding.weight.copy_(_sine_positions())
        for layer in network.model.language_model.layers:
            attention = layer.self_attn
            half = attention.q_proj.weight.shape[0] // 2
            for projection in (attention.q_proj, attention.k_proj):
                projection.weight.normal_(0, WIDTH**-0.5)
            attention.k_proj.weight[:half] = attention.q_proj.weight[:half]
    return network


def _architecture() -> LlavaOnevisionConfig:
    tokens = vocabulary()
    index = {token: tokens.index(token) for token in SPECIAL_TOKENS}
    return LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(
            hidden_size=TOWER_WIDTH,
            intermediate_size=3 * TOWER_WIDTH,
            num_hidden_layers=4,
            num_attention_heads=4,
            image_size=SIDE,
            patch_size=PATCH,
            vision_use_head=False,
        ),
        text_config=Qwen2Config(
            vocab_size=len(tokens),
            hidden_size=WIDTH,
            intermediate_size=512,
            num_hidden_layers=5,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=8192,
            rope_parameters={"rope_type": "default", "rope_theta": 1e6},
            tie_word_embeddings=True,
            bos_token_id=index["<|endoftext|>"],
            eos_token_id=index["<|im_end|>"],
            pad_token_id=index["<|endoftext|>"],
        ),
        image_token_index=index["<image>"],
        video_token_index=index["<video>"],
        projector_hidden_act="gelu",
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_grid_pinpoints=[[SIDE, SIDE]],
        tie_word_embeddings=True,
    )


def _sine_positions(scale: float = 0.35) -> Tensor:
    """Return position embeddings of the patches, [g * g, D], made of sines and cosines.

    The first half of D depends on the row of the patch, the second half on the column.
    """
    axis = torch.arange(GRID) / (GRID - 1)
    frequencies = math.pi * torch.arange(1, TOWER_WIDTH // 4 + 1) / 4
    waves = torch.cat([torch.sin(axis[:, None] * frequencies), torch.cos(axis[:, None] * frequencies)], 1) * scale
    half = waves.shape[1]
    rows = waves[:, None].expand(GRID, GRID, half)
    cols = waves[None].expand(GRID, GRID, half)
    return torch.cat([rows, cols], -1).reshape(GRID * GRID, TOWER_WIDTH)


def save_folder(network: Any, folder: Path) -> None:
    """Write bfloat16 weights, tokenizer, processor and chat template for `from_pretrained`."""
    folder.mkdir(parents=True, exist_ok=True)
    tokens = vocabulary()
    network.to(torch.bfloat16).save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # save_pretrained gives access to the owner only
    ends = {f"{name}_token_id": tokens.index(token) for name, token in
            (("bos", "<|endoftext|>"), ("eos", "<|im_end|>"), ("pad", "<|endoftext|>"))}  # fmt: skip
    GenerationConfig(**ends).save_pretrained(folder)
    build_tokenizer().save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", _TOKENIZER_CONFIG)
    write_processor(folder, SIDE, GRID, [[SIDE, SIDE]])
