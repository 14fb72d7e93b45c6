"""The comparison that all tests use takes tensors from wherever they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.support.pretend_devices import PretendDevices
from tests.support.tolerances import assert_close


def test_tensors_of_any_device_are_compared() -> None:
    with PretendDevices() as devices:
        values = torch.tensor([1.0, 2.0])
        devices.put(values, "cuda:0")
        with pytest.raises(TypeError, match="cuda:0"):
            np.asarray(values)
        assert_close(values, [1.0, 2.0], "float32")
        with pytest.raises(AssertionError):
            assert_close(values, [1.0, 2.1], "float32")


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int32])
def test_tensors_of_any_dtype_are_compared(dtype: torch.dtype) -> None:
    assert_close(torch.tensor([1, 2], dtype=dtype, requires_grad=dtype.is_floating_point), [1.0, 2.0], "float64")
