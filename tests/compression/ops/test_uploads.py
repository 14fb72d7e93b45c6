"""Values reach a device in order with its queue, and from pinned memory."""

from __future__ import annotations

from unittest.mock import Mock

import pytest
import torch

from aot.compression.ops.uploads import uploaded

CUDA = torch.device("cuda")


def test_a_cpu_gets_the_values_themselves() -> None:
    values = torch.arange(3)
    assert uploaded(values, torch.device("cpu")) is values


def test_ordinary_memory_is_pinned_so_that_the_copy_is_queued() -> None:
    values = Mock(spec=torch.Tensor, is_cuda=False)
    assert uploaded(values, CUDA) is values.pin_memory().to.return_value
    values.pin_memory().to.assert_called_once_with(CUDA, non_blocking=True)


def test_values_on_a_gpu_are_not_pinned() -> None:
    values = Mock(spec=torch.Tensor, is_cuda=True)
    assert uploaded(values, CUDA) is values.to.return_value
    values.pin_memory.assert_not_called()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
def test_the_host_may_change_its_copy_while_the_device_is_at_work() -> None:
    values = torch.arange(1 << 20)
    expected = values.cuda()
    busy = torch.randn(4096, 4096, device="cuda")
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(20):
            busy = busy @ busy
        found = uploaded(values, CUDA)
        values.zero_()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(found, expected)
