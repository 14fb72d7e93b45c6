"""Reading a prompt with fewer and fewer visual tokens: a Qwen or Llama decoder's own modules, layer by layer.

Composed, never patched. The layers' caches then differ in length, which is no obstacle to decoding: a single query sees
all keys of its layer, so it needs no mask, and its position is how many tokens were read, not how many are held.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer
from transformers.masking_utils import create_causal_mask
from transformers.models.qwen2.modeling_qwen2 import apply_rotary_pos_emb

from aot.contract import check_load, check_reduction
from aot.errors import UnsupportedError
from aot.inner import InnerReduction, Place, State
from aot.inner.newlines import ended_lines
from aot.memory import explained_memory
from aot.models.devices import input_device
from aot.models.kv_cache import cache_argument
from aot.models.prompt import NEWLINE, TEXT, VideoPrompt
from aot.registry import blamed

__all__ = ["Prefilled", "attention_rows", "check_decoder", "of_three_axes", "prefill"]

# Decoders whose layers are made of the parts used here, by the `model_type` of their configuration.
_DECODERS = {"llama", "qwen2", "qwen2_5_vl_text", "qwen3", "qwen3_moe", "qwen3_vl_text", "qwen3_vl_moe_text"}


@dataclass(frozen=True, slots=True)
class Prefilled:
    """A prompt that was read, but for its last token, which `generate` reads again to begin with the answer.

    layer_tokens: how many visual tokens were in each layer's attention.
    """

    cache: Any
    layer_tokens: tuple[int, ...]


def check_decoder(language: Any) -> None:
    """
    Raises:
        UnsupportedError: `prefill` would compute something else than this language model does.
    """
    kind, layers = language.config.model_type, set(getattr(language.config, "layer_types", None) or ())
    if kind in _DECODERS and not layers - {"full_attention"}:
        return
    what = f"{kind} with {', '.join(sorted(layers))}" if kind in _DECODERS else kind
    raise UnsupportedError(
        f"reductions inside the language model work with Llama and Qwen decoders that attend to all tokens, and this "
        f"one is {what}; leave out --inner"
    )


@torch.inference_mode()
def prefill(language: Any, prompt: VideoPrompt, reduction: InnerReduction) -> Prefilled:
    """Read the prompt with a model `language` (without its head) that `check_decoder` takes.

    Raises:
        BudgetError: the reduction cannot come down to what is asked.
        MethodError: the reduction does something other than it promises, or is a plug-in and fails.
    """
    run = _Run(language, prompt, reduction)
    for layer in range(len(language.layers)):
        run.enter(layer)
        run.reduce(Place(layer))
        run.attend(layer)
        run.reduce(Place(layer, after_attention=True))
        run.feed(layer)
    return run.result()


def attention_rows(
    layer: Any, hidden: Tensor, rows: Tensor, rotary: tuple[Tensor, Tensor] | None, *, causal: bool = True
) -> Tensor:
    """Attention [H, R, T] that the rows [R] of a decoder layer's input [1, T, D] pay, softmax in float32.

    rotary: cosines and sines [1, T, d] of the positions, as the model's own module gives them; None leaves positions
    out. Each row costs T * D, no more.
    """
    module = layer.self_attn
    normed = layer.input_layernorm(hidden)
    queries = module.q_proj(normed[:, rows]).unflatten(-1, (-1, module.head_dim))
    keys = module.k_proj(normed).unflatten(-1, (-1, module.head_dim))
    if hasattr(module, "q_norm"):  # Qwen3
        queries, keys = module.q_norm(queries), module.k_norm(keys)
    queries, keys = queries.transpose(1, 2), keys.transpose(1, 2)
    if rotary is not None:
        whole = of_three_axes(rotary, module.config) if rotary[0].ndim == 4 else rotary
        queries, _ = apply_rotary_pos_emb(queries, queries, *(values[:, rows] for values in whole))
        keys, _ = apply_rotary_pos_emb(keys, keys, *whole)
    grouped = queries[0].float().unflatten(0, (keys.shape[1], -1))  # heads that share a key head
    logits = (grouped @ keys[0].float().mT[:, None] * module.scaling).flatten(0, 1)
    if causal:
        behind = torch.arange(hidden.shape[1], device=hidden.device) > rows[:, None]
        logits = logits.masked_fill(behind, float("-inf"))
    attention: Tensor = logits.softmax(-1)
    return attention


def of_three_axes(rotary: tuple[Tensor, Tensor], config: Any) -> list[Tensor]:
    """From [3, 1, T, d], of time, height and width, to [1, T, d]: transformers 5.16 leaves that to the attention of
    Qwen2.5-VL.
    """
    sections = 2 * list(config.rope_parameters["mrope_section"])
    split = [torch.split(values, sections, -1) for values in rotary]
    return [torch.cat([part[number % 3] for number, part in enumerate(parts)], -1) for parts in split]


class _Run:
    """One prompt on its way through the layers."""

    def __init__(self, language: Any, prompt: VideoPrompt, reduction: InnerReduction) -> None:
        self._language, self._prompt, self._reduction = language, prompt, reduction
        self._hidden = prompt.embeddings
        self._length = prompt.embeddings.shape[1]
        self._place = torch.arange(self._length, device=self._hidden.device)  # of every row, in the whole prompt
        self._token = prompt.token
        newline = (prompt.token == NEWLINE).nonzero()[:, 0]
        self._line = torch.full_like(prompt.token, -1)  # of every row that is a newline which ends one
        self._line[newline] = ended_lines(prompt.token, newline, prompt.tokens)
        self._positions = self._place[None] if prompt.positions is None else prompt.positions  # [1 or 3, ..., rows]
        self._cache = DynamicCache()
        self._held: list[Tensor] = []  # the places that each layer has attended to
        self._remembered: list[Tensor | None] = []  # those of them that it keeps, where they are fewer
        self._attended: Tensor | None = None  # the input of the layer that attended last
        with blamed(reduction, "inner"):
            self._places: Collection[Place] = reduction.places(len(language.layers))
        self._notes: tuple[float, ...] = ()
        self._arrange()

    def _arrange(self) -> None:
        """What depends on the rows there are, the same for all layers until the next reduction."""
        self._rotary = self._language.rotary_emb(self._hidden, self._positions)
        self._mask = create_causal_mask(
            config=self._language.config,
            inputs_embeds=self._hidden,
            attention_mask=None,
            **cache_argument(create_causal_mask, None),
        )

    def enter(self, number: int) -> None:
        """Go on where the layer computes; its weights may be on another device than those of the one before."""
        device = input_device(self._language.layers[number])
        if device != self._hidden.device:
            self._hidden, self._place = self._hidden.to(device), self._place.to(device)
            self._positions, self._token = self._positions.to(device), self._token.to(device)
            self._arrange()

    def attend(self, number: int) -> None:
        layer = self._language.layers[number]
        attended, _ = layer.self_attn(
            hidden_states=layer.input_layernorm(self._hidden),
            position_embeddings=self._rotary,
            attention_mask=self._mask,
            **cache_argument(type(layer.self_attn).forward, self._cache),
        )
        self._attended = self._hidden
        self._hidden = self._hidden + attended
        self._held.append(self._place)
        self._remembered.append(None)

    def feed(self, number: int) -> None:
        layer = self._language.layers[number]
        self._hidden = self._hidden + layer.mlp(layer.post_attention_layernorm(self._hidden))
        deepstack = self._prompt.tokens.deepstack
        if deepstack is not None and number < len(deepstack):
            token = self._token[self._place]
            added = deepstack[number].to(self._hidden.device, self._hidden.dtype)[token[token >= 0]]
            self._hidden[:, token >= 0] += added

    def reduce(self, place: Place) -> None:
        if place not in self._places:
            return
        state = self._state(place)
        with blamed(self._reduction, "inner"), explained_memory():
            found = self._reduction.reduce(state)
        check_reduction(self._reduction, found, state)
        self._notes = found.notes
        if found.done:
            self._places = ()
        kept = torch.ones(len(self._place), dtype=torch.bool, device=self._place.device)
        kept[found.dropped] = False
        hidden = self._hidden if found.hidden is None else found.hidden
        self._hidden, self._place, self._attended = hidden[:, kept], self._place[kept], None
        self._positions = self._positions[..., kept]
        if found.packed:
            # Only differences of positions matter, so a sequence without gaps may end where the whole one does, and
            # decoding goes on from there in all layers.
            end = int(self._positions[..., -1].max()) + 1
            packed = torch.arange(end - len(self._place), end, device=self._place.device)
            self._positions = packed.expand_as(self._positions)
        if found.forgotten:
            self._remembered = [self._place.to(held.device) for held in self._held]
        self._arrange()

    def _state(self, place: Place) -> State:
        token = self._token[self._place]
        visual = (token >= 0).nonzero()[:, 0]
        newline = (token == NEWLINE).nonzero()[:, 0]

        def attention(rows: Tensor, *, upcoming: bool = False, rotary: bool = True, causal: bool = True) -> Tensor:
            number, hidden = (place.layer, self._hidden) if upcoming else (len(self._held) - 1, self._attended)
            if hidden is None:
                raise ValueError("attention: expected a layer that has attended since the last reduction, got none")
            layer = self._language.layers[number]
            device = input_device(layer)
            turns = tuple(values.to(device) for values in self._rotary) if rotary else None
            found = attention_rows(layer, hidden.to(device), rows.to(device), turns, causal=causal)
            return found.to(self._hidden.device)

        return State(
            layer=place.layer,
            layers=len(self._language.layers),
            hidden=self._hidden,
            visual=visual,
            token=token[visual],
            newline=newline,
            line=self._line.to(self._place.device)[self._place[newline]],
            question=((token == TEXT) & (self._place >= self._prompt.video_end)).nonzero()[:, 0],
            tokens=self._prompt.tokens,
            attention=attention,
            notes=self._notes,
        )

    def result(self) -> Prefilled:
        self._cache.layers = [
            _ThinnedLayer.of(layer, held, remembered, self._length)
            for layer, held, remembered in zip(self._cache.layers, self._held, self._remembered, strict=True)
        ]
        counts = [int((self._token[held.to(self._token.device)] >= 0).sum()) for held in self._held]
        # Newlines may count among what a reduction drops, so that it may keep a visual token in place of one.
        check_load(self._reduction, tuple(counts), int((self._prompt.token != TEXT).sum()))
        return Prefilled(self._cache, tuple(counts))


class _ThinnedLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values of the prompt without its last token; their length counts those that were dropped, since
    positions go on from it. Once the last token has attended, only those `remembered` are kept.
    """

    dropped: int
    remembered: Tensor | None

    @classmethod
    def of(cls, layer: Any, held: Tensor, remembered: Tensor | None, length: int) -> _ThinnedLayer:
        """From a layer that has seen the places `held` of a prompt, and is to keep those `remembered` (None: all)."""
        thinned = cls()
        thinned.lazy_initialization(layer.keys, layer.values)
        thinned.keys, thinned.values = layer.keys[..., :-1, :], layer.values[..., :-1, :]
        thinned.dropped = length - len(held)
        thinned.remembered = None if remembered is None else torch.isin(held, remembered).nonzero()[:, 0]
        return thinned

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        keys, values = super().update(key_states, value_states, *args, **kwargs)
        if self.remembered is not None:
            self.dropped += keys.shape[-2] - len(self.remembered)
            self.keys, self.values = keys[..., self.remembered, :], values[..., self.remembered, :]
            self.remembered = None
        return keys, values

    def get_seq_length(self) -> int:
        return int(super().get_seq_length()) + self.dropped
