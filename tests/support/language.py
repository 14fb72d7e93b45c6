"""Make a small language model of six layers, and prompts with a video in them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, Qwen2Config, Qwen2ForCausalLM
from transformers.models.qwen2.modeling_qwen2 import repeat_kv

from aot.models.language.prompt import NEWLINE, TEXT, VideoPrompt
from aot.types import Clip, CompressedTokens
from tests.support.straight_line import Row
from tests.support.tiny_checkpoint import _fill

LAYERS, WIDTH, GRID, FRAMES = 6, 32, (3, 3), 4
BEFORE, AFTER = 5, 7  # rows of text around the video and its newline


def language_model(seed: int = 0) -> Any:
    """Return a model with random weights in float64."""
    config = Qwen2Config(
        vocab_size=50, hidden_size=WIDTH, intermediate_size=48, num_hidden_layers=LAYERS, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=4096, tie_word_embeddings=False, bos_token_id=None,
        eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        model = Qwen2ForCausalLM(config)
    _fill(model, seed)
    return model.double().eval().requires_grad_(False)


def eager(model: Any) -> Any:
    """Return the same weights with eager attention and a softmax that stays in float64."""
    AttentionInterface.register("float64_eager", _attend)
    twin = language_model()
    twin.load_state_dict(model.state_dict())
    twin.set_attn_implementation("float64_eager")
    return twin


def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float, **others: Any
) -> tuple[Tensor, Tensor]:
    key, value = (repeat_kv(each, module.num_key_value_groups) for each in (key, value))
    weights = torch.softmax(query @ key.mT * scaling + mask, dim=-1)
    return (weights @ value).transpose(1, 2), weights


def tokens_of(seed: int, count: int = 24) -> CompressedTokens:
    """Return some tokens of four frames in two clips, some merged; adjacent frames are similar."""
    generator = torch.Generator().manual_seed(seed)
    cells = GRID[0] * GRID[1]
    kept = torch.randperm(FRAMES * cells, generator=generator)[:count].sort().values
    still = torch.randn(cells, WIDTH, generator=generator, dtype=torch.float64)
    noise = torch.randn(count, WIDTH, generator=generator, dtype=torch.float64)
    loudness = torch.rand(count, 1, generator=generator, dtype=torch.float64)
    return CompressedTokens(
        features=still[kept % cells] + 1.2 * loudness * noise,
        frame=(kept // cells).int(),
        row=(kept % cells // GRID[1]).int(),
        col=(kept % GRID[1]).int(),
        role=torch.zeros(count, dtype=torch.uint8),
        mass=torch.randint(1, 4, (count,), generator=generator).float(),
        grid=GRID,
        timestamps_s=tuple(map(float, range(FRAMES))),
        clips=(Clip(0, 2), Clip(2, 4)),
    )


def prompt_of(model: Any, seed: int) -> tuple[Tensor, VideoPrompt, Row]:
    """Return ids [1, P], the prompt, and its description for the straight-line version."""
    tokens = tokens_of(seed)
    count = len(tokens.features)
    length = BEFORE + count + 1 + AFTER
    generator = torch.Generator().manual_seed(seed + 1000)
    ids = torch.randint(0, 50, (1, length), generator=generator)
    embeddings = model.get_input_embeddings()(ids)
    embeddings[0, BEFORE : BEFORE + count] = tokens.features
    rows = Row(
        visual=list(range(BEFORE, BEFORE + count)),
        newline=[BEFORE + count],
        question=list(range(BEFORE + count + 1, length)),
        length=length,
        tokens=tokens,
    )
    token = torch.tensor([*[TEXT] * BEFORE, *range(count), NEWLINE, *[TEXT] * AFTER])
    return ids, VideoPrompt(ids, embeddings, token, tokens, BEFORE + count + 1), rows


def grid_prompt_of(model: Any, seed: int, *, every: bool = False) -> tuple[Tensor, VideoPrompt, Row]:
    """Return the same as `prompt_of`, with newlines after lines that keep a token, or all lines."""
    tokens = tokens_of(seed)
    line_of = list(zip(tokens.frame.tolist(), tokens.row.tolist(), strict=True))
    lines = [(t, line) for t in range(FRAMES) for line in range(GRID[0]) if every or (t, line) in line_of]
    video = [row for line in lines for row in (*(k for k, own in enumerate(line_of) if own == line), NEWLINE)]
    token = torch.tensor([*[TEXT] * BEFORE, *video, *[TEXT] * AFTER])
    generator = torch.Generator().manual_seed(seed + 1000)
    ids = torch.randint(0, 50, (1, len(token)), generator=generator)
    embeddings = model.get_input_embeddings()(ids)
    newline = torch.randn(embeddings.shape[2], generator=generator)
    newlines = newline + 0.2 * torch.randn(len(lines), len(newline), generator=generator)
    embeddings[0, token >= 0] = tokens.features[token[token >= 0]].to(embeddings)
    embeddings[0, token == NEWLINE] = newlines.to(embeddings)
    visual = (token >= 0).nonzero()[:, 0].tolist()
    rows = Row(
        visual=[visual[token[visual].tolist().index(k)] for k in range(len(line_of))],
        newline=[],
        question=list(range(BEFORE + len(video), len(token))),
        length=len(token),
        tokens=tokens,
        lines=dict(zip((token == NEWLINE).nonzero()[:, 0].tolist(), [line for _, line in lines], strict=True)),
    )
    return ids, VideoPrompt(ids, embeddings, token, tokens, BEFORE + len(video)), rows
