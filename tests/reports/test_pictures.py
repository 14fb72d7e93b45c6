"""Small pictures, and smaller ones."""

from __future__ import annotations

import io

import av
import numpy as np
import pytest
import torch

from aot.reports.frame_pictures import FramePictures, jpeg, shrunk, shrunk_jpeg
from aot.types import VideoFrames, VideoInfo

INFO = VideoInfo("a.mp4", "mp4", "h264", 8, 8, 0, 0, 1, 6, 6, 0, 1, 1.0, 6.0, False, False)


def opened(file: bytes) -> np.ndarray:
    with av.open(io.BytesIO(file)) as container:
        return next(container.decode(video=0)).to_ndarray(format="rgb24")


@pytest.mark.parametrize(
    ("size", "expected"),
    [((120, 120), (120, 120)), ((384, 384), (384, 384)), ((720, 1280), (216, 384)), ((1, 7), (2, 7))],
)
def test_colors_and_sizes(size: tuple[int, int], expected: tuple[int, int]) -> None:
    halves = torch.empty(3, *size, dtype=torch.uint8)
    halves[:, :, : size[1] // 2] = torch.tensor([200, 30, 90], dtype=torch.uint8)[:, None, None]
    halves[:, :, size[1] // 2 :] = torch.tensor([10, 180, 250], dtype=torch.uint8)[:, None, None]
    picture = opened(jpeg(halves))
    assert picture.shape[:2] == expected
    if min(size) > 8:
        assert np.abs(picture[5, 5].astype(int) - [200, 30, 90]).max() <= 6
        assert np.abs(picture[5, -5].astype(int) - [10, 180, 250]).max() <= 6


def test_one_picture_of_frames_that_are_encoded_together() -> None:
    shades = torch.arange(6, dtype=torch.uint8)[:, None, None, None] * 40
    frames = VideoFrames(shades.expand(6, 3, 16, 16), tuple(range(6)), INFO)
    pictures = FramePictures(together=2)
    pictures.add(frames)
    assert [round(opened(file).mean() / 40) for file in pictures.files] == [0, 2, 4]


@pytest.mark.parametrize(("height", "width"), [(40, 60), (37, 61), (720, 1280)])
def test_each_pixel_is_the_mean_of_those_it_stands_for(height: int, width: int) -> None:
    """A picture that gets lighter to the right, and redder downwards. FFmpeg 7 is 7 shades off in the last column."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[..., 1] = np.linspace(0, 255, width)
    picture[..., 0] = np.linspace(0, 255, height)[:, None]
    small = shrunk(picture, (4, 6))
    assert small.shape == (4, 6, 3)
    assert np.abs(small[0, :, 1] - 255 * (np.arange(6) + 0.5) / 6).max() < 8
    assert np.abs(small[:, 0, 0] - 255 * (np.arange(4) + 0.5) / 4).max() < 6


def test_a_jpeg_file_shrinks_alike() -> None:
    picture = torch.zeros(3, 100, 100, dtype=torch.uint8)
    picture[0, :, :50], picture[2, 50:] = 250, 250
    direct = shrunk(picture.permute(1, 2, 0).contiguous().numpy(), (2, 2))
    assert direct.tolist() == [[[250, 0, 0], [0, 0, 0]], [[250, 0, 250], [0, 0, 250]]]
    assert np.abs(shrunk_jpeg(jpeg(picture), (2, 2)).astype(int) - direct).max() < 12
