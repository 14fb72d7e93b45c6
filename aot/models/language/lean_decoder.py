"""Run one token of each sequence, or a prompt, with the model's weights but fewer operations.

Joined projections become one product. For a single token, queries that share a key head become rows
of one product, and rotary embeddings are computed for many steps in advance. A prompt is run so on
CUDA, where the host takes longer to launch the operations of the modules than the device to run
them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from aot.models.language.decoders import is_plain_decoder
from aot.models.language.joined_projections import one_tensor
from aot.models.language.prompt_attention import causal_attention
from aot.models.language.rotary import Rotations, of_three_axes
from aot.models.language.slots import Slots

__all__ = ["LeanDecoder", "linear_of", "why_not_lean"]

# Whether `bmm` of this torch can return float32 for 16-bit inputs (never on ROCm).
_WIDE_SCORES = torch.version.cuda is not None and tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 8)


def why_not_lean(body: Any, cache: Any) -> str | None:
    """Return a clause that says why `LeanDecoder` cannot run `body` with `cache`, or None."""
    if not is_plain_decoder(body) or not all(isinstance(layer, Slots) for layer in cache.layers):
        return f"decoders of type {body.config.model_type} are not supported"
    # Hooks of accelerate run only if a module is called, and the lean decoder calls few modules.
    hooked = any("_hf_hook" in vars(part) for part in body.modules())
    if hooked or len({each.device for each in body.parameters()}) > 1:
        return "the model is spread over devices, or loaded onto one for each call"
    # These kinds change the frequencies of all positions as the text grows.
    kind = str(getattr(body.rotary_emb, "rope_type", "default"))
    if "dynamic" in kind or kind == "longrope":
        return f"rotary positions of kind {kind} depend on the length of the text"
    return None


class LeanDecoder:
    """A faster way to call a language model (without its head) if `why_not_lean` returns None."""

    def __init__(self, body: Any) -> None:
        self._layers = [_Layer(layer) for layer in body.layers]
        self._rotary, self._config, self._norm = body.rotary_emb, body.config, _norm(body.norm)

    def rotations(self, position: Tensor, like: Tensor, count: int) -> Rotations:
        """Return rotary embeddings of `count` positions from `position` on, in the dtype of `like`.

        `position` is [B, 1], or [3, B, 1] in time, height and width.
        """
        positions = position + torch.arange(count, device=position.device)
        rotary = self._rotary(like, positions)
        return Rotations.of(*(of_three_axes(rotary, self._config) if rotary[0].ndim == 4 else rotary))

    def __call__(
        self, states: Tensor, rotations: Rotations, layers: Sequence[Slots], masks: Sequence[Tensor | None]
    ) -> Tensor:
        """Return the normalized states [B, D] after the last layer.

        Args:
            states: [B, D], the embedding of one token of each sequence.
            rotations: the rotary embeddings of the positions of these tokens.
            layers: the slots of each layer, to which one row is added.
            masks: for each layer, None or a mask [B, 1, 1, L]: bool, or float32 that is added to
                the scores.
        """
        for layer, slots, mask in zip(self._layers, layers, masks, strict=True):
            states = layer(states, rotations, slots, mask)
        return self._norm(states)

    def read(self, rows: Tensor, positions: Tensor, layers: Sequence[Slots]) -> Tensor:
        """Run prefill of one sequence; return the normalized states [1, D] of its last row.

        Args:
            rows: [T, D], the embeddings of the prompt.
            positions: [1, T], or [3, 1, T] in time, height and width.
            layers: the slots of each layer, empty; T rows are added.
        """
        rotary = self._rotary(rows, positions)
        rotary = of_three_axes(rotary, self._config) if rotary[0].ndim == 4 else rotary
        # Each row is a sequence of one token for every operation but attention.
        rotations = Rotations.of(*(values[0].unsqueeze(1) for values in rotary))
        for layer, slots in zip(self._layers, layers, strict=True):
            # Of the last layer, only the keys and values of earlier rows are needed.
            rows = layer.read(rows, rotations, slots, last_row=layer is self._layers[-1])
        return self._norm(rows)


class _Layer:
    """One decoder layer."""

    def __init__(self, layer: Any) -> None:
        attention = layer.self_attn
        self._width, self._scale = attention.head_dim, attention.scaling
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        self._project = _normed_product(layer.input_layernorm, projections) or _after(
            _norm(layer.input_layernorm), _together(*projections)
        )
        self._add_out = _added(attention.o_proj)
        self._norms = (_norm(attention.q_norm), _norm(attention.k_norm)) if hasattr(attention, "q_norm") else None
        self._groups = attention.num_key_value_groups
        self._add_mlp = _added_mlp(layer.post_attention_layernorm, layer.mlp)

    def __call__(self, states: Tensor, rotations: Rotations, slots: Slots, mask: Tensor | None) -> Tensor:
        return self._add_mlp(self._add_out(states, self._attend(states, rotations, slots, mask)))

    def read(self, rows: Tensor, rotations: Rotations, slots: Slots, *, last_row: bool) -> Tensor:
        """Return the states of all rows [T, D] of a prompt, or of its last row [1, D]."""
        queries, keys, values = (heads.transpose(0, 1)[None] for heads in self._heads(rows, rotations))
        slots.update(keys, values)
        attended = causal_attention(queries, keys, values, self._scale)[0].transpose(0, 1).flatten(1)
        if last_row:
            rows, attended = rows[-1:], attended[-1:]
        return self._add_mlp(self._add_out(rows, attended))

    def _heads(self, states: Tensor, rotations: Rotations) -> tuple[Tensor, Tensor, Tensor]:
        """Return rotated queries, rotated keys and values, [B, H, d] each, of states [B, D]."""
        # 1. Norm; queries, keys and values in one product; their heads follow each other.
        batch = len(states)
        heads = self._project(states).view(batch, -1, self._width)
        key_heads = heads.shape[1] // (self._groups + 2)
        both, values = heads.split_with_sizes((heads.shape[1] - key_heads, key_heads), 1)
        sizes = (both.shape[1] - key_heads, key_heads)
        # 2. Norms (Qwen3) and rotation; queries and keys are rotated together.
        if self._norms:
            both = torch.cat(
                [norm(part) for norm, part in zip(self._norms, both.split_with_sizes(sizes, 1), strict=True)], 1
            )
        queries, keys = rotations(both).split_with_sizes(sizes, 1)
        return queries, keys, values

    def _attend(self, states: Tensor, rotations: Rotations, slots: Slots, mask: Tensor | None) -> Tensor:
        queries, keys, values = self._heads(states, rotations)
        # The queries of one key head are rows of one product.
        batch, key_heads = keys.shape[:2]
        grouped = queries.view(batch, key_heads, -1, self._width)
        seen_keys, seen_values = slots.append(keys, values)
        if mask is None or mask.dtype == torch.bool:
            attended = functional.scaled_dot_product_attention(
                grouped, seen_keys, seen_values, attn_mask=mask, scale=self._scale
            )
        else:
            attended = _by_products(grouped, seen_keys, seen_values, mask, self._scale)
        return attended.reshape(batch, -1)


def _by_products(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scale: float) -> Tensor:
    """Return attention [B, H, G, d] of queries [B, H, G, d] over keys and values [B, H, L, d].

    Scores and softmax are in float32, or float64 for inputs in float64. `mask` [B, 1, 1, L] float32
    is added to the scores.
    """
    # `scaled_dot_product_attention` with a mask is slower (28 heads, 6336 keys on an H200: 134 us
    # instead of 28 us), and its first call takes up to a second in each process.
    pairs = (queries.flatten(0, 1), keys.flatten(0, 1).mT)
    widened = _WIDE_SCORES and queries.is_cuda and queries.element_size() == 2
    scores = torch.bmm(*pairs, out_dtype=torch.float32) if widened else torch.bmm(*pairs)
    scores = torch.add(mask, scores.view(*queries.shape[:3], -1), alpha=scale)
    weights = scores.softmax(-1).to(values.dtype)
    attended: Tensor = torch.bmm(weights.flatten(0, 1), values.flatten(0, 1)).view(queries.shape)
    return attended


_Function = Callable[[Tensor], Tensor]
_Addition = Callable[[Tensor, Tensor], Tensor]  # (states, input) -> states plus a function of the input


def linear_of(module: Any) -> _Function:
    """Return a function that applies a projection; quantized or hooked ones stay modules."""
    # A plain projection is called without the overhead of `nn.Module.__call__`.
    plain = type(module) is nn.Linear and not (module._forward_pre_hooks or module._forward_hooks)
    if not plain or "forward" in vars(module):  # accelerate replaces `forward`
        return module  # type: ignore[no-any-return]
    return partial(functional.linear, weight=module.weight, bias=module.bias)


def _together(*modules: Any) -> _Function:
    """Return a function that concatenates the outputs of several projections."""
    product = _one_product(modules)
    if product is not None:
        return product
    apart = [linear_of(module) for module in modules]
    return lambda states: torch.cat([each(states) for each in apart], -1)


def _one_product(modules: Sequence[Any]) -> partial[Tensor] | None:
    """Return a function that applies joined projections as one product; None if not joined."""
    if any(type(module) is not nn.Linear for module in modules):
        return None
    biased = any(module.bias is not None for module in modules)
    weight = one_tensor([module.weight for module in modules])
    bias = one_tensor([module.bias for module in modules]) if biased else None
    if weight is None or (biased and bias is None):
        return None
    return partial(functional.linear, weight=weight, bias=bias)


def _after(first: _Function, second: _Function) -> _Function:
    return lambda states: second(first(states))


def _is_small(module: Any) -> bool:
    """Return whether a plain projection in float32 on a CPU, where each operation costs time."""
    return type(module) is nn.Linear and module.weight.device.type == "cpu" and module.weight.dtype == torch.float32


def _normed_product(norm: Any, modules: Sequence[Any]) -> _Function | None:
    """Return a function that applies an RMS norm and joined projections; None if not possible.

    For one row, the norm's divisor is a number, which the product multiplies into its result.
    """
    joined = _one_product(modules) if all(map(_is_small, modules)) else None
    if joined is None:
        return None
    several, weight, bias = _after(_norm(norm), joined), joined.keywords["weight"].t(), joined.keywords["bias"]
    factors, eps, width = norm.weight.detach(), norm.variance_epsilon, len(norm.weight)
    # Without a bias, the product ignores the tensor to which it would be added.
    onto, beta = (weight.new_zeros(1), 0) if bias is None else (bias, 1)

    def product(states: Tensor) -> Tensor:
        if len(states) > 1:
            return several(states)
        row = states.view(-1)
        divided = (torch.dot(row, row).item() / width + eps) ** -0.5
        return torch.addmm(onto, states * factors, weight, beta=beta, alpha=divided)

    return product


def _added(module: Any) -> _Addition:
    """Return a function that adds a projection of its second argument to the first."""
    if _is_small(module) and module.bias is None:
        weight = module.weight.detach().t()
        return lambda states, given: torch.addmm(states, given, weight)
    linear = linear_of(module)
    return lambda states, given: states + linear(given)


def _norm(module: Any) -> _Function:
    """Return a function that applies an RMS norm."""
    weight, eps = module.weight, module.variance_epsilon
    if weight.is_cuda:
        return partial(functional.rms_norm, normalized_shape=weight.shape, weight=weight, eps=eps)
    # Off CUDA: few operations, with sqrt(D) multiplied into the weights in advance.
    root = len(weight) ** 0.5
    least, factors = torch.tensor(root * eps**0.5, device=weight.device), weight.float() * root

    def normed(states: Tensor) -> Tensor:
        """Divide by sqrt(mean(x^2) + eps) = hypot(|x|, sqrt(D eps)) / sqrt(D)."""
        wide = states.float()
        length: Tensor = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        scaled: Tensor = wide / torch.hypot(length, least) * factors
        return scaled.to(states.dtype)

    return normed


def _added_mlp(norm: Any, module: Any) -> _Function:
    """Return a function that adds an MLP of the normalized states to the states."""
    normed = _norm(norm)
    # A mixture of experts has no single gate; it is called as a module.
    if not all(hasattr(module, name) for name in ("gate_proj", "up_proj", "down_proj", "act_fn")):
        return lambda states: states + module(normed(states)[:, None])[:, 0]
    gates, add_down = (module.gate_proj, module.up_proj), _added(module.down_proj)
    act = functional.silu if isinstance(module.act_fn, nn.SiLU) else module.act_fn
    both = _normed_product(norm, gates) or _after(normed, _together(*gates))

    def added(states: Tensor) -> Tensor:
        """Apply the gate and up projections in one matrix product if they are joined."""
        gated, lifted = both(states).chunk(2, -1)
        return add_down(states, act(gated) * lifted)

    return added
