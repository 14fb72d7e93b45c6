"""Prompt templates, and cutting a prompt at the place where the video goes."""

from __future__ import annotations

from typing import Any

from aot.errors import ConfigError

__all__ = ["TEMPLATES", "split_prompt"]

# "native" is the text LLaVA-OneVision was trained with; "hf" what the hub's chat template yields.
TEMPLATES = {
    "native": (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n{video}\n{question}<|im_end|>\n<|im_start|>assistant\n"
    ),
    "hf": "<|im_start|>user {video}\n{question}<|im_end|><|im_start|>assistant\n",
}


def split_prompt(tokenizer: Any, template: str, question: str, video_token_id: int) -> tuple[list[int], list[int]]:
    """Token ids before and after the video.

    The text is tokenised as a whole, so the ids are those of the stock processor.

    Raises:
        ConfigError: the question is empty, or holds one of the model's control words.
    """
    question = question.strip()
    if not question:
        raise ConfigError("the question is empty; ask something")
    try:
        question.encode("utf-8")
    except UnicodeEncodeError:
        raise ConfigError("the question is not valid UTF-8 text; type it again") from None
    reserved = [word for word in tokenizer.get_added_vocab() if word in question]
    if reserved:
        raise ConfigError(f"the question contains {reserved[0]}, which the model reserves; leave it out")
    video_token = tokenizer.convert_ids_to_tokens(video_token_id)
    text = TEMPLATES[template].format(video=video_token, question=question)
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    place = ids.index(video_token_id)
    return ids[:place], ids[place + 1 :]
