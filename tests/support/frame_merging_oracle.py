"""Merge frames as EarlyTom does, in a straight line."""

from __future__ import annotations

import numpy as np

__all__ = ["alike", "cut", "merged"]


def alike(x: np.ndarray, a: int, b: int) -> float:
    """Mean over positions of the cosine similarity of two frames."""
    cosines = [float(u @ v / (np.linalg.norm(u) * np.linalg.norm(v))) for u, v in zip(x[a], x[b], strict=True)]
    return sum(cosines) / len(cosines)


def cut(x: np.ndarray, threshold: float, window: int) -> list[list[int]]:
    """The segments of frames [F, N, D]."""
    segments, average = [[0]], 1.0
    for frame in range(1, len(x)):
        average = 0.9 * alike(x, segments[-1][0], frame) + 0.1 * average
        if average < threshold or len(segments[-1]) + 1 >= window:
            segments.append([])
            average = 1.0
        segments[-1].append(frame)
    return segments


def merged(x: np.ndarray, threshold: float, window: int, *, published: bool) -> list[dict[int, float]]:
    """The frames after a merge: the weights of the frames in each."""
    found: list[dict[int, float]] = []
    for segment in cut(x, threshold, window):
        middle, q = segment[1:-1], len(segment) - 2
        found.append({segment[0]: 1.0})
        k = 0
        while q >= 2 and k < q - 1:
            own = alike(x, middle[k], middle[k + 1])
            last = k == q - 2
            following = 0.0 if last else alike(x, middle[k + 1], middle[k + 2])
            if own > alike(x, segment[0], segment[-1]) and (last or own > following):
                weight = (1.0 if published else 0.5) if last else own / (own + following)
                found.append({middle[k]: weight, middle[k + 1]: 1 - weight} if weight < 1 else {middle[k]: 1.0})
                k += 2
            else:
                found.append({middle[k]: 1.0})
                k += 1
        if q == 1 or (q >= 2 and k == q - 1 and not published):
            found.append({middle[-1]: 1.0})
        found += [{segment[-1]: 1.0}] if len(segment) > 1 else []
    return found
