"""Read the videos and questions of `aot tune` from its arguments."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from aot.errors import ConfigError
from aot.serving.batch.jobs import load_jobs
from aot_cli.output.console import StageBars

if TYPE_CHECKING:
    from aot.evaluation.dataset import Item
    from aot.video import VideoFile

__all__ = ["asked_items"]

_MOST_BYTES = 2**20


def asked_items(
    videos: Sequence[str], questions: Sequence[str], file: Path | None
) -> tuple[Sequence[Item], dict[Path, VideoFile]]:
    """Return the questions about each video, and the opened videos.

    Args:
        videos: files and folders.
        questions: questions about every video.
        file: a text file with further such questions, or a JSONL file whose lines name videos.

    Raises:
        ConfigError: If there is no video or no question, a file cannot be read, or only some of the
            questions have answers.
        VideoError: If a video cannot be opened.
    """
    lines = _lines(file) if file else []
    if file and any(line.startswith("{") for line in lines):
        if videos or questions:
            raise ConfigError(
                f"each line of {file} names its video and question; leave out "
                + ("the videos of the command line" if videos else "--question")
            )
        from aot.evaluation.dataset import load_dataset

        items = load_dataset(file, needs_answers=False)
        return items, _opened(item.video for item in items)
    asked = tuple(dict.fromkeys((*questions, *lines)))
    if not videos:
        raise ConfigError("no videos are given; name files or folders, or a JSONL file with --questions")
    if not asked:
        raise ConfigError('no question is asked; give -q "...", or a file with --questions')
    return _items(videos, asked)


def _lines(file: Path) -> list[str]:
    try:
        with file.open("rb") as opened:
            content = opened.read(_MOST_BYTES)
        if len(content) == _MOST_BYTES:  # the last line may end within a character
            content = content[: content.rfind(b"\n") + 1]
        return [line.strip() for line in content.decode("utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise ConfigError(f"{file} is not UTF-8 text; save it as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"--questions {file} cannot be read: {error.strerror}") from error


def _items(videos: Sequence[str], questions: Sequence[str]) -> tuple[list[Item], dict[Path, VideoFile]]:
    jobs = load_jobs(videos, questions)
    addresses = [job.video for job in jobs if "://" in job.video]
    if addresses:
        raise ConfigError(f"{addresses[0]} is an address, and tuning reads videos several times; download it first")
    opened = _opened(Path(job.video) for job in jobs)
    from aot.evaluation.dataset import Item  # imports torch, which takes seconds

    items = [
        Item(f"{job.id}/{number}", Path(job.video), question, None, video_bytes=job.video_bytes or 0)
        for job in jobs
        for number, question in enumerate(job.questions)
    ]
    return items, opened


def _opened(videos: Iterable[Path]) -> dict[Path, VideoFile]:
    from aot.video import open_videos

    with StageBars() as bars, bars.stage("read videos"):
        return open_videos(dict.fromkeys(videos))
