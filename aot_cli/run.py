"""What ask, compress and inspect share: look at the video, load the model, compress, with progress bars."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aot.errors import VideoError
from aot_cli.console import StageBars, prepare_libraries

if TYPE_CHECKING:
    from aot.config import Config
    from aot.models import VideoModel
    from aot.pipeline import Compression

__all__ = ["compress_with_progress", "load_with_progress"]


def load_with_progress(config: Config) -> VideoModel:
    """The model `config` names."""
    prepare_libraries(config.model.offline)
    from aot.models import load_model

    with StageBars() as bars, bars.stage("load model"):
        return load_model(config.model)


def compress_with_progress(source: str, config: Config) -> tuple[VideoModel, Compression]:
    """The model and what it makes of the video; the video is looked at before the model is loaded for it."""
    _check_video(source)
    model = load_with_progress(config)
    from aot.pipeline import compress_video

    with StageBars() as bars:
        return model, compress_video(source, model, config, bars)


def _check_video(path: str) -> None:
    from aot.tokens_file import is_tokens_file
    from aot.video import probe

    if is_tokens_file(path):
        raise VideoError(f"{path} is a tokens file already; name a video")
    if path != "-":
        probe(path)
