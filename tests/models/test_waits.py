"""What a model does with a video before its first token never makes the host wait for the device."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from model_inputs import QUESTION, frames_for
from syncs import counted_syncs

from aot.config import Config
from aot.methods import build_method

if TYPE_CHECKING:
    from aot.models.llava import Llava


@torch.no_grad()
def test_the_tower(small_model: Llava) -> None:
    frames, needs = frames_for(small_model, 3), build_method(Config()).needs
    with counted_syncs() as waits:
        small_model._tower_pass(frames.pixels, needs)
    assert not waits


def test_the_prompt(small_model: Llava) -> None:
    method = build_method(Config(ratio=0.3))
    tokens = method.compress(small_model.encode(frames_for(small_model, 4), method.needs), 30)
    with counted_syncs() as waits:
        small_model.prompt(tokens, QUESTION)
    assert not waits
