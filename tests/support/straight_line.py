"""Implement the reductions inside a language model a second time, with masks instead of removal.

All rows stay in the sequence, and masks hide those that were dropped. A rule is called before every
layer and between its attention and its MLP; it may hide rows, change hidden states and renumber
rows. Attention is the stock model's eager attention with the mask of this module.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aot.types import CompressedTokens


@dataclass
class Row:
    """The rows of a prompt.

    Attributes:
        visual: rows of the visual tokens.
        newline: the row of the newline after the video.
        question: rows of the question.
        length: of the prompt.
        tokens: the visual tokens.
        lines: rows of newlines after a line of a frame, with that line's number.
    """

    visual: list[int]
    newline: list[int]
    question: list[int]
    length: int
    tokens: CompressedTokens
    lines: dict[int, int] = field(default_factory=dict)


@dataclass
class Pass:
    """The state of one forward pass."""

    model: Any
    hidden: Tensor
    rows: Row
    forgotten: set[int] = field(default_factory=set)
    gone: set[int] = field(default_factory=set)
    weights: Tensor | None = None
    positions: Tensor = field(default_factory=lambda: torch.zeros(0))

    def attend(self, layer: Any) -> tuple[Tensor, Tensor]:
        """Return output [1, S, D] and weights [H, S, S] of a layer's stock attention."""
        size = self.hidden.shape[1]
        mask = torch.zeros(size, size, dtype=self.hidden.dtype)
        for row in range(size):
            for column in range(size):
                later = row >= self.rows.length and column in self.forgotten
                if column > row or (column != row and (column in self.gone or later)):
                    mask[row, column] = -math.inf
        rotary = self.model.model.rotary_emb(self.hidden, self.positions[None])
        out, weights = layer.self_attn(
            layer.input_layernorm(self.hidden), position_embeddings=rotary, attention_mask=mask[None, None]
        )
        return out, weights[0]

    def last_row(self, weights: Tensor) -> np.ndarray:
        """Return the attention of the prompt's last row, averaged over heads."""
        return np.mean(weights[:, self.rows.length - 1].double().numpy(), axis=0)

    def there(self) -> list[int]:
        """Return the rows of visual tokens and newlines of lines that are not dropped."""
        return [row for row in sorted([*self.rows.visual, *self.rows.lines]) if row not in self.gone]


Rule = Callable[[Pass, int, bool], None]


def logits(
    model: Any, embeddings: Tensor, rows: Row, rule: Rule, forgotten: set[int] | None = None
) -> tuple[Tensor, set[int], list[int]]:
    """Run a model under a rule.

    Returns:
        Logits [1 + n, vocabulary] after the prompt and after each of n decoded tokens, the rows
        dropped at the end, and the number of visual tokens in each layer's attention.
    """
    run = Pass(model, embeddings, rows, forgotten or set(), positions=torch.arange(embeddings.shape[1]))
    counts = []
    for number, layer in enumerate(model.model.layers):
        rule(run, number, False)
        counts.append(len([row for row in rows.visual if row not in run.gone]))
        out, run.weights = run.attend(layer)
        run.hidden = run.hidden + out
        rule(run, number, True)
        run.hidden = run.hidden + layer.mlp(layer.post_attention_layernorm(run.hidden))
    return model.lm_head(model.model.norm(run.hidden))[0, rows.length - 1 :], run.gone, counts


def best(scores: list[float], count: int) -> list[int]:
    """Return the indices of the `count` highest scores, ascending; ties go to the lower index."""
    return sorted(sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:count])


def last_query_drop(layer: int, count: Callable[[int], int]) -> Rule:
    """Return the rule of FastV and FlashVID."""

    def rule(run: Pass, number: int, after: bool) -> None:
        if (number, after) != (layer, False):
            return
        assert run.weights is not None
        there, look = run.there(), run.last_row(run.weights)
        kept = best([look[row] for row in there], count(len(there)))
        run.gone |= {row for index, row in enumerate(there) if index not in kept}

    return rule


def holitom(layer: int, keep: float) -> Rule:
    """Return the rule of HoliTom."""

    def rule(run: Pass, number: int, after: bool) -> None:
        if (number, after) != (layer, False):
            return
        assert run.weights is not None
        rows, look = [*run.there(), *run.rows.newline], run.last_row(run.weights)
        kept = [rows[i] for i in best([look[row] for row in rows], round(keep * len(rows)))]
        before = run.hidden[0].double().numpy().copy()
        states = before.copy()
        for row in rows:
            if row in kept:
                continue
            similar = [cosine(before[row], before[other]) for other in kept]
            target = kept[int(np.argmax(similar))]
            states[target] = (states[target] + states[row]) / 2
            run.gone.add(row)
        run.hidden = torch.from_numpy(states)[None].to(run.hidden.dtype)

    return rule


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    """Return the cosine similarity of two vectors."""
    return float(one @ other / max(np.linalg.norm(one), 1e-12) / max(np.linalg.norm(other), 1e-12))


def pyramiddrop(counts: dict[int, int]) -> Rule:
    """Return the rule of PyramidDrop; remaining rows are renumbered from 0.

    counts: the number of visual tokens that remain, by layer.
    """

    def rule(run: Pass, number: int, after: bool) -> None:
        if after or number not in counts:
            return
        look = run.last_row(run.attend(run.model.model.layers[number])[1])
        there = run.there()
        kept = best([look[row] for row in there], counts[number])
        run.gone |= {row for index, row in enumerate(there) if index not in kept}
        left = [row for row in range(run.hidden.shape[1]) if row not in run.gone]
        run.positions = torch.zeros_like(run.positions)
        run.positions[left] = torch.arange(len(left))

    return rule


