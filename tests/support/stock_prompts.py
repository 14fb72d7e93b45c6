"""Return the prompts that lmms-eval's own models of LLaVA-OneVision write; their networks are stand-ins."""

from __future__ import annotations

import importlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

__all__ = ["hub_prompt", "native_prompt"]

GENERATION = {"max_new_tokens": 4, "temperature": 0, "do_sample": False}


@dataclass
class ChatML:
    """The template "qwen_1_5" of LLaVA's own package, which no index of packages has."""

    roles: tuple[str, str] = ("<|im_start|>user", "<|im_start|>assistant")
    sep: str = "<|im_end|>"
    sep_style: str = "chatml"
    messages: list[tuple[str, str | None]] = field(default_factory=list)

    def copy(self) -> ChatML:
        return replace(self, messages=[])

    def append_message(self, role: str, message: str | None) -> None:
        self.messages.append((role, message))

    def get_prompt(self) -> str:
        turns = [f"{role}\n" + (f"{text}{self.sep}\n" if text else "") for role, text in self.messages]
        return "".join([f"<|im_start|>system\nYou are a helpful assistant.{self.sep}\n", *turns])


def native_prompt(monkeypatch: pytest.MonkeyPatch, tokenizer: Any, context: str, video: Path) -> str:
    """Return the prompt of the model `llava_onevision`, with <video> for <image>."""
    module = importlib.import_module("lmms_eval.models.simple.llava_onevision")
    written: list[str] = []

    def note(prompt: str, *others: Any, **named: Any) -> torch.Tensor:
        written.append(prompt)
        return torch.tensor([1, 2, 3])

    stand_ins = {
        "DEFAULT_IMAGE_TOKEN": "<image>",
        "IMAGE_TOKEN_INDEX": -200,
        "SeparatorStyle": SimpleNamespace(TWO="two"),
        "conv_templates": {"qwen_1_5": ChatML()},
        "KeywordsStoppingCriteria": lambda *given: None,
        "tokenizer_image_token": note,
    }
    for name, value in stand_ins.items():
        monkeypatch.setattr(module, name, value, raising=False)
    model = _bare(module.Llava_OneVision, tokenizer)
    model._config = SimpleNamespace(image_aspect_ratio="pad")
    model._image_processor = SimpleNamespace(preprocess=lambda frames, **named: {"pixel_values": torch.zeros(2)})
    model._model = SimpleNamespace(generate=lambda *given, **named: torch.tensor([[1]]))
    model.conv_template, model.token_strategy, model.video_decode_backend = "qwen_1_5", "single", "decord"
    model.mm_spatial_pool_stride, model.mm_spatial_pool_mode, model.use_cache = 2, "bilinear", True
    model.max_frames_num = 2
    model.generate_until([request(context, dict(GENERATION), lambda document: [str(video)])])
    return written[0].replace("<image>", "<video>")


def hub_prompt(tokenizer: Any, messages: list[dict[str, Any]], chat_template: Path) -> str:
    """Return the prompt of the model `llava_hf`, whose messages are written by the hub's template."""
    module = importlib.import_module("lmms_eval.models.chat.llava_hf")
    template = json.loads(chat_template.read_text(encoding="utf-8"))["chat_template"]
    written: list[str] = []

    class Processor:
        def apply_chat_template(self, messages: Any, **named: Any) -> str:
            written.append(tokenizer.apply_chat_template(messages, chat_template=template, **named))
            return written[0]

        def __call__(self, **named: Any) -> Any:
            return SimpleNamespace(to=lambda *given: {})

    model = _bare(module.LlavaHf, tokenizer)
    model._image_processor, model.use_cache = Processor(), True
    model._model = SimpleNamespace(dtype=torch.float32)  # that it generates nothing is no error to this model
    model.accelerator = SimpleNamespace(is_main_process=False, unwrap_model=lambda network: network)
    model.generate_until([request("", lambda document: messages, dict(GENERATION))])
    return written[0]


def request(*begin: Any) -> Any:
    """Return a request of the harness about the document 0; `begin` are the arguments before it."""
    from lmms_eval.api.instance import Instance

    metadata = {"task": "drawn", "doc_id": 0, "repeats": 1}
    return Instance("generate_until", (*begin, 0, "drawn", "test"), 0, metadata)


def _bare(kind: Any, tokenizer: Any) -> Any:
    """Return a model of the harness that has loaded nothing."""
    from lmms_eval.api.model import CacheHook

    model = object.__new__(kind)
    model._tokenizer, model._device, model.batch_size_per_gpu = tokenizer, "cpu", 1
    model._rank, model._world_size, model.cache_hook = 0, 1, CacheHook()
    model.task_dict = {"drawn": {"test": [None]}}
    return model
