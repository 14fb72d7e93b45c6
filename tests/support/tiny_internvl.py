"""Make tiny random InternVL checkpoints in the layout of OpenGVLab's -hf repositories.

As in `tiny_checkpoint`, everything is a function of the arguments, and weights are large enough for
answers to differ.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoConfig,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    PretrainedConfig,
    Qwen2Tokenizer,
)

from aot.shapes.training.processor import write_json
from tests.support.tiny_checkpoint import _IDS, BYTE_SYMBOLS, HEADS, _fill, _make_printable, _save

__all__ = ["CHAT_TEMPLATE", "IMAGENET_MEAN", "IMAGENET_STD", "make_internvl"]

PATCH_SIZE = 4
IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
SPECIAL_TOKENS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>", "<video>", "<s>",
)  # fmt: skip
IDS = {token: index for index, token in enumerate((*BYTE_SYMBOLS, *SPECIAL_TOKENS))}
assert all(IDS[token] == _IDS[token] for token in SPECIAL_TOKENS[:3])

# Renders the same as the hub's chat_template.jinja: every turn with its role, no system turn.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<IMG_CONTEXT>\n' }}{% elif part['type'] == 'video' %}{{ '<video>\n' }}"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

# Settings of each kind of language model other than its sizes.
_TEXT: dict[str, dict[str, Any]] = {
    "qwen2": {},
    "qwen3": {"head_dim": 8},
    "llama": {"bos_token_id": IDS["<s>"]},
    "qwen3_moe": {"head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    "mistral": {"sliding_window": None},
}


@torch.random.fork_rng(devices=[])
def make_internvl(
    folder: Path,
    *,
    seed: int = 0,
    grid: int = 3,
    vision_layers: int = 7,
    text: str = "qwen2",
    qk_norm: bool = False,
    dtype: str = "float32",
    statistics: bool = True,
    **text_settings: Any,
) -> Path:
    """Write a checkpoint with `grid` x `grid` tokens per frame and return its folder.

    The tower has twice as many patches per side.

    Args:
        folder: where to write.
        seed: of the weights.
        grid: tokens per side.
        vision_layers: blocks of the tower.
        text: the `model_type` of the language model.
        qk_norm: normalize queries and keys and use RMS norms in the tower, as the large models do.
        dtype: of the weights.
        statistics: whether preprocessor_config.json has the mean and deviation of pixels.
        text_settings: override the configuration of the language model.
    """
    side = 2 * grid * PATCH_SIZE
    config = InternVLConfig(
        vision_config=InternVLVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=vision_layers,
            num_attention_heads=HEADS,
            attention_bias=not qk_norm,
            use_qk_norm=qk_norm,
            norm_type="rms_norm" if qk_norm else "layer_norm",
            image_size=[side, side],
            patch_size=[PATCH_SIZE, PATCH_SIZE],
        ),
        text_config=_text_config(text, text_settings),
        image_token_id=IDS["<IMG_CONTEXT>"],
        image_seq_length=grid * grid,
        tie_word_embeddings=False,
    )
    model = InternVLForConditionalGeneration(config)
    _fill(model, seed)
    _make_printable(model.lm_head.weight)
    _save(model, folder, dtype)
    _write_tokenizer(folder, begins=text == "llama")
    _write_processor(folder, side, grid, statistics=statistics)
    return folder


def _text_config(kind: str, settings: dict[str, Any]) -> PretrainedConfig:
    sizes = {
        "vocab_size": len(IDS),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS // 2,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": False,
        "bos_token_id": IDS["<|endoftext|>"],
        "eos_token_id": IDS["<|im_end|>"],
        "pad_token_id": IDS["<|endoftext|>"],
    }
    return AutoConfig.for_model(kind, **{**sizes, **_TEXT[kind], **settings})


def _write_tokenizer(folder: Path, *, begins: bool) -> None:
    """Write Qwen2's byte-level BPE without merges; with `begins`, <s> precedes every text."""
    tokenizer = Qwen2Tokenizer(vocab={symbol: IDS[symbol] for symbol in BYTE_SYMBOLS}, merges=[]).backend_tokenizer
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL_TOKENS])
    if begins:
        tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", IDS["<s>"])])
    tokenizer.save(str(folder / "tokenizer.json"))
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    write_json(
        folder / "tokenizer_config.json",
        {
            "add_prefix_space": False,
            "added_tokens_decoder": {str(IDS[token]): {"content": token, **flags} for token in SPECIAL_TOKENS},
            "additional_special_tokens": list(SPECIAL_TOKENS[1:]),
            "bos_token": "<s>" if begins else None,
            "clean_up_tokenization_spaces": False,
            "eos_token": "<|im_end|>",
            "extra_special_tokens": {
                "context_image_token": "<IMG_CONTEXT>",
                "end_image_token": "</img>",
                "start_image_token": "<img>",
                "video_token": "<video>",
            },
            "model_max_length": 8192,
            "pad_token": "<|endoftext|>",
            "processor_class": "InternVLProcessor",
            "tokenizer_class": "PreTrainedTokenizerFast" if begins else "Qwen2Tokenizer",
            "unk_token": None,
        },
    )


def _write_processor(folder: Path, side: int, grid: int, *, statistics: bool) -> None:
    processor = {"image_seq_length": grid * grid, "processor_class": "InternVLProcessor"}
    write_json(folder / "processor_config.json", processor)
    pixels = {
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_processor_type": "GotOcr2ImageProcessorFast",
        "processor_class": "InternVLProcessor",
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"height": side, "width": side},
    }
    known = {"image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD} if statistics else {}
    write_json(folder / "preprocessor_config.json", {**pixels, **known})
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
