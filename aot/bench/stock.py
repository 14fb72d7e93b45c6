"""Call a checkpoint's own class of transformers, with the modules that the model has loaded.

This is the baseline: `generate` as users call it, on inputs as the processor makes them. Our model
has the same network, so no weights are copied.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aot.bench.operations import StageWorks
from aot.config.schema import GenerationConfig
from aot.errors import UnsupportedError
from aot.models.base import VideoModel
from aot.models.composed import ComposedModel
from aot.models.families.internvl import InternVL
from aot.models.families.llava import Llava
from aot.models.families.llava_geometry import LlavaGeometry
from aot.models.families.qwen_frames import packed
from aot.models.families.qwen_positions import seconds_per_frame
from aot.models.families.qwen_vl import QwenVL
from aot.models.language.prompt import VideoPrompt
from aot.runtime.stages import StageClock, synchronize
from aot.types import VideoFrames

__all__ = ["StockAnswer", "StockModel", "as_loaded"]

_OF_VIDEO = 2  # in transformers' `mm_token_type_ids`


class StockModel:
    """The stock network of `model`, and its inputs for one video and one question.

    Args:
        model: the model whose network is called.
        frames: all frames.
        prompt: the prompt with all visual tokens, of which only the ids are used.
        options: the settings of the answer.

    Raises:
        UnsupportedError: If transformers cannot run this model on this prompt.
    """

    def __init__(self, model: VideoModel, frames: VideoFrames, prompt: VideoPrompt, options: GenerationConfig) -> None:
        pixels = _pixels(model, frames, prompt)
        assert isinstance(model, ComposedModel)
        self._model, self._ids = model, prompt.ids
        self._inputs = {"input_ids": self._ids, "attention_mask": torch.ones_like(self._ids), **pixels}
        self._options = _generation(options, model.tokenizer)

    @property
    def prompt_tokens(self) -> int:
        """Return the length of the prompt."""
        return self._ids.shape[1]

    def answer(self, works: StageWorks | None = None) -> StockAnswer:
        """Generate an answer and measure it; `works` counts its stages, all but "compress"."""
        model, device = self._model, self._model.device
        clock, arrivals, encoding = StageClock(device), _Arrivals(works), ExitStack()

        def begin_prefill(*_: object) -> None:
            # The first call of the language model: everything before is the encoder's work.
            hook.remove()
            encoding.close()
            if works:
                works.begin("prefill")

        hook = model.language.register_forward_pre_hook(begin_prefill)
        with as_loaded(model.network):
            synchronize(device)
            start_s = time.perf_counter()
            if works:
                works.begin("encode")
            encoding.enter_context(clock.stage("encode"))
            written = model.network.generate(**self._inputs, **self._options, streamer=arrivals)
            synchronize(device)
        ids = written[0, self.prompt_tokens :].tolist()
        total_ms = (time.perf_counter() - start_s) * 1e3
        return StockAnswer(ids, clock.stage_ms["encode"], (arrivals.first_s - start_s) * 1e3, total_ms)


@dataclass(frozen=True, slots=True)
class StockAnswer:
    """The ids of an answer, and its times from the inputs on."""

    ids: list[int]
    encode_ms: float
    first_token_ms: float
    answer_ms: float


class _Arrivals:
    """A streamer of transformers, which notes when the first token is on the host.

    `generate` copies each token to the host before it calls `put`, so that the clock is read when
    the device has computed the token.
    """

    def __init__(self, works: StageWorks | None) -> None:
        self.first_s, self._works, self._calls = 0.0, works, 0

    def put(self, value: Tensor) -> None:
        """Receive the prompt in the first call, and one token in each later call."""
        self._calls += 1
        if self._calls == 2:
            self.first_s = time.perf_counter()
            if self._works:
                self._works.begin("tokens")

    def end(self) -> None:
        """Receive the end of the answer."""


@contextmanager
def as_loaded(network: Any) -> Iterator[None]:
    """Run `network` with the attention kernels that transformers chooses by default."""
    modules = [module for module in network.modules() if hasattr(module, "config")]
    configs = {id(module.config): module.config for module in modules}.values()
    ours = [config._attn_implementation for config in configs]
    # `--compile` is ours, not of stock transformers.
    compiled = {each: each._compiled_call_impl for each in network.modules() if each._compiled_call_impl is not None}
    try:
        # Recording saliency and reading prompts give the kernels other names.
        for config in configs:
            config._attn_implementation = "sdpa"
        for module in compiled:
            module._compiled_call_impl = None
        yield
    finally:
        for config, name in zip(configs, ours, strict=True):
            config._attn_implementation = name
        for module, call in compiled.items():
            module._compiled_call_impl = call


def _generation(options: GenerationConfig, tokenizer: Any) -> dict[str, Any]:
    """Return the arguments of `generate`; an answer has exactly `max_new_tokens` tokens."""
    drawn = {"temperature": options.temperature} if options.temperature > 0 else {}
    return {
        "max_new_tokens": options.max_new_tokens,
        "min_new_tokens": options.min_new_tokens,
        "do_sample": bool(drawn),
        "pad_token_id": tokenizer.pad_token_id,
        **drawn,
    }


def _pixels(model: VideoModel, frames: VideoFrames, prompt: VideoPrompt) -> Mapping[str, Tensor]:
    """Return the arguments of the stock network for `frames`, on the device and normalized."""
    if isinstance(model, Llava):
        if model.geometry != LlavaGeometry(order=model.geometry.order):
            raise UnsupportedError("transformers has LLaVA-OneVision's pooling and newlines for every LLaVA")
        return {"pixel_values_videos": model.normalize(frames.pixels)[None]}
    if isinstance(model, InternVL):
        return {"pixel_values": model.normalize(frames.pixels)}
    if isinstance(model, QwenVL):
        return _qwen_pixels(model, frames, prompt)
    raise UnsupportedError("the arguments of this family's stock model are not known")


def _qwen_pixels(model: QwenVL, frames: VideoFrames, prompt: VideoPrompt) -> dict[str, Tensor]:
    vision, tokens = model.tower.config, prompt.tokens
    rows, cols = (side * vision.spatial_merge_size for side in tokens.grid)
    grid = torch.tensor([[len(tokens.timestamps_s), rows, cols]], device=model.device)
    patches = packed(model.normalize(frames.pixels), model.temporal_patch, vision.patch_size, vision.spatial_merge_size)
    found = {
        "pixel_values_videos": patches,
        "video_grid_thw": grid,
        "mm_token_type_ids": (prompt.ids == model.video_token) * _OF_VIDEO,
    }
    # Qwen3-VL has text with the times instead.
    if model.network.config.model_type == "qwen2_5_vl":
        found["second_per_grid_ts"] = torch.tensor([seconds_per_frame(tokens.timestamps_s)])
    return found
