"""Compute k-means with cosine similarity as a straight-line float64 program."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def seeds(unit: Array, draws: list[float]) -> list[int]:
    """Return k-means++ seeds for given random numbers in [0, 1)."""
    chosen: list[int] = []
    for draw in draws:
        weights = []
        for point in unit:
            distance = min((float(((point - unit[i]) ** 2).sum()) for i in chosen), default=1.0)
            weights.append(distance + 1e-6)
        aim, heaped, pick = draw * sum(weights), 0.0, len(unit) - 1
        for i, weight in enumerate(weights):
            heaped += weight
            if aim < heaped:
                pick = i
                break
        chosen.append(pick)
    return chosen


def kmeans(x: Array, clusters: int, iterations: int, draws: list[float]) -> tuple[list[int], float, int]:
    """Return the label of every point, the distortion and the number of iterations."""
    unit = x / np.linalg.norm(x, axis=-1, keepdims=True)
    centers = [unit[i] for i in seeds(unit, draws)]
    passed = 0
    for _ in range(iterations):
        passed += 1
        fit, labels = [], []
        for point in unit:
            cosines = [float(point @ center) / float(np.linalg.norm(center)) for center in centers]
            labels.append(cosines.index(max(cosines)))
            fit.append(max(cosines))
        moved = []
        for k in range(clusters):
            members = [unit[i] for i in range(len(unit)) if labels[i] == k]
            moved.append(sum(members) / len(members) if members else centers[k])
        shift = np.sqrt(sum(float(((a - b) ** 2).sum()) for a, b in zip(moved, centers, strict=True)))
        centers = moved
        if shift < 1e-4:
            break
    medoids = {max((i for i in range(len(fit)) if labels[i] == k), key=lambda i: fit[i]) for k in set(labels)}
    worst = sorted((i for i in range(len(fit)) if i not in medoids), key=lambda i: fit[i])
    for k, i in zip([k for k in range(clusters) if k not in labels], worst, strict=False):
        labels[i], fit[i] = k, 1.0
    return labels, sum(1 - value for value in fit), passed
