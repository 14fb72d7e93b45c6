"""Refuse invalid configurations before any weights are downloaded or read."""

from __future__ import annotations

import math
from collections.abc import Sequence

from aot.compression.aot.method import AnchorTransport
from aot.compression.in_llm import divide
from aot.compression.in_tower import tower_needs
from aot.compression.methods import Method, build_method
from aot.compression.methods.subset import refuse_below
from aot.config.schema import Config
from aot.errors import TokensFileError
from aot.models import FoundModel
from aot.models.base import ModelIdentity
from aot.reports.retention import ModelRecord

__all__ = ["build_checked_method", "check_same_model"]


def build_checked_method(found: FoundModel, config: Config, chunks: Sequence[int]) -> Method | None:
    """Build the method of a run, and check it against the model and the number of frames.

    Args:
        found: the model, without weights.
        config: the settings.
        chunks: the number of frames in each chunk of the video.

    Returns:
        The method, or None if it depends on the number of layers and config.json lacks this number.

    Raises:
        ConfigError: If a setting of the method is wrong, or the budget is too low for a chunk.
        UnsupportedError: If the model does not support the method.
    """
    if config.reduces_inside:
        if found.language_layers is None:
            return None
        config, _ = divide(config, found.language_layers)
    method = build_method(config)
    found.implementation.check_support(tower_needs(method.needs, config.tower), str(found.config.name))
    if found.known_grid is None or not config.compresses or not config.has_budget:
        return method
    per_frame, done, spent = math.prod(found.known_grid), 0, 0
    for frames in chunks:
        done += frames
        budget = config.token_budget(done, per_frame) - spent
        spent += budget
        if isinstance(method, AnchorTransport):
            method.check_frames(budget, frames, frames * per_frame)
        refuse_below(1, budget, frames * per_frame)
    return method


def check_same_model(made_by: ModelRecord, identity: ModelIdentity) -> None:
    """Check that the model `identity` can read the tokens of the model `made_by`.

    Raises:
        TokensFileError: If the two models have different weights (fingerprints).
    """
    if made_by.fingerprint != identity.fingerprint:
        raise TokensFileError(
            f"these tokens were made by {made_by.name} (revision {made_by.revision}), which "
            f"{identity.name} is not; ask with that model, or compress the video again"
        )
