"""Questions of lmms-eval get the answers of a session; each video is encoded once. lmms-eval need not be installed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import aot
from aot.config.schema import GenerationConfig
from aot.errors import VideoError
from aot.models.base import Turn
from aot.pipeline.run import Pipeline
from aot.serving.lmms.answering import Answered, answer_all, check_videos
from aot.serving.lmms.questions import Asked, Stops
from aot.text import Verbatim
from tests.support.make_videos import write

OPTIONS = GenerationConfig(max_new_tokens=12)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory, clip_file: Path) -> list[str]:
    folder = tmp_path_factory.mktemp("clips")
    return [str(write(folder / "b.mp4", 16)), str(clip_file)]


def ask(video: str, question: str, **others: Any) -> Asked:
    given = {"turns": (), "start_s": None, "end_s": None, "options": OPTIONS, "stops": Stops(), **others}
    return Asked(video, Verbatim(question), **given)


def answers(session: aot.Session, *asked: Asked) -> list[Answered]:
    found = {answered.index: answered for answered in answer_all(session.pipeline, asked)}
    return [found[index] for index in range(len(asked))]


def test_answers_are_those_of_a_session(session: aot.Session, clips: list[str]) -> None:
    questions = [(clips[0], "what moves?"), (clips[1], "what color?"), (clips[0], "how many?")]
    found = answers(session, *(ask(*each) for each in questions))
    assert [each.text for each in found] == [session.ask(*each).strip() for each in questions]
    assert len({each.text for each in found}) == 3
    assert all(each.reply.prompt_tokens > each.report.kept_tokens > 0 < each.reply.output_tokens for each in found)


def test_a_video_is_encoded_once_for_its_questions(
    session: aot.Session, clips: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[tuple[str, int]] = []
    compress = Pipeline.compress

    def counted(self: Pipeline, video: Any, questions: Any = (), **named: Any) -> Any:
        encoded.append((Path(video.file).name, len(questions)))
        return compress(self, video, questions, **named)

    monkeypatch.setattr(Pipeline, "compress", counted)
    answers(session, *(ask(clips[number % 2], f"what {number}?") for number in range(6)))
    assert encoded == [("b.mp4", 3), ("clip.mp4", 3)]
    encoded.clear()
    config = replace(session.config, sampling=replace(session.config.sampling, select_frames=2))
    chosen = list(answer_all(Pipeline(session.pipeline.model, config), [ask(clips[1], "red?"), ask(clips[1], "blue?")]))
    assert encoded == [("clip.mp4", 1)] * 2 and len(chosen) == 2  # the frames depend on the question


def test_a_method_that_reads_the_question_gets_each_alone(session: aot.Session, clips: list[str]) -> None:
    asking = aot.Session.of(replace(session.config, method="echoprune"))
    questions = ["what moves?", "is it red?"]
    found = answers(asking, *(ask(clips[1], question) for question in questions))
    assert [each.text for each in found] == [asking.ask(clips[1], question).strip() for question in questions]


def test_the_whitespace_around_a_question_reaches_the_model(session: aot.Session, clips: list[str]) -> None:
    found = answers(session, ask(clips[1], "what moves?"), ask(clips[1], "what moves?\n\n\n"))
    assert found[0].reply.prompt_tokens < found[1].reply.prompt_tokens


def test_earlier_turns_reach_the_model(session: aot.Session, clips: list[str]) -> None:
    history = (Turn("what moves?", "a square"),)
    later, plain = answers(session, ask(clips[1], "where?", turns=history), ask(clips[1], "where?"))
    conversation = session.converse(clips[1])
    conversation.turns = list(history)
    assert later.text == "".join(conversation.ask("where?")).strip()
    assert later.text != plain.text == session.ask(clips[1], "where?").strip()


def test_each_question_has_its_own_settings(session: aot.Session, clips: list[str]) -> None:
    short = ask(clips[1], "what moves?", options=replace(OPTIONS, max_new_tokens=2))
    part = ask(clips[1], "what moves?", start_s=1.0, end_s=2.0)
    found = answers(session, ask(clips[1], "what moves?"), short, part)
    assert [each.reply.output_tokens for each in found[:2]] == [12, 2]
    assert found[0].text.startswith(found[1].text)
    times = [frame.timestamp_s for frame in found[2].report.frames]
    assert min(times) >= 1.0 and max(times) <= 2.0
    stopped = answers(session, ask(clips[1], "what moves?", stops=Stops((found[0].text[3:5],))))
    assert stopped[0].text == found[0].text[: found[0].text.index(found[0].text[3:5])].strip()


def test_a_question_that_is_repeated_is_sampled_anew(session: aot.Session, clips: list[str]) -> None:
    warm = ask(clips[1], "what moves?", options=replace(OPTIONS, temperature=2.0, seed=5))
    first, second = (each.text for each in answers(session, warm, warm))
    assert first != second
    assert [each.text for each in answers(session, warm, warm)] == [first, second]


def test_a_damaged_video_is_an_error_and_no_empty_answer(
    session: aot.Session, clips: list[str], tmp_path: Path
) -> None:
    damaged = tmp_path / "cut.mp4"
    damaged.write_bytes(Path(clips[0]).read_bytes()[:900])
    found = []
    with pytest.raises(VideoError, match=r"cut.mp4"):
        found.extend(answer_all(session.pipeline, [ask(clips[1], "what?"), ask(str(damaged), "what?")]))
    assert not found or [each.index for each in found] == [0]


def test_missing_videos_are_named_before_the_first_answer(clips: list[str]) -> None:
    check_videos([ask(clips[0], "what?"), ask("https://example.org/a.mp4", "what?")])
    with pytest.raises(VideoError) as caught:
        check_videos([ask(f"{number // 2}.mp4", "what?") for number in range(24)])
    assert str(caught.value).startswith("there is no 0.mp4, 1.mp4,") and " and 2 more; " in str(caught.value)