def content_attention(layer: Any, hidden: np.ndarray) -> np.ndarray:
    """Return the attention [H, S, S] of a layer's input [S, D] without positions and mask."""
    module, norm = layer.self_attn, layer.input_layernorm
    scale = 1 / np.sqrt((hidden**2).mean(-1, keepdims=True) + norm.variance_epsilon)
    normed = hidden * scale * norm.weight.detach().double().numpy()

    def project(linear: Any) -> np.ndarray:
        return normed @ linear.weight.detach().double().numpy().T + linear.bias.detach().double().numpy()

    width = module.head_dim
    queries, keys = project(module.q_proj), project(module.k_proj)
    found = []
    for head in range(queries.shape[1] // width):
        shared = head // module.num_key_value_groups
        query = queries[:, head * width : (head + 1) * width]
        key = keys[:, shared * width : (shared + 1) * width]
        raised = np.exp(query @ key.T / math.sqrt(width))
        found.append(raised / raised.sum(-1, keepdims=True))
    return np.array(found)


def prunevid(layer: int, keep: float) -> Rule:
    """Return the rule of PruneVid, with shares rounded down; only the prompt is considered."""
    kept_input: list[Tensor] = []

    def rule(run: Pass, number: int, after: bool) -> None:
        if (number, after) == (layer - 1, False):
            kept_input.append(run.hidden)
        if (number, after) != (layer, False):
            return
        length = run.rows.length
        whole = kept_input.pop()[0, :length].double().numpy()
        attention = content_attention(run.model.model.layers[layer - 1], whole)
        score = {row: max(attention[:, q, row].max() for q in run.rows.question) for row in run.rows.visual}
        for group in prunevid_groups(run.rows.tokens):
            rows = [run.rows.visual[token] for token in group]
            kept = best([score[row] for row in rows], int(keep * len(rows)))
            run.gone |= {row for index, row in enumerate(rows) if index not in kept}

    return rule


def prunevid_groups(tokens: CompressedTokens) -> list[list[int]]:
    """Return the tokens of each frame, static and dynamic ones in separate groups."""
    groups: dict[tuple[int, str], list[int]] = {}
    for token, (frame, mass) in enumerate(zip(tokens.frame.tolist(), tokens.mass.tolist(), strict=True)):
        (clip,) = [clip for clip in tokens.clips if clip.first <= frame < clip.stop]
        static = len(clip) > 1 and frame == clip.first and mass in range(len(clip), 1000, len(clip))
        groups.setdefault((frame, "static" if static else "dynamic"), []).append(token)
    return list(groups.values())


def framefusion(cost: float, similarity: float, fade_out: float, layers: int, *, spare: bool) -> Rule:
    """Return the rule of FrameFusion.

    With `spare`, tokens are dropped if merging would leave no budget for the other layers.
    """
    shares: list[float] = []
    fractions: list[float] = []
    finished = []

    def rule(run: Pass, number: int, after: bool) -> None:
        if finished or (not after and number) or (after and number == layers - 1):
            return
        there = run.there()
        share = shares[-1] if shares else 1.0
        sparsity = 1 - min(1.0, (layers * cost - sum(shares)) / ((layers - len(shares)) * share))

        def prune() -> None:
            finished.append(True)
            weights = run.weights if after else run.attend(run.model.model.layers[0])[1]
            assert weights is not None
            look = run.last_row(weights)
            kept = best([look[row] for row in there], max(round(len(there) * (1 - sparsity)), 1))
            run.gone |= {row for index, row in enumerate(there) if index not in kept}

        if fractions and fractions[-1] < fade_out:
            prune()
            return
        states = run.hidden[0].double().numpy()
        cells = zip(run.rows.tokens.row.tolist(), run.rows.tokens.col.tolist(), strict=True)
        cell = {**dict(zip(run.rows.visual, cells, strict=True)), **{r: (n, -1) for r, n in run.rows.lines.items()}}
        previous = {row: max((o for o in there if o < row and cell[o] == cell[row]), default=None) for row in there}
        alike = {row: cosine(states[row], states[p]) for row, p in previous.items() if p is not None}
        similar = [row for row in there if alike.get(row, -2) >= similarity]
        fraction = len(similar) / len(there)
        if fraction >= sparsity:
            count = math.floor(sparsity * len(there))
            similar = sorted(alike, key=lambda row: (-alike[row], row))[:count]
            finished.append(True)
        elif spare and layers * cost - sum(shares) - share * (1 - fraction) <= 0:
            prune()
            return
        else:
            fractions.append(fraction)
            shares.append(share * (1 - fraction))
        runs: dict[int, list[int]] = {}
        head: dict[int, int] = {}
        for row in there:
            before = previous[row]
            head[row] = head[before] if row in similar and before is not None else row
            runs.setdefault(head[row], []).append(row)
        merged = states.copy()
        for first, members in runs.items():
            merged[first] = states[members].mean(0)
        run.gone |= set(similar)
        run.hidden = torch.from_numpy(merged)[None].to(run.hidden.dtype)

    return rule
