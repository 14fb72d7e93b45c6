"""What is left of answering one video, for a picture of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aot.reports.frame_pictures import FramePictures
from aot.types import CompressedTokens, Provenance, VideoInfo

__all__ = ["Seen", "Witness"]


@dataclass(frozen=True, slots=True)
class Seen:
    """What a condition kept, what that is made of, and the cosine of each encoded frame with the next."""

    tokens: CompressedTokens
    origin: Provenance
    similarity: Sequence[float]


class Witness:
    """pictures: of the frames of one encoding. seen: by the condition's key. source: what was decoded.

    together: how many sampled frames the model encodes as one.
    """

    def __init__(self, together: int) -> None:
        self.pictures = FramePictures(together)
        self.seen: dict[str, Seen] = {}
        self.source: VideoInfo
