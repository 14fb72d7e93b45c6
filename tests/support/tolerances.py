"""Define how closely results must agree, in one table for all tests."""

from __future__ import annotations

from typing import Any

import numpy as np

# name -> (rtol, atol)
TOLERANCES = {
    "float64": (1e-10, 1e-12),  # the oracle evaluates the formulas in another order
    "inter": (1e-8, 1e-8),  # the published time weight adds 1e-9 to 2 sigma^2, the oracle does not
    "float32": (1e-5, 1e-5),
    "half products": (1e-6, 1e-6),  # of half precision features, summed up in float32 a part at a time
    "bfloat16": (2e-2, 2e-2),
    "duplicates": (1e-4, 1e-4),  # the published code keeps cosines 1e-6 away from 1, the oracle does not
    "converged": (1e-7, 1e-9),  # against a law that only a converged plan obeys
    "sum": (1e-5, 0.0),  # sums over many tokens
}


def assert_close(actual: Any, expected: Any, name: str) -> None:
    """Check that tensors, arrays or nested lists agree within the tolerance `name`."""
    rtol, atol = TOLERANCES[name]
    np.testing.assert_allclose(_array(actual), _array(expected), rtol=rtol, atol=atol)


def _array(values: Any) -> np.ndarray:
    return np.asarray(values.detach().cpu().double() if hasattr(values, "detach") else values, dtype=np.float64)
