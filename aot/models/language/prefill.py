"""Reading a prompt with fewer and fewer visual tokens: a Qwen or Llama decoder's own modules, layer by layer.

Composed, never patched. The layers' caches then differ in length, which is no obstacle to decoding: a single query sees
all keys of its layer, so it needs no mask, and its position is how many tokens were read, not how many are held.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor
from transformers.masking_utils import create_causal_mask
from transformers.models.qwen2.modeling_qwen2 import apply_rotary_pos_emb

from aot.compression.contract import check_load, check_reduction
from aot.compression.in_llm import InnerReduction, Place, State
from aot.compression.in_llm.newlines import ended_lines
from aot.models.language.decoding import Prefilled
from aot.models.language.kv_cache import cache_argument
from aot.models.language.prompt import NEWLINE, TEXT, VideoPrompt
from aot.models.language.rotary import of_three_axes
from aot.models.language.slots import Slots, slot_cache
from aot.plugins import blamed
from aot.runtime.devices import input_device
from aot.runtime.memory import explained_memory

__all__ = ["attention_rows", "prefill"]


@torch.inference_mode()
def prefill(language: Any, prompt: VideoPrompt, reduction: InnerReduction, room: int = 0) -> Prefilled:
    """Read the prompt with a model `language` (without its head) that `check_decoder` takes, with `room` in the cache
    for what is written.

    Raises:
        BudgetError: the reduction cannot come down to what is asked.
        MethodError: the reduction does something other than it promises, or is a plug-in and fails.
    """
    run = _Run(language, prompt, reduction, room)
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


class _Run:
    """One prompt on its way through the layers."""

    def __init__(self, language: Any, prompt: VideoPrompt, reduction: InnerReduction, room: int) -> None:
        self._language, self._prompt, self._reduction = language, prompt, reduction
        self._hidden = prompt.embeddings
        self._room = room
        self._place = torch.arange(
            self._hidden.shape[1], device=self._hidden.device
        )  # of every row, in the whole prompt
        self._token = prompt.token
        newline = (prompt.token == NEWLINE).nonzero()[:, 0]
        self._line = torch.full_like(prompt.token, -1)  # of every row that is a newline which ends one
        self._line[newline] = ended_lines(prompt.token, newline, prompt.tokens)
        self._positions = self._place[None] if prompt.positions is None else prompt.positions  # [1 or 3, ..., rows]
        self._cache = slot_cache(language.config, room)
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
        for number, remembered in enumerate(self._remembered):
            if remembered is not None:
                self._forget(number, remembered)
        counts = [int((self._token[held.to(self._token.device)] >= 0).sum()) for held in self._held]
        # Newlines may count among what a reduction drops, so that it may keep a visual token in place of one.
        check_load(self._reduction, tuple(counts), int((self._prompt.token != TEXT).sum()))
        return Prefilled(self._cache, self._language.norm(self._hidden[:, -1]), tuple(counts))

    def _forget(self, number: int, remembered: Tensor) -> None:
        """Keep of what a layer has attended to only the places `remembered`."""
        layer, rows = self._cache.layers[number], torch.isin(self._held[number], remembered).nonzero()[:, 0]
        keys, values = (states[..., : layer.held, :] for states in (layer.keys, layer.values))
        self._cache.layers[number] = Slots.of(keys[..., rows, :], values[..., rows, :], self._room)
