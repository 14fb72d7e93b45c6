"""Answers of an engine that continues the embeddings of our prompts: here transformers' own generation."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest
import torch

import aot
from aot.config.schema import GenerationConfig
from aot.errors import UnsupportedError
from aot.models.composed import ComposedModel
from aot.models.language.word_choice import understood_settings
from aot.pipeline.run import Pipeline
from aot.serving.batch.jobs import Job
from aot.serving.batch.worker import Outputs, VideoWorker
from aot.serving.engines.answers import EngineAnswerer
from aot.serving.engines.base import EngineRequest, Sampling, begun
from aot.serving.engines.options import EngineOptions, check_family
from aot.types import CompressedTokens
from tests.support.http_server import running

OPTIONS = GenerationConfig(max_new_tokens=12)


class Continuing:
    """An engine that sees embeddings alone, and gives ids one by one."""

    def __init__(self, model: ComposedModel) -> None:
        self.network, self.running, self.most, self.left = model.network, 0, 0, 0

    def begin(self, request: EngineRequest) -> Generator[list[int], None, None]:
        self.running += 1
        self.most = max(self.most, self.running)
        return begun(self._ids(request))

    def _ids(self, request: EngineRequest) -> Generator[list[int], None, None]:
        try:
            yield []
            with torch.inference_mode():
                (ids,) = self.network.generate(
                    inputs_embeds=request.embeddings[None],
                    max_new_tokens=request.sampling.max_tokens,
                    do_sample=False,
                    eos_token_id=request.sampling.stop_token_ids,
                ).tolist()
            for word in ids:
                yield [word]
        except GeneratorExit:
            self.left += 1
            raise
        finally:
            self.running -= 1

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def tokens(session: aot.Session, clip_file: Path) -> CompressedTokens:
    return session.compress(clip_file).tokens


@pytest.fixture
def engine(session: aot.Session) -> Continuing:
    assert isinstance(session.pipeline.model, ComposedModel)
    return Continuing(session.pipeline.model)


@pytest.fixture
def pipeline(session: aot.Session, engine: Continuing) -> Pipeline:
    model = session.pipeline.model
    assert isinstance(model, ComposedModel)
    return Pipeline(model, session.config, answerer=EngineAnswerer(model, engine))


def test_embeddings_say_all_that_the_language_model_reads(
    session: aot.Session, pipeline: Pipeline, tokens: CompressedTokens
) -> None:
    for question in ("what moves?", "is it red?"):
        ours, theirs = session.stream(tokens, question), pipeline.answer(tokens, question)
        assert next(iter(theirs)) == "" and "".join(ours) == "".join(theirs) != ""
        assert (ours.prompt_tokens, ours.output_tokens) == (theirs.prompt_tokens, theirs.output_tokens)
        assert ours.layer_tokens == theirs.layer_tokens and theirs.first_token_at is not None
    reading = pipeline.read(tokens)
    assert reading.answers(["what moves?"], OPTIONS) == session.ask_many(tokens, ["what moves?"])


def test_conversations(session: aot.Session, pipeline: Pipeline, tokens: CompressedTokens) -> None:
    ours, theirs = session.converse(tokens), pipeline.converse(tokens)
    for question in ("what moves?", "and then?"):
        assert "".join(ours.ask(question)) == "".join(theirs.ask(question))
    assert ours.turns == theirs.turns


def test_an_answer_that_is_left_ends_in_the_engine(
    pipeline: Pipeline, engine: Continuing, tokens: CompressedTokens
) -> None:
    pieces = iter(pipeline.answer(tokens, "what moves?"))
    assert next(pieces) == "" and engine.running == 1
    pieces.close()
    assert engine.running == 0 and engine.left == 1


def test_a_batch_encodes_while_answers_are_generated(
    session: aot.Session, pipeline: Pipeline, engine: Continuing, clip_file: Path, tmp_path: Path
) -> None:
    jobs = [Job(str(number), str(clip_file), ("what moves?", "is it red?")) for number in range(3)]
    jobs += [Job("none", str(clip_file)), Job("bad", str(tmp_path / "nope.mp4"), ("why?",))]
    both = [
        list(VideoWorker(each, Outputs(tmp_path, tokens=False), at_once).run(jobs))
        for each, at_once in ((session.pipeline, None), (pipeline, 4))
    ]
    one, other = ([(row.id, row.question, row.answer, row.error) for rows in run for row in rows] for run in both)
    assert one == other and len(one) == 8
    assert engine.running == 0


def test_the_server_hands_requests_over(pipeline: Pipeline, session: aot.Session, clip_file: Path) -> None:
    import openai

    with running(pipeline, folders=(clip_file.parent,)) as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        parts = [
            {"type": "video_url", "video_url": {"url": clip_file.as_uri()}},
            {"type": "text", "text": "what moves?"},
        ]
        reply = client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": parts}])  # type: ignore[list-item]
    assert reply.choices[0].message.content == session.ask(clip_file, "what moves?")


# --- What engines cannot do


@pytest.mark.parametrize(
    "name, value",
    [
        ("no_repeat_ngram_size", 3),
        ("bad_words_ids", [[4]]),
        ("suppress_tokens", [4]),
        ("begin_suppress_tokens", [4]),
    ],
)
def test_rules_that_engines_lack_are_refused(name: str, value: object) -> None:
    from transformers import GenerationConfig as Settings

    settings = Settings(**understood_settings({name: value, "eos_token_id": [2, 3]}))
    with pytest.raises(UnsupportedError, match=f"{name}.*--engine transformers"):
        Sampling.of(settings, OPTIONS)


def test_rules_that_engines_have() -> None:
    from transformers import GenerationConfig as Settings

    settings = Settings(eos_token_id=[3, 2], repetition_penalty=1.1, top_p=0.8, top_k=20, typical_p=0.9)
    asked = GenerationConfig(max_new_tokens=7, min_new_tokens=2, temperature=0.0, seed=5)
    assert Sampling.of(settings, asked) == Sampling(7, 2, 0.0, 5, [2, 3], 1.1, 20, 0.8, 0.0)
    with pytest.raises(UnsupportedError, match="typical_p"):  # it acts on random tokens alone
        Sampling.of(settings, GenerationConfig(temperature=0.5))


def test_families_with_positions_in_three_axes_are_refused() -> None:
    from aot.models.families.llava import Llava
    from aot.models.families.qwen_families import Qwen3VL

    check_family(Llava, "llava")
    with pytest.raises(UnsupportedError, match="Qwen/X numbers visual tokens by time, row and column"):
        check_family(Qwen3VL, "Qwen/X")
    assert EngineOptions().answers_at_once is None
