"""What lmms-eval asks: messages of several shapes, and settings of generation. It need not be installed."""

from __future__ import annotations

from typing import Any

import pytest

from aot.config.schema import GenerationConfig
from aot.errors import ConfigError
from aot.models.base import Turn
from aot.serving.lmms.questions import Asked, Stops, read_generation, read_messages

DEFAULTS = GenerationConfig(max_new_tokens=99)
VIDEO = {"type": "video", "url": "a.mp4", "start_time": None, "end_time": None}


def text(said: str) -> dict[str, str]:
    return {"type": "text", "text": said}


def user(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


def answered(said: str) -> dict[str, Any]:
    return {"role": "assistant", "content": [text(said)]}


def asked(*messages: dict[str, Any]) -> Asked:
    return read_messages(messages, DEFAULTS, Stops())


def test_the_question_is_taken_as_it_is() -> None:
    assert asked(user(VIDEO, text(" who?\nA. I\n"))).question == " who?\nA. I\n"
    assert asked(user(text("who?"), VIDEO, text("why?"))).question == "who?\nwhy?"
    found = asked(user(VIDEO, text("who? ")), answered(" I"), user(text("why?")))
    assert (found.video, found.turns, found.question) == ("a.mp4", (Turn("who? ", " I"),), "why?")


@pytest.mark.parametrize(
    "video",
    [
        {**VIDEO, "start_time": 2.0, "end_time": 3.5},
        {"type": "video", "url": {"type": "video", "path": "a.mp4", "video_start": 2.0, "video_end": 3.5}},
        {"type": "video", "url": {"url": "a.mp4", "video_start": 2.0, "video_end": 3.5}},
    ],
)
def test_a_part_of_a_video_is_known(video: dict[str, Any]) -> None:
    found = asked(user(video, text("who?")))
    assert (found.video, found.start_s, found.end_s) == ("a.mp4", 2.0, 3.5)


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ([user(text("who?"))], "must have the video"),
        ([user(VIDEO, {**VIDEO, "url": "b.mp4"}, text("who?"))], "must have one video"),
        ([user(VIDEO, {**VIDEO, "end_time": 3.0}, text("who?"))], "several parts of a video"),
        ([user(VIDEO, {"type": "image", "url": object()}, text("who?"))], "a part of type image"),
        ([user({**VIDEO, "url": [1, 2]}, text("who?"))], "is a list"),
        ([user(VIDEO)], "must have a question"),
        ([{"role": "system", "content": [text("be brief")]}, user(VIDEO, text("who?"))], "instructions of the system"),
        ([user(VIDEO, text("who?")), user(text("why?"))], "must alternate"),
        ([], "must alternate"),
    ],
)
def test_what_is_no_question_about_one_video_is_refused(messages: list[dict[str, Any]], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        asked(*messages)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {}),
        (
            {"max_new_tokens": 16, "temperature": 0, "top_p": 1.0, "num_beams": 1, "do_sample": False},
            {"max_new_tokens": 16},
        ),
        ({"do_sample": False, "temperature": 0.7, "top_p": 0.9, "top_k": 5}, {}),
        ({"do_sample": True}, {"temperature": 1.0}),
        ({"do_sample": True, "temperature": 0.5, "top_p": None, "seed": 3}, {"temperature": 0.5, "seed": 3}),
        ({"temperature": 0.5}, {"temperature": 0.5}),
        ({"image_aspect_ratio": "pad", "use_cache": True, "min_new_tokens": 2}, {"min_new_tokens": 2}),
    ],
)
def test_the_settings_of_a_task_are_kept(given: dict[str, Any], expected: dict[str, Any]) -> None:
    options, stops = read_generation(given, DEFAULTS)
    assert options == GenerationConfig(**{"max_new_tokens": 99, **expected}) and stops == Stops()


def test_a_temperature_of_the_model_arguments_counts_if_the_task_has_none() -> None:
    own = GenerationConfig(temperature=0.5)
    assert read_generation({}, own)[0] == own
    assert read_generation({"do_sample": False}, own)[0].temperature == 0
    with pytest.raises(ConfigError, match="top_p=0"):
        read_generation({"top_p": 0.9}, own)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"num_beams": 4}, "num_beams=4 is not supported"),
        ({"do_sample": True, "top_k": 5}, "top_k=5 is not supported"),
        ({"repetition_penalty": 1.2}, "repetition_penalty=1.2 is not supported"),
        ({"early_stopping": True}, "unknown setting generation.early_stopping"),
        ({"max_new_tokens": "16"}, "generation.max_new_tokens must be a whole number"),
        ({"max_new_tokens": 0}, "generation.max_new_tokens must be at least 1"),
    ],
)
def test_what_would_change_the_answer_is_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        read_generation(given, DEFAULTS)


@pytest.mark.parametrize(
    ("until", "found"),
    [
        ("\n\n", "A. yes"),
        (["\n\n", "."], "A"),
        (["", "no"], "A. yes\n\nB."),
        (None, "A. yes\n\nB."),
        ([], "A. yes\n\nB."),
    ],
)
def test_an_answer_ends_before_the_first_stop(until: Any, found: str) -> None:
    _, stops = read_generation({"until": until}, DEFAULTS)
    assert stops.cut("\n\n A. yes\n\nB. ") == found
