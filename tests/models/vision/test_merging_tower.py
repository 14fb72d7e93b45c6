"""The merging tower: the stock one without merges, a straight-line program with them, and its laws."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
from transformers import SiglipVisionConfig, SiglipVisionModel

from aot.compression.in_tower.merging_schedules import block_counts
from aot.compression.in_tower.token_merging import MergingTokens
from aot.compression.methods import build_method
from aot.config.schema import Config
from aot.errors import ConfigError
from aot.models.families.llava import Llava
from aot.models.vision.merging_tower import _attend, _run_block, blocks_before_features, run_merging_tower
from aot.types import BlockMerging, Needs, VisualTokens
from tests.support.merging_oracle import Array, Token, straight_line_merge
from tests.support.model_inputs import frames_for, variant

SIDE, PATCH, WIDTH, HEADS, BLOCKS = 4, 3, 16, 2, 4
PLANS = {
    "in every block": (3, [BlockMerging(after=m, by_similarity=True) for m in (5, 4, 3, 2)]),
    "in every block, sorted": (3, [BlockMerging(after=m) for m in (5, 4, 3, 2)]),
    "more than half at once": (2, [BlockMerging(), BlockMerging(after=13), BlockMerging(), BlockMerging(after=2)]),
    "across frames": (4, [BlockMerging(1, 0, 3), BlockMerging(2, 9, 2), BlockMerging(), BlockMerging(2, 11, 4)]),
    "two clips": (6, [BlockMerging(1, 0, 6), BlockMerging(3, 10, 3), BlockMerging(1, 2, 0), BlockMerging(1, 5, 0)]),
}


@pytest.fixture(scope="module")
def tower() -> Any:
    """A random SigLIP in float64 whose attention picks favorites."""
    config = SiglipVisionConfig(
        hidden_size=WIDTH, intermediate_size=24, num_hidden_layers=BLOCKS, num_attention_heads=HEADS,
        image_size=SIDE * PATCH, patch_size=PATCH, vision_use_head=False,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = SiglipVisionModel(config)
        for name, weight in model.named_parameters():
            gain = 2.0 if "q_proj" in name or "k_proj" in name else 1.0
            scale = gain / math.sqrt(weight[0].numel()) if weight.dim() > 1 else 0.2
            torch.nn.init.normal_(weight, mean=float("norm" in name and "weight" in name), std=scale)
    return model.double().eval()


def pixels(frames: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    scene = torch.randn(3, SIDE * PATCH, SIDE * PATCH, generator=generator, dtype=torch.float64)
    noise = torch.randn(frames, *scene.shape, generator=generator, dtype=torch.float64)
    return scene + 0.5 * noise


# --- Without merges


def test_merging_nothing_is_the_stock_tower(tower: Any) -> None:
    with torch.inference_mode():
        stock = tower(pixels(3), output_hidden_states=True).hidden_states
        for blocks in range(BLOCKS + 1):
            found = run_merging_tower(tower, pixels(3), [BlockMerging()] * blocks)
            assert torch.allclose(found.states, stock[blocks], atol=1e-12)
            assert found.are_patches


def test_features_are_the_stock_models_when_nothing_merges(small_model: Llava) -> None:
    frames = frames_for(small_model, 5)
    network = small_model.network
    with torch.inference_mode():
        plan = [BlockMerging()] * blocks_before_features(network.config)
        found = run_merging_tower(network.model.vision_tower, small_model.normalize(frames.pixels), plan).states
        features = network.model.multi_modal_projector(found)
    assert torch.allclose(features, small_model.encode(frames, Needs()).features, atol=1e-5)


# --- With merges


def straight_line(tower: Any, images: Array, plan: Sequence[BlockMerging]) -> list[list[Token]]:
    """Clips of tokens, one token at a time, in float64."""
    weights = {name: value.numpy() for name, value in tower.state_dict().items()}

    def linear(name: str, x: Array) -> Array:
        return weights[f"{name}.weight"] @ x + weights[f"{name}.bias"]

    def norm(name: str, x: Array) -> Array:
        centerd = x - x.mean()
        return centerd / np.sqrt((centerd**2).mean() + 1e-6) * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    clips = []
    kernel, bias = weights["embeddings.patch_embedding.weight"], weights["embeddings.patch_embedding.bias"]
    for frame, image in enumerate(images):
        tokens = []
        for patch in range(SIDE**2):
            r, c = (PATCH * index for index in divmod(patch, SIDE))
            embedded = (kernel * image[None, :, r : r + PATCH, c : c + PATCH]).sum((1, 2, 3)) + bias
            embedded = embedded + weights["embeddings.position_embedding.weight"][patch]
            tokens.append(Token(embedded, [frame * SIDE**2 + patch], frame * SIDE**2 + patch))
        clips.append(tokens)
    for number, step in enumerate(plan):
        name = f"encoder.layers.{number}"
        clips = [list(chain(*clips[k : k + step.join])) for k in range(0, len(clips), step.join)]
        for index, clip in enumerate(clips):
            tokens = straight_line_merge(clip, [token.state for token in clip], step.before)
            normed = [norm(f"{name}.layer_norm1", token.state) for token in tokens]
            q, k, v = ([linear(f"{name}.self_attn.{p}_proj", x) for x in normed] for p in "qkv")
            d = WIDTH // HEADS
            attended = []
            for t in range(len(tokens)):
                heads = []
                for h in range(0, WIDTH, d):
                    scores = [q[t][h : h + d] @ k[u][h : h + d] / math.sqrt(d) for u in range(len(tokens))]
                    mass = np.array([token.size * math.exp(s) for token, s in zip(tokens, scores, strict=True)])
                    heads.append(sum(m * v[u][h : h + d] for u, m in enumerate(mass / mass.sum())))
                attended.append(linear(f"{name}.self_attn.out_proj", np.concatenate(heads)))
            tokens = [Token(t.state + a, t.patches, t.anchor) for t, a in zip(tokens, attended, strict=True)]
            keys = [np.mean([x[h : h + d] for h in range(0, WIDTH, d)], axis=0) for x in k]
            tokens = straight_line_merge(tokens, keys, step.after, step.by_similarity)
            for token in tokens:
                x = linear(f"{name}.mlp.fc1", norm(f"{name}.layer_norm2", token.state))
                x = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
                token.state = token.state + linear(f"{name}.mlp.fc2", x)
            clips[index] = tokens
    return clips


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", PLANS)
def test_the_tower_is_the_straight_line_program(tower: Any, name: str, seed: int) -> None:
    frames, plan = PLANS[name]
    with torch.inference_mode():
        found = run_merging_tower(tower, pixels(frames, seed), plan)
    expected = straight_line(tower, pixels(frames, seed).numpy(), plan)
    assert found.states.shape[:2] == (len(expected), len(expected[0]))
    assert len(expected) * len(expected[0]) == block_counts(plan, frames, SIDE**2)[-1]
    first = 0
    for clip, tokens in enumerate(expected):
        patches = sum(token.size for token in tokens)
        assert np.allclose(found.states[clip], [token.state for token in tokens], atol=1e-9)
        assert found.sizes[clip].tolist() == [token.size for token in tokens]
        assert found.anchor[clip].tolist() == [token.anchor - first for token in tokens]
        for index, token in enumerate(tokens):
            assert (found.owner[clip] == index).nonzero()[:, 0].tolist() == sorted(p - first for p in token.patches)
        first += patches


def test_a_token_of_size_k_is_k_tokens_to_attention(tower: Any) -> None:
    generator = torch.Generator().manual_seed(3)
    states = torch.randn(1, 5, WIDTH, dtype=torch.float64, generator=generator)
    copies = torch.tensor([1, 4, 2, 1, 3])
    repeated = states.repeat_interleave(copies, dim=1)
    owner = torch.arange(5).repeat_interleave(copies)[None]
    merged = MergingTokens(states, copies[None].double(), owner, copies.cumsum(0)[None] - 1)
    attention = tower.encoder.layers[1].self_attn
    with torch.inference_mode():
        found, _ = _attend(attention, states, merged)
        expected = attention(repeated)[0]
        whole = _run_block(tower.encoder.layers[1], merged, BlockMerging()).states
        stock = tower.encoder.layers[1](repeated, None)
    assert torch.allclose(found.repeat_interleave(copies, dim=1), expected, atol=1e-12)
    assert torch.allclose(whole.repeat_interleave(copies, dim=1), stock, atol=1e-12)


def test_equal_patches_may_merge_and_nothing_changes(tower: Any) -> None:
    """A frame twice: the second merges into the first's tokens, which attend as before."""
    states = torch.randn(1, 6, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    twice = states.repeat_interleave(2, dim=1)
    block = tower.encoder.layers[0]
    with torch.inference_mode():
        found = _run_block(block, MergingTokens.of(twice), BlockMerging(before=6)).states
        assert torch.allclose(found, block(twice, None)[:, ::2], atol=1e-12)


# --- Encoding a video


def encoded(model: Llava, method: str, frames: int, ratio: float = 0.3, **changes: Any) -> VisualTokens:
    merging = build_method(Config(method=method, ratio=ratio)).needs
    return variant(model, **changes).encode(frames_for(model, frames), merging)


def assert_same(one: VisualTokens, other: VisualTokens) -> None:
    assert torch.allclose(one.features, other.features, atol=1e-5)
    assert one.merged is not None and other.merged is not None
    assert torch.equal(one.merged.owner, other.merged.owner)
    assert torch.equal(one.merged.anchor, other.merged.anchor)
    assert one.frame_embeddings is not None and other.frame_embeddings is not None
    assert torch.allclose(one.frame_embeddings, other.frame_embeddings, atol=1e-5)


@pytest.mark.parametrize("frames", [1, 5, 11, 13])
@pytest.mark.parametrize("method", ["tome", "tempme"])
def test_what_a_merged_video_says_of_itself(small_model: Llava, method: str, frames: int) -> None:
    tokens = encoded(small_model, method, frames)
    merged = tokens.merged
    assert merged is not None
    assert merged.owner.shape == (frames, 81)
    assert sorted(set(merged.owner.flatten().tolist())) == list(range(len(tokens.features)))
    own = merged.owner.flatten()[merged.anchor]
    assert torch.equal(own, torch.arange(len(own)))
    assert 0 < merged.tower_share < 1
    means = tokens.features[merged.owner].mean(1)
    assert torch.allclose(tokens.frame_embeddings, means, atol=1e-5)  # type: ignore[arg-type]


@pytest.mark.parametrize("batch", [1, 3, 64])
@pytest.mark.parametrize("method", ["tome", "tempme"])
def test_batches_change_nothing(small_model: Llava, method: str, batch: int) -> None:
    one = encoded(small_model, method, 27, encode_batch_frames=batch)
    assert_same(one, encoded(small_model, method, 27, encode_batch_frames=24))


@pytest.mark.parametrize(("method", "most", "told"), [("tome", 2, [8, 4, 2]), ("tempme", 12, [12])])
def test_batches_that_do_not_fit_are_halved(
    small_model: Llava, monkeypatch: pytest.MonkeyPatch, method: str, most: int, told: list[int]
) -> None:
    expected = encoded(small_model, method, 27)
    stock = small_model.normalize

    def starved(self: Llava, images: torch.Tensor) -> torch.Tensor:
        if len(images) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return stock(images)

    monkeypatch.setattr(Llava, "normalize", starved)
    found = encoded(small_model, method, 27, encode_batch_frames=24 if method == "tempme" else 16)
    assert_same(found, expected)
    assert len(found.notices) == len(told)
    assert all(f"with {size} frames" in notice for size, notice in zip(told, found.notices, strict=True))


def test_a_tower_that_merges_records_nothing_else(small_model: Llava) -> None:
    merging = build_method(Config(method="tome", ratio=0.3)).needs.merging
    with pytest.raises(ValueError, match="merging alone"):
        small_model.encode(frames_for(small_model, 1), Needs(saliency_layers=(-1,), merging=merging))


def test_needs_that_merge_differently_are_not_shared() -> None:
    needs = [build_method(Config(method="tome", ratio=ratio)).needs for ratio in (0.1, 0.1, 0.2)]
    assert Needs.union(needs[:2]) == needs[0]
    with pytest.raises(ValueError, match="one way of merging"):
        Needs.union(needs)
    with pytest.raises(ValueError, match="one way of merging"):
        Needs.union([Needs(), needs[0]])


@pytest.mark.parametrize("change", [{"vision_feature_layer": [-1, -2]}, {"vision_feature_select_strategy": "default"}])
def test_features_of_several_blocks_are_refused(small_model: Llava, change: dict[str, Any]) -> None:
    config = deepcopy(small_model.network.config)
    for name, value in change.items():
        setattr(config, name, value)
    with pytest.raises(ConfigError, match="merges after"):
        blocks_before_features(config)


def test_features_of_an_earlier_block(small_model: Llava) -> None:
    config = deepcopy(small_model.network.config)
    config.vision_feature_layer = -2
    assert blocks_before_features(config) == blocks_before_features(small_model.network.config) - 1
