"""What sets Qwen2.5-VL and Qwen3-VL apart: when a pair is shown, how that is told, and who attends to whom."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from aot.models.families.qwen_frames import FrameSizes, window_order
from aot.models.families.qwen_vl import QwenVL
from aot.models.language.prompt import Run, VideoPrompt, by_frame, in_reading_order
from aot.models.vision.preprocessing import CLIP
from aot.types import CompressedTokens

__all__ = ["Qwen3VL", "Qwen25VL"]

_START, _END = "<|vision_start|>", "<|vision_end|>"
_ASKED = "{question}<|im_end|>\n<|im_start|>assistant\n"


class Qwen25VL(QwenVL):
    """Qwen2.5-VL 3B, 7B, 32B and 72B."""

    networks: ClassVar = {"qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration"}
    token_space = ("visual.merger.mlp.2.weight",)
    sizes = FrameSizes(28, 128 * 28**2, 768 * 28**2)
    pixel_defaults = CLIP

    def _template(self) -> tuple[str, str]:
        turns = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        return turns + _START, _END + _ASKED

    def _runs(self, tokens: CompressedTokens) -> Sequence[Run]:
        return [Run("", in_reading_order(tokens))]

    def _pair_times(self, times_s: Sequence[float]) -> tuple[float, ...]:
        return tuple(times_s[:: self.temporal_patch])

    def _full_attention(self) -> Sequence[int]:
        return [block for block in self.tower.config.fullatt_block_indexes if block < self.tower.config.depth]

    def _attended_order(self, grid: tuple[int, int]) -> Tensor | None:
        vision = self.tower.config
        return window_order(*grid, vision.window_size // vision.spatial_merge_size // vision.patch_size)


class Qwen3VL(QwenVL):
    """Qwen3-VL 2B, 4B, 8B, 32B, and with experts 30B-A3B and 235B-A22B. What the tower makes of the patches in some of
    its blocks is added to the output of the language model's first layers, too. Each pair follows its time.
    """

    networks: ClassVar = {
        "qwen3_vl": "Qwen3VLForConditionalGeneration",
        "qwen3_vl_moe": "Qwen3VLMoeForConditionalGeneration",
    }
    token_space = ("visual.merger.linear_fc2.weight",)
    sizes = FrameSizes(32, 128 * 32**2, 768 * 32**2, of_all=True)

    def _prefix(self, tokens: CompressedTokens) -> VideoPrompt:
        if tokens.deepstack is None and len(self.tower.config.deepstack_visual_indexes):
            raise ValueError(
                "deepstack: expected features beside the tokens, got none; see aot.pipeline.stream.SegmentCompressor"
            )
        return super()._prefix(tokens)

    def _template(self) -> tuple[str, str]:
        """What the chat template puts around a video gave way to the pairs in the code that the family came with;
        transformers from 5.10 on leaves it around all of them ("hf").
        """
        user = "<|im_start|>user\n"
        return (user + _START, 2 * _END + _ASKED) if self.config.template == "hf" else (user, _END + _ASKED)

    def _runs(self, tokens: CompressedTokens) -> Sequence[Run]:
        times = [f"<{time:.1f} seconds>{_START}" for time in tokens.timestamps_s]
        pairs = zip(times, by_frame(tokens), strict=True)
        return [Run(f"{_END if number else ''}{time}", kept) for number, (time, kept) in enumerate(pairs)]

    def _pair_times(self, times_s: Sequence[float]) -> tuple[float, ...]:
        starts = range(0, len(times_s), self.temporal_patch)
        last = len(times_s) - 1
        return tuple((times_s[first] + times_s[min(first + self.temporal_patch - 1, last)]) / 2 for first in starts)
