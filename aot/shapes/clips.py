"""Write scenes as video files, alone or with a data set of questions."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path

from aot.runtime.atomic_writes import make_folder, write_text, write_whole
from aot.shapes.film import Film
from aot.shapes.film_sampling import sample_film
from aot.shapes.questions import questions
from aot.shapes.render import render
from aot.shapes.world import BEATS, FRAMES_PER_SECOND, Scene, sample_scene

__all__ = ["FRAMES_PER_SECOND", "WORLDS", "encode_clip", "write_clip", "write_questions"]

# What is drawn for a seed, by the name of the world.
WORLDS: dict[str, Callable[[int], Scene | Film]] = {"shapes": sample_scene, "films": sample_film}
_SIDE = 360  # pixels; four times the input size of the shapes model
_QUALITY = 18


def write_clip(
    scene: Scene | Film,
    path: Path,
    *,
    side: int = _SIDE,
    frames_per_second: int = FRAMES_PER_SECOND,
    quality: int = _QUALITY,
) -> None:
    """Write a scene or a film as H.264 in mp4, eight seconds long.

    Args:
        scene: the scene or film to draw.
        path: the output file; an existing file is replaced.
        side: width and height of the picture in pixels.
        frames_per_second: frame rate of the video.
        quality: x264's constant rate factor; a lower factor gives better pictures.
    """
    write_whole(path, lambda target: encode_clip(scene, target, side, frames_per_second, quality), overwrite=True)


def encode_clip(
    scene: Scene | Film,
    target: Path,
    side: int = _SIDE,
    frames_per_second: int = FRAMES_PER_SECOND,
    quality: int = _QUALITY,
) -> None:
    """Do the same as `write_clip`, but write directly to `target`; errors leave a partial file."""
    import av

    times = [index / frames_per_second for index in range(BEATS * frames_per_second)]
    with av.open(str(target), "w", format="mp4") as container:
        options = {"crf": str(quality), "preset": "medium" if isinstance(scene, Scene) else "veryfast"}
        stream = container.add_stream("libx264", rate=frames_per_second, options=options)
        stream.width = stream.height = side
        stream.pix_fmt = "yuv420p"
        stream.time_base = Fraction(1, frames_per_second)
        for picture in render(scene, times, side):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def write_questions(
    folder: Path,
    seeds: Iterable[int],
    on_clip: Callable[[int], None] = lambda done: None,
    *,
    world: str = "shapes",
) -> Path:
    """Write one video per seed, and return the path of the new data set `questions.jsonl`.

    `aot eval` reads the data set. Existing videos are reused. `on_clip` gets the number of videos
    that are done. `world` is a key of `WORLDS`.
    """
    make_folder(folder)
    lines = []
    for done, seed in enumerate(seeds, 1):
        scene = WORLDS[world](seed)
        name = f"{world}-{seed}.mp4"
        if not (folder / name).is_file():
            write_clip(scene, folder / name)
        for qa in questions(scene):
            row = {"video": name, "question": qa.question, "answer": qa.answer, "family": qa.family}
            lines.append(json.dumps(row) + "\n")
        on_clip(done)
    path = folder / "questions.jsonl"
    write_text(path, "".join(lines), overwrite=True)
    return path
