"""Scenes as real video files, alone or as a data set of questions."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path

from aot.files import make_folder, write_text, write_whole
from aot.shapes.questions import questions
from aot.shapes.render import render
from aot.shapes.world import BEATS, Scene, sample_scene

__all__ = ["FRAMES_PER_SECOND", "write_clip", "write_questions"]

FRAMES_PER_SECOND = 8
_SIDE = 360  # pixels; four times what the shapes model sees
_QUALITY = "18"  # x264's constant rate factor


def write_clip(scene: Scene, path: Path) -> None:
    """Write the scene as H.264 in mp4, one beat a second."""
    import av

    times = [index / FRAMES_PER_SECOND for index in range(BEATS * FRAMES_PER_SECOND)]

    def write(target: Path) -> None:
        with av.open(str(target), "w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND, options={"crf": _QUALITY})
            stream.width = stream.height = _SIDE
            stream.pix_fmt = "yuv420p"
            stream.time_base = Fraction(1, FRAMES_PER_SECOND)
            for picture in render(scene, times, _SIDE):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())

    write_whole(path, write, overwrite=True)


def write_questions(folder: Path, seeds: Iterable[int], on_clip: Callable[[int], None] = lambda done: None) -> Path:
    """Write a clip for every seed and `questions.jsonl`, the data set that `aot eval` reads; returns its path.

    Clips that are there already stay.
    """
    make_folder(folder)
    lines = []
    for done, seed in enumerate(seeds, 1):
        scene = sample_scene(seed)
        name = f"shapes-{seed}.mp4"
        if not (folder / name).is_file():
            write_clip(scene, folder / name)
        for qa in questions(scene):
            row = {"video": name, "question": qa.question, "answer": qa.answer, "family": qa.family}
            lines.append(json.dumps(row) + "\n")
        on_clip(done)
    path = folder / "questions.jsonl"
    write_text(path, "".join(lines), overwrite=True)
    return path
