"""Small pictures, and smaller ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from aot.pictures import jpeg, shrunk, shrunk_jpeg


@pytest.mark.parametrize(("height", "width"), [(40, 60), (37, 61), (720, 1280)])
def test_each_pixel_is_the_mean_of_those_it_stands_for(height: int, width: int) -> None:
    """A picture that gets lighter to the right, and redder downwards."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[..., 1] = np.linspace(0, 255, width)
    picture[..., 0] = np.linspace(0, 255, height)[:, None]
    small = shrunk(picture, (4, 6))
    assert small.shape == (4, 6, 3)
    assert np.abs(small[0, :, 1] - 255 * (np.arange(6) + 0.5) / 6).max() < 6
    assert np.abs(small[:, 0, 0] - 255 * (np.arange(4) + 0.5) / 4).max() < 6


def test_a_jpeg_file_shrinks_alike() -> None:
    picture = torch.zeros(3, 100, 100, dtype=torch.uint8)
    picture[0, :, :50], picture[2, 50:] = 250, 250
    direct = shrunk(picture.permute(1, 2, 0).contiguous().numpy(), (2, 2))
    assert direct.tolist() == [[[250, 0, 0], [0, 0, 0]], [[250, 0, 250], [0, 0, 250]]]
    assert np.abs(shrunk_jpeg(jpeg(picture), (2, 2)).astype(int) - direct).max() < 12
