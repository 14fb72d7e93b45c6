"""Run prefill layer by layer, while a reduction drops visual tokens inside or between layers.

The modules of a Qwen or Llama decoder are called one by one; nothing is patched. Afterwards the
caches of the layers may differ in length. Decoding still works: a single query attends to all keys
of its layer and needs no mask, and its position depends on the number of prompt rows, not on the
length of a cache.
"""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor
from transformers.masking_utils import create_causal_mask
from transformers.models.qwen2.modeling_qwen2 import apply_rotary_pos_emb

from aot.compression.contract import check_load, check_reduction
from aot.compression.in_llm import InnerReduction, LayerPoint, State
from aot.compression.in_llm.newlines import ended_lines
from aot.models.language.decoding import Prefilled
from aot.models.language.kv_cache import cache_argument
from aot.models.language.prompt import NEWLINE, TEXT, VideoPrompt
from aot.models.language.rotary import of_three_axes
from aot.models.language.slots import Slots, slot_cache
from aot.plugins import blamed
from aot.runtime.devices import input_device
from aot.runtime.memory import explained_memory

__all__ = ["attention_rows", "prefill", "read_on"]


@torch.inference_mode()
def prefill(language: Any, prompt: VideoPrompt, reduction: InnerReduction, room: int = 0) -> Prefilled:
    """Return the keys and values of a prompt from which `reduction` drops visual tokens.

    Args:
        language: a language model without its head that `check_decoder` accepts.
        prompt: the whole prompt.
        reduction: drops rows before or inside layers.
        room: the number of cache slots for the answer.

    Raises:
        BudgetError: If the reduction cannot keep as few tokens as asked.
        MethodError: If the reduction breaks its contract, or is a plug-in and fails.
    """
    # One decoder layer is: attention with its residual, then the MLP with its residual.
    run = _Run(language, prompt, reduction, room)
    for layer in range(len(language.layers)):
        run.enter(layer)
        run.reduce(LayerPoint(layer))
        run.attend(layer)
        run.reduce(LayerPoint(layer, after_attention=True))
        run.feed(layer)
    return run.result()


@torch.inference_mode()
def read_on(language: Any, cache: Any, embeddings: Tensor, positions: Tensor) -> Tensor:
    """Return the states [1, R, D] of R rows of text after a prompt that `prefill` read.

    Args:
        language: the language model without its head.
        cache: keys and values of the prompt; the rows are added to it.
        embeddings: [1, R, D].
        positions: [1, R] or [3, 1, R].
    """
    hidden, rotary = embeddings, language.rotary_emb(embeddings, positions)
    for layer, held in zip(language.layers, cache.layers, strict=True):
        device = input_device(layer)
        hidden, rotary = hidden.to(device), tuple(values.to(device) for values in rotary)
        # Layers hold different numbers of rows, so each has its own mask.
        own = copy.copy(cache)
        own.layers = [held]
        mask = create_causal_mask(
            config=language.config,
            inputs_embeds=hidden,
            attention_mask=None,
            **cache_argument(create_causal_mask, own),
        )
        hidden = _attend(layer, hidden, rotary, mask, cache)
        hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
    states: Tensor = language.norm(hidden)
    return states


def _attend(layer: Any, hidden: Tensor, rotary: Any, mask: Any, cache: Any) -> Tensor:
    """Run the first half of a layer: attention with its residual."""
    attended, _ = layer.self_attn(
        hidden_states=layer.input_layernorm(hidden),
        position_embeddings=rotary,
        attention_mask=mask,
        **cache_argument(type(layer.self_attn).forward, cache),
    )
    return hidden + attended  # type: ignore[no-any-return]


