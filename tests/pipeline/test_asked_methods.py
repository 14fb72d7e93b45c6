"""Methods that read the question: each run gets its own, and without one they are refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from aot.config.schema import Config, SamplingConfig
from aot.errors import UnsupportedError
from aot.models.families.llava import Llava
from aot.pipeline.run import Compression, Pipeline, compress_each
from aot.serving.http.server import ServerOptions, make_server
from tests.support.compressed import compress_video

ASKED = Config(method="echoprune", ratio=0.2, sampling=SamplingConfig(6))
OTHER = Config(method="uniform", ratio=0.2, sampling=SamplingConfig(6))


def cells(model: Llava, clip: Path, questions: Sequence[str], config: Config = ASKED) -> list[int]:
    return compress_video(clip, model, config, questions).tokens.cell.tolist()


def test_the_question_is_embedded_as_the_prompt_is(small_model: Llava) -> None:
    ids = [*small_model.tokenizer("a red ox?")["input_ids"], *small_model.tokenizer("why?")["input_ids"]]
    found = small_model.embed_questions(["a red ox?", "why?"])
    assert torch.equal(found, small_model.network.get_input_embeddings().weight[ids])
    assert not found.requires_grad


def test_other_questions_keep_other_tokens(small_model: Llava, clip_file: Path) -> None:
    of_one, again, of_other = (cells(small_model, clip_file, [text]) for text in ("a red ox?", "a red ox?", "blue"))
    assert of_one == again != of_other
    assert cells(small_model, clip_file, ["a red ox?"], OTHER) == cells(small_model, clip_file, [], OTHER)


def test_several_questions_are_one(small_model: Llava, clip_file: Path) -> None:
    """Their tokens are, whatever their order."""
    both = cells(small_model, clip_file, ["a red ox?", "blue"])
    assert both == cells(small_model, clip_file, ["blue", "a red ox?"])
    assert both == cells(small_model, clip_file, ["blue", " ", "a red ox?"])


def test_a_pipeline_about_one_question_reads_no_other(small_model: Llava, clip_file: Path) -> None:
    of_each = [Pipeline(small_model, ASKED).about(text) for text in ("a red ox?", "blue")]
    results = compress_each(of_each, clip_file, ["a red ox?", "blue"])
    found = [result.tokens.cell.tolist() for _, result in results if isinstance(result, Compression)]
    assert found == [cells(small_model, clip_file, [text]) for text in ("a red ox?", "blue")]


@pytest.mark.parametrize("questions", [[], [" "]])
def test_without_a_question_it_is_refused(small_model: Llava, clip_file: Path, questions: list[str]) -> None:
    with pytest.raises(UnsupportedError, match=r"echoprune keeps tokens by the question, and there is none here; use"):
        cells(small_model, clip_file, questions)


def test_chunks_read_the_same_question(small_model: Llava, clip_file: Path) -> None:
    cut = Config(method="echoprune", ratio=0.2, sampling=SamplingConfig(6, segment_frames=3))
    found = compress_video(clip_file, small_model, cut, ["a red ox?"])
    assert len(found.tokens.features) == len(cells(small_model, clip_file, ["a red ox?"]))


def test_a_server_keeps_one_set_of_tokens_per_video(small_model: Llava) -> None:
    pytest.importorskip("fastapi")
    with pytest.raises(UnsupportedError, match="keeps other tokens for each question; use another --method"):
        make_server(Pipeline(small_model, ASKED), ServerOptions("tiny"))
