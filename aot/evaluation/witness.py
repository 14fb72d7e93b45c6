"""Record what was kept while a video is answered, for pictures of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aot.reports.frame_pictures import FramePictures
from aot.types import CompressedTokens, Provenance, VideoInfo

__all__ = ["Seen", "Witness"]


@dataclass(frozen=True, slots=True)
class Seen:
    """The tokens a condition kept, their origin, and the cosine similarities of adjacent frames."""

    tokens: CompressedTokens
    origin: Provenance
    similarity: Sequence[float]


class Witness:
    """Collect what the conditions of one video keep.

    Args:
        together: how many sampled frames the model encodes as one.

    Attributes:
        pictures: of the frames of one encoding.
        seen: what was kept, by the condition's key.
        source: the decoded video.
    """

    def __init__(self, together: int) -> None:
        self.pictures = FramePictures(together)
        self.seen: dict[str, Seen] = {}
        self.source: VideoInfo