def attention_rows(
    layer: Any, hidden: Tensor, rows: Tensor, rotary: tuple[Tensor, Tensor] | None, *, causal: bool = True
) -> Tensor:
    """Return the attention [H, R, T] that the R `rows` of a layer's input pay to all T rows.

    The softmax is in float32. Only the attention of these R rows is computed, not all of [T, T].

    Args:
        layer: a decoder layer.
        hidden: [1, T, D], the input of `layer`.
        rows: [R], indices of the rows.
        rotary: cosines and sines [1, T, d] or [3, 1, T, d] from the model's rotary module; None
            ignores positions.
        causal: whether later rows are masked.
    """
    # 1. Queries of the rows and keys of all rows, with the layer's own weights.
    module = layer.self_attn
    normed = layer.input_layernorm(hidden)
    queries = module.q_proj(normed[:, rows]).unflatten(-1, (-1, module.head_dim))
    keys = module.k_proj(normed).unflatten(-1, (-1, module.head_dim))
    if hasattr(module, "q_norm"):  # Qwen3
        queries, keys = module.q_norm(queries), module.k_norm(keys)
    queries, keys = queries.transpose(1, 2), keys.transpose(1, 2)
    # 2. Rotation. The function rotates two tensors; the second is not needed.
    if rotary is not None:
        whole = of_three_axes(rotary, module.config) if rotary[0].ndim == 4 else rotary
        queries, _ = apply_rotary_pos_emb(queries, queries, *(values[:, rows] for values in whole))
        keys, _ = apply_rotary_pos_emb(keys, keys, *whole)
    # 3. Scores, in which query heads that share a key head are grouped, and softmax.
    grouped = queries[0].float().unflatten(0, (keys.shape[1], -1))
    logits = (grouped @ keys[0].float().mT[:, None] * module.scaling).flatten(0, 1)
    if causal:
        later = torch.arange(hidden.shape[1], device=hidden.device) > rows[:, None]
        logits = logits.masked_fill(later, float("-inf"))
    attention: Tensor = logits.softmax(-1)
    return attention


