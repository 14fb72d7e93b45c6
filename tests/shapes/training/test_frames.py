"""What the lessons are told is what the pictures show."""

from __future__ import annotations

import numpy as np
import torch

from aot.config.schema import SamplingConfig
from aot.shapes.clips import write_clip
from aot.shapes.render import PAINT
from aot.shapes.training.frames import crowded_frames, labeled_video, sample_times
from aot.shapes.training.labels import IGNORE, SIDE_CELLS, is_first, same_thing, token_labels
from aot.shapes.world import COLORS, sample_scene
from aot.video import decode


def test_training_looks_at_the_frames_that_sampling_a_clip_gives(tmp_path) -> None:  # type: ignore[no-untyped-def]
    write_clip(sample_scene(1), tmp_path / "clip.mp4")
    frames = decode(tmp_path / "clip.mp4", SamplingConfig(frames=8), size=(90, 90))
    assert frames.timestamps_s == sample_times(8)
    trained = labeled_video(1, 8, 15).pixels.astype(float)
    difference = np.abs(trained - frames.pixels.numpy()).mean((1, 2, 3))
    others = np.abs(trained - np.roll(frames.pixels.numpy(), 1, 0)).mean((1, 2, 3))
    assert difference.mean() < others.mean()


def test_labels_of_crowded_frames_have_their_paint() -> None:
    pixels, labels = crowded_frames(4, 6, 15)
    cells = pixels.astype(float).reshape(6, 3, 15, 6, 15, 6).mean((3, 5)).transpose(0, 2, 3, 1)
    paints = np.array([PAINT[name] for name in COLORS], float)
    shown = labels[..., 0] > 0
    nearest = np.linalg.norm(cells[shown][:, None] - paints, axis=-1).argmin(-1)
    assert (nearest == labels[shown][:, 0] - 1).mean() > 0.6  # edges are mixed with the background
    assert ((labels > 0).all(-1) == shown).all()


def test_token_labels_tell_things_apart() -> None:
    videos = [labeled_video(seed, 8, 15) for seed in range(6)]
    labels = token_labels(videos)
    for row, video in enumerate(videos):
        thing = labels["thing"][row].reshape(8, SIDE_CELLS, SIDE_CELLS)
        for frame, time in enumerate(video.times):
            seen = {index for index, one in enumerate(video.scene.things) if one.seen(time)}
            assert set(thing[frame].unique().tolist()) - {-1} <= seen
            for index in seen:
                rows, cols = (thing[frame] == index).nonzero(as_tuple=True)
                if len(rows):
                    x, y = video.scene.things[index].position(time)
                    assert abs((cols.float().mean() + 0.5) / SIDE_CELLS * 90 - x) < 6
                    assert abs((rows.float().mean() + 0.5) / SIDE_CELLS * 90 - y) < 6
    background = labels["thing"] < 0
    assert (labels["color"][background] == IGNORE).all()
    assert (labels["color"][~background] != IGNORE).all()


def test_the_first_token_of_a_thing() -> None:
    thing = torch.tensor([[-1, 0, 0, 1, -1, 0, 1]])
    assert is_first(thing).tolist() == [[IGNORE, 1, 0, 1, IGNORE, 0, 0]]
    beat = torch.tensor([[0, 0, 0, 0, 1, 1, 1]])
    assert is_first(thing, beat).tolist() == [[IGNORE, 1, 0, 1, IGNORE, 1, 1]]
    assert same_thing(thing)[0, 1].tolist() == [False, True, True, False, False, True, False]
    assert not same_thing(thing)[0, 0].any()
