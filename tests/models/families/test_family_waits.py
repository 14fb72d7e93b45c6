"""Families whose frames, positions or rows are laid out by their contents do not read them back from the device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from aot.compression.methods.none import NoCompression
from aot.config.schema import GenerationConfig, ModelConfig
from aot.models import load_model
from aot.models.vision import encoding
from aot.types import CompressedTokens, FrameReuse, Needs, VisualTokens
from tests.support.model_inputs import QUESTION, frames_for
from tests.support.pretend_devices import PretendDevices
from tests.support.qwen_inputs import frames_of
from tests.support.tiny_checkpoint import make_checkpoint
from tests.support.tiny_internvl import make_internvl
from tests.support.tiny_qwen import make_qwen3_vl, make_qwen25_vl

DEVICE = "mtia:0"
FAMILIES: dict[str, Callable[[Path], Path]] = {
    "llava": lambda folder: make_checkpoint(folder, grid=9),
    "internvl": lambda folder: make_internvl(folder, text="qwen2"),
    "qwen 2.5": make_qwen25_vl,
    "qwen 3": make_qwen3_vl,
}
# A family whose prompt has a text before each frame reads the frames and cells of the kept tokens. Qwen3-VL's first
# layers add features to rows that a mask marks.
READS = {
    "llava": set(),
    "internvl": {"torch.Tensor.tolist"},
    "qwen 2.5": set(),
    "qwen 3": {"torch.Tensor.tolist", "mask"},
}
OPTIONS = GenerationConfig(max_new_tokens=4)


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def devices() -> PretendDevices:
    return PretendDevices()


@pytest.fixture
def one(family: str, tmp_path: Path) -> Any:
    return load_model(ModelConfig(name=str(FAMILIES[family](tmp_path)), device="cpu", dtype="float32"))


@pytest.fixture
def there(one: Any, tmp_path: Path, devices: PretendDevices, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The same model on a device that is pretended during the test, and that queues its work."""
    network = type(one.network).from_pretrained(tmp_path, dtype="float32").eval().requires_grad_(False)
    for tensor in (*network.parameters(), *network.buffers()):  # no hooks: inputs are where they belong
        devices.put(tensor, DEVICE)
    monkeypatch.setattr(encoding, "_is_queued", lambda device: True)
    with devices:
        yield type(one)(network, one.tokenizer, one.config, one.identity)


def all_of(visual: VisualTokens) -> CompressedTokens:
    deepstack = None if visual.deepstack is None else visual.deepstack.flatten(1, 2)
    return replace(NoCompression().compress(visual, 0), deepstack=deepstack)


def test_from_frames_to_the_first_token(one: Any, there: Any, family: str, devices: PretendDevices) -> None:
    frames = frames_of((24, 40), 5) if hasattr(one, "_sizes") else frames_for(one, 4)
    expected = one.encode(frames, Needs((2, -1)))
    devices.reads.clear()
    visual = there.encode(frames, Needs((2, -1)))
    assert not +devices.reads
    torch.testing.assert_close(visual.features.to("cpu"), expected.features)
    tokens = all_of(visual)
    devices.reads.clear()
    pieces = there.generate(tokens, QUESTION, OPTIONS).pieces()
    next(pieces)
    assert set(+devices.reads) == READS[family]
    text = "".join(pieces)
    assert text == "".join(one.generate(all_of(expected), QUESTION, OPTIONS).pieces())


def test_frames_that_reuse_work(one: Any, there: Any, family: str, devices: PretendDevices) -> None:
    if not one.reuses_frames:
        return
    needs = Needs((2, -1), (-1,), frame_embeddings=True, reuse=FrameReuse(3, 0.25, 1.0))
    frames = frames_of((24, 40), 7) if hasattr(one, "_sizes") else frames_for(one, 7)
    expected = one.encode(frames, needs)
    devices.reads.clear()
    visual = there.encode(frames, needs)
    assert not +devices.reads
    torch.testing.assert_close(visual.features.to("cpu"), expected.features)
    torch.testing.assert_close(visual.saliency[2].to("cpu"), expected.saliency[2])