class _Run:
    """Hold the state of one prompt between the layers during prefill."""

    def __init__(self, language: Any, prompt: VideoPrompt, reduction: InnerReduction, room: int) -> None:
        self._language, self._prompt, self._reduction = language, prompt, reduction
        self._hidden = prompt.embeddings
        self._room = room
        # 1. For each remaining row: its index in the whole prompt, and its position ids.
        self._index = torch.arange(self._hidden.shape[1], device=self._hidden.device)
        self._positions = self._index[None] if prompt.positions is None else prompt.positions  # [1 or 3, ..., rows]
        # 2. For each row of the whole prompt: the kept token, or the line that a newline ends.
        self._token = prompt.token
        newline = (prompt.token == NEWLINE).nonzero()[:, 0]
        self._ends_video = len(newline) < 2
        self._line = torch.full_like(prompt.token, -1)
        self._line[newline] = ended_lines(prompt.token, newline, prompt.tokens)
        # 3. For each layer: keys and values, the indices of the rows in attention, and the indices
        # that the cache keeps if these are fewer.
        self._cache = slot_cache(language.config, room)
        self._held: list[Tensor] = []
        self._remembered: list[Tensor | None] = []
        self._attended: Tensor | None = None  # the input of the layer that attended last
        with blamed(reduction, "inner"):
            self._points: Collection[LayerPoint] = reduction.points(len(language.layers))
        self._notes: tuple[float, ...] = ()
        self._arrange()

    def _arrange(self) -> None:
        """Compute rotary embeddings and mask of the rows; layers share both until a reduction."""
        self._rotary = self._language.rotary_emb(self._hidden, self._positions)
        self._mask = create_causal_mask(
            config=self._language.config,
            inputs_embeds=self._hidden,
            attention_mask=None,
            **cache_argument(create_causal_mask, None),
        )

    def enter(self, number: int) -> None:
        """Move the rows to the device of layer `number`, if the previous layer is elsewhere."""
        device = input_device(self._language.layers[number])
        if device != self._hidden.device:
            self._hidden, self._index = self._hidden.to(device), self._index.to(device)
            self._positions, self._token = self._positions.to(device), self._token.to(device)
            self._arrange()

    def attend(self, number: int) -> None:
        """Run the first half of a layer: attention."""
        self._attended = self._hidden
        layer = self._language.layers[number]
        self._hidden = _attend(layer, self._hidden, self._rotary, self._mask, self._cache)
        self._held.append(self._index)
        self._remembered.append(None)

    def feed(self, number: int) -> None:
        """Run the second half of a layer: the MLP."""
        layer = self._language.layers[number]
        self._hidden = self._hidden + layer.mlp(layer.post_attention_layernorm(self._hidden))
        # Qwen3-VL adds features of the vision tower to the visual rows after its first layers.
        deepstack = self._prompt.tokens.deepstack
        if deepstack is not None and number < len(deepstack):
            token = self._token[self._index]
            added = deepstack[number].to(self._hidden.device, self._hidden.dtype)[token[token >= 0]]
            self._hidden[:, token >= 0] += added

    def reduce(self, point: LayerPoint) -> None:
        """Let the reduction drop rows if it acts at `point`, and check the result."""
        if point not in self._points:
            return
        # 1. Ask the reduction.
        state = self._state(point)
        with blamed(self._reduction, "inner"), explained_memory():
            found = self._reduction.reduce(state)
        check_reduction(self._reduction, found, state)
        self._notes = found.notes
        if found.done:
            self._points = ()
        # 2. Drop the rows.
        kept = torch.ones(len(self._index), dtype=torch.bool, device=self._index.device)
        kept[found.dropped] = False
        hidden = self._hidden if found.hidden is None else found.hidden
        self._hidden, self._index, self._attended = hidden[:, kept], self._index[kept], None
        self._positions = self._positions[..., kept]
        # 3. Close gaps between positions; attention depends on differences of positions only. The
        # last row keeps its position, so decoding continues from one position in all layers.
        if found.packed:
            end = int(self._positions[..., -1].max()) + 1
            packed = torch.arange(end - len(self._index), end, device=self._index.device)
            self._positions = packed.expand_as(self._positions)
        # 4. If asked, cut earlier layers to the same rows; this happens after the last layer.
        if found.forgotten:
            self._remembered = [self._index.to(held.device) for held in self._held]
        self._arrange()

    def _state(self, point: LayerPoint) -> State:
        """Return the input of the reduction at `point`."""
        token = self._token[self._index]
        visual = (token >= 0).nonzero()[:, 0]
        newline = (token == NEWLINE).nonzero()[:, 0]

        def attention(rows: Tensor, *, upcoming: bool = False, rotary: bool = True, causal: bool = True) -> Tensor:
            # With `upcoming` the layer of `point` attends, else the last layer, to its own input.
            number, hidden = (point.layer, self._hidden) if upcoming else (len(self._held) - 1, self._attended)
            if hidden is None:
                raise ValueError("attention: expected a layer that has attended since the last reduction, got none")
            layer = self._language.layers[number]
            device = input_device(layer)
            rotations = tuple(values.to(device) for values in self._rotary) if rotary else None
            found = attention_rows(layer, hidden.to(device), rows.to(device), rotations, causal=causal)
            return found.to(self._hidden.device)

        return State(
            layer=point.layer,
            layers=len(self._language.layers),
            hidden=self._hidden,
            visual=visual,
            token=token[visual],
            newline=newline,
            line=self._line.to(self._index.device)[self._index[newline]],
            ends_video=self._ends_video,
            question=((token == TEXT) & (self._index >= self._prompt.video_end)).nonzero()[:, 0],
            tokens=self._prompt.tokens,
            attention=attention,
            notes=self._notes,
        )

    def result(self) -> Prefilled:
        """Return caches without forgotten rows and the last row's states; check the load."""
        for number, remembered in enumerate(self._remembered):
            if remembered is not None:
                self._forget(number, remembered)
        counts = [int((self._token[held.to(self._token.device)] >= 0).sum()) for held in self._held]
        # A reduction may drop a newline and keep a visual token instead, so newlines count too.
        check_load(self._reduction, tuple(counts), int((self._prompt.token != TEXT).sum()))
        return Prefilled(self._cache, self._language.norm(self._hidden[:, -1]), tuple(counts))

    def _forget(self, number: int, remembered: Tensor) -> None:
        """Cut the cache of a layer to the rows whose indices are in `remembered`."""
        layer, rows = self._cache.layers[number], torch.isin(self._held[number], remembered).nonzero()[:, 0]
        keys, values = (states[..., : layer.held, :] for states in (layer.keys, layer.values))
        self._cache.layers[number] = Slots.of(keys[..., rows, :], values[..., rows, :], self._room)
