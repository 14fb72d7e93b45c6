"""Differences between Qwen2.5-VL and Qwen3-VL: times of frame pairs, prompts, attention windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from aot.models.families.qwen_frames import FrameSizes, window_order
from aot.models.families.qwen_vl import QwenVL
from aot.models.language.prompt import Run, VideoPrompt, by_frame, sorted_by_cell
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

    def _prefix(self, tokens: CompressedTokens) -> VideoPrompt:
        # Sorted on the device; the host need not know the order.
        return super()._prefix(sorted_by_cell(tokens))

    def _runs(self, tokens: CompressedTokens) -> Sequence[Run]:
        # No text between pairs: their times are in the position ids.
        return [Run("", range(len(tokens.features)))]

    def _pair_times(self, times_s: Sequence[float]) -> tuple[float, ...]:
        # A pair has the time of its first frame.
        return tuple(times_s[:: self.temporal_patch])

    def _full_attention(self) -> Sequence[int]:
        # The list may name blocks that a small tower does not have.
        return [block for block in self.tower.config.fullatt_block_indexes if block < self.tower.config.depth]

    def _attended_order(self, grid: tuple[int, int]) -> Tensor | None:
        # The tower sorts tokens by attention window; the configured size is in pixels.
        vision = self.tower.config
        return window_order(*grid, vision.window_size // vision.spatial_merge_size // vision.patch_size)


class Qwen3VL(QwenVL):
    """Qwen3-VL 2B, 4B, 8B and 32B, and the mixtures of experts 30B-A3B and 235B-A22B.

    DeepStack: features of some tower blocks are added to the outputs of the first layers of the
    language model. In the prompt, each pair of frames comes after its timestamp.
    """

    reuses_frames = True
    networks: ClassVar = {
        "qwen3_vl": "Qwen3VLForConditionalGeneration",
        "qwen3_vl_moe": "Qwen3VLMoeForConditionalGeneration",
    }
    token_space = ("visual.merger.linear_fc2.weight",)
    sizes = FrameSizes(32, 128 * 32**2, 768 * 32**2, of_all=True)

    def _prefix(self, tokens: CompressedTokens) -> VideoPrompt:
        if tokens.deepstack is None and len(self.tower.config.deepstack_visual_indexes):
            raise ValueError(
                "deepstack: expected features of the kept tokens, got none; "
                "see aot.pipeline.chunk_compressor.ChunkCompressor"
            )
        return super()._prefix(tokens)

    def _template(self) -> tuple[str, str]:
        """Return the text before and after the video.

        Vision markers enclose each pair of frames. With `model.template` "hf", markers also enclose
        the whole video: so does the chat template in transformers 5.10 and later, but not Qwen's
        original code.
        """
        user = "<|im_start|>user\n"
        return (user + _START, 2 * _END + _ASKED) if self.config.template == "hf" else (user, _END + _ASKED)

    def _runs(self, tokens: CompressedTokens) -> Sequence[Run]:
        # The end marker of a pair comes before the next time; the template has the last marker.
        times = [f"<{time:.1f} seconds>{_START}" for time in tokens.timestamps_s]
        pairs = zip(times, by_frame(tokens), strict=True)
        return [Run(f"{_END if number else ''}{time}", kept) for number, (time, kept) in enumerate(pairs)]

    def _pair_times(self, times_s: Sequence[float]) -> tuple[float, ...]:
        # A pair has the mean time of its two frames; an odd last frame has its own.
        starts = range(0, len(times_s), self.temporal_patch)
        last = len(times_s) - 1
        return tuple((times_s[first] + times_s[min(first + self.temporal_patch - 1, last)]) / 2 for first in starts)
