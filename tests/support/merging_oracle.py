"""Compute bipartite soft matching (ToMe, arXiv 2210.09461) one token at a time in float64."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Array = np.ndarray


@dataclass
class Token:
    """A token with its state, the patches in it, and the one that the others were merged into."""

    state: Array
    patches: list[int]
    anchor: int

    @property
    def size(self) -> int:
        """Return the number of patches."""
        return len(self.patches)


def straight_line_merge(
    tokens: list[Token], metric: list[Array], merges: int, by_similarity: bool = False
) -> list[Token]:
    """Merge the `merges` most similar pairs, even index into odd, at most half per round.

    With `by_similarity` the remaining even tokens are ordered by descending similarity, as ToMe
    does without a class token.
    """
    while merges:
        step = min(merges, len(tokens) // 2)
        merges -= step
        unit = [m / np.linalg.norm(m) for m in metric]
        best = []
        for a in range(0, len(tokens), 2):
            similarity, b = max((float(unit[a] @ unit[b]), -b) for b in range(1, len(tokens), 2))
            best.append((-similarity, a, -b))
        into = {a: b for _, a, b in sorted(best)[:step]}
        sources = [a for _, a, _ in sorted(best)[step:]]
        if not by_similarity:
            sources.sort()
        targets = list(range(1, len(tokens), 2))
        groups = [[index, *(a for a in sorted(into) if into[a] == index)] for index in sources + targets]
        sizes = [sum(tokens[i].size for i in group) for group in groups]
        metric = [
            sum(tokens[i].size * metric[i] for i in group) / size for group, size in zip(groups, sizes, strict=True)
        ]
        tokens = [
            Token(
                sum(tokens[i].size * tokens[i].state for i in group) / size,
                [patch for i in group for patch in tokens[i].patches],
                tokens[group[0]].anchor,
            )
            for group, size in zip(groups, sizes, strict=True)
        ]
    return tokens


def center_cells(patches: np.ndarray, size: int = 9, pooled: int = 5) -> np.ndarray:
    """Return the pooled cell that contains the center of each patch, along one side."""
    return np.floor((patches + 0.5) * pooled / size).astype(int)
