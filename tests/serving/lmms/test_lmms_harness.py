"""lmms-eval itself, where it is installed (.ci/engines-lmms): a local task, and the prompts of its own models."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lmms_eval", reason="lmms-eval is not installed")

from lmms_eval.api.instance import GenerationResult
from lmms_eval.api.task import ConfigurableMessagesTask
from lmms_eval.models import get_model
from lmms_eval.tasks import TaskManager

import aot
from aot.errors import ConfigError, ModelError, UnsupportedError, VideoError
from aot.models.families.llava import Llava
from aot.serving.lmms.model import AOTModel
from aot.shapes.clips import write_questions
from tests.support.drawn_task import read_samples, write_task
from tests.support.stock_prompts import hub_prompt, native_prompt, request

SETTINGS = "pretrained=shapes,ratio=0.25,device=cpu"
GENERATION = {"max_new_tokens": 4, "until": ["\n\n"], "do_sample": False}
turn = ConfigurableMessagesTask._build_user_turn


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a task of 50 questions about drawn clips."""
    folder = tmp_path_factory.mktemp("task")
    write_task(folder, write_questions(folder, [3, 4, 5]), 50)
    return folder


def run_harness(folder: Path, task: Path, *more: str, launcher: tuple[str, ...] = ()) -> str:
    """Run the task with output in `folder`; return what was printed."""
    offline = {
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HOME": str(folder / "hub"),
        "OMP_NUM_THREADS": "1",
    }
    command = [
        sys.executable, *(launcher or ("-m",)), "lmms_eval", "--model", "aot", "--model_args", SETTINGS, "--tasks",
        "drawn", "--include_path", str(task), "--output_path", str(folder / "out"), "--log_samples", *more,
    ]  # fmt: skip
    run = subprocess.run(
        command, env={**os.environ, **offline}, capture_output=True, text=True, timeout=300, check=False
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return run.stdout + run.stderr


@pytest.fixture(scope="module")
def evaluated(task: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[float, list[str]]:
    """The accuracy of `aot eval` on the same questions, and its answers in their order."""
    folder = tmp_path_factory.mktemp("evaluated")
    command = ["eval", task / "documents.jsonl", "-o", folder, "--model", "shapes", "--device", "cpu"]
    subprocess.run(
        [sys.executable, "-m", "aot_cli", *command, "--methods", "aot", "--ratios", "0.25"],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, capture_output=True, timeout=300,
    )  # fmt: skip
    rows = [json.loads(line) for line in (folder / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    found = {(row["video"], row["question"]): row["predicted"].strip() for row in rows}
    documents = [json.loads(line) for line in (task / "documents.jsonl").read_text(encoding="utf-8").splitlines()]
    answers = [found[Path(each["video"]).name, each["question"]] for each in documents]
    return sum(row["score"] for row in rows) / len(rows), answers


TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m")


@pytest.mark.parametrize("launcher", [(), TWO], ids=["one process", "two processes"])
def test_a_run_gives_the_answers_of_aot_eval(
    tmp_path: Path, task: Path, evaluated: tuple[float, list[str]], launcher: tuple[str, ...]
) -> None:
    printed = run_harness(tmp_path, task, launcher=launcher)
    results, answers = read_samples(tmp_path / "out")
    accuracy, expected = evaluated
    assert [answers[number] for number in range(50)] == expected
    assert results["results"]["drawn"]["share,none"] == pytest.approx(accuracy, abs=1e-9)
    assert results["throughput"]["avg_kept_tokens"] == 128 == results["throughput"]["avg_visual_tokens"] / 4
    assert '"runs_on"' in printed  # all settings are in the log


def test_a_damaged_video_ends_the_run_without_a_result(tmp_path: Path, task: Path) -> None:
    rows = (task / "documents.jsonl").read_text(encoding="utf-8").splitlines()[-3:]
    (tmp_path / "cut.mp4").write_bytes(Path(json.loads(rows[-1])["video"]).read_bytes()[:3000])
    questions = tmp_path / "questions.jsonl"
    questions.write_text("\n".join([*rows[:2], json.dumps({**json.loads(rows[2]), "video": "cut.mp4"})]))
    write_task(tmp_path, questions, 3)
    printed = run_harness(tmp_path, tmp_path)  # lmms-eval prints the error and exits with 0
    assert "VideoError" in printed and "cut.mp4 is not a video" in printed
    assert not [*(tmp_path / "out").rglob("*.json*")]


@pytest.fixture(scope="module")
def model(small_folder: Path) -> Any:
    return get_model("aot").create_from_arg_string(f"pretrained={small_folder},frames=2,ratio=0.2", {"batch_size": "1"})


def asked(model: Any, messages_of: Callable[[Any], Any], generation: dict[str, Any] = GENERATION) -> Any:
    model.task_dict = {"drawn": {"test": [None]}}
    (answer,) = model.generate_until([request("", messages_of, generation)])
    return answer


def test_the_entry_point_leads_to_the_class(model: Any) -> None:
    assert type(model) is AOTModel and not model.is_simple
    assert (model.rank, model.world_size, str(model.device)) == (0, 1, "cpu")


def test_the_benchmarks_of_the_paper_are_there() -> None:
    script = Path(__file__).parents[3] / "docs" / "studies" / "paper" / "run.sh"
    (named,) = re.findall(r"for task in (.*); do", script.read_text(encoding="utf-8"))
    assert {*named.split(), "egoschema_subset"} <= set(TaskManager().all_tasks)


def test_an_answer_has_its_numbers_of_tokens(model: Any, small_folder: Path, clip_file: Path) -> None:
    answer = asked(model, lambda document: turn([str(clip_file)], "what moves?"))
    assert isinstance(answer, GenerationResult) and answer.text == answer.text.strip() != ""
    assert answer.token_counts.output_tokens == 4
    session = aot.Session(model=small_folder, ratio=0.2, sampling={"frames": 2})
    assert answer.token_counts.input_tokens == session.stream(clip_file, "what moves?").prompt_tokens


CONTEXTS = [
    "What moves?",
    "Question:What moves?\nOption:\n(A) one\n(B) two\nOnly give the best option.\n",
    "  Select the best answer.\nWhat moves?\n\nAnswer with the option's letter from the given choices directly.",
    "What is it?\nA. this\nB. that\nAnswer with the option's letter from the given choices directly.\n",
]
TURNS = ["What moves?\n", "A square.", " Where to? "]


def read_prompt(monkeypatch: pytest.MonkeyPatch, model: Any, messages: list[dict[str, Any]]) -> str:
    """Return the text of the prompt that the language model reads, with <video> for the video."""
    texts: list[str] = []
    monkeypatch.setattr(
        "aot.models.composed.text_ids",
        lambda tokenizer, text: texts.append(text) or tokenizer(text, add_special_tokens=False)["input_ids"],
    )
    asked(model, lambda document: messages)
    before, after = texts
    return f"{before}<video>{after}"


def conversation(video: Path) -> list[dict[str, Any]]:
    first, answer, later = TURNS
    said = {"role": "assistant", "content": [{"type": "text", "text": answer}]}
    return [*turn([str(video)], first), said, *turn([], later)]


@pytest.mark.parametrize("context", CONTEXTS)
def test_prompts_are_those_of_the_stock_model(
    monkeypatch: pytest.MonkeyPatch, model: Any, small_model: Llava, clip_file: Path, context: str
) -> None:
    expected = native_prompt(monkeypatch, small_model.tokenizer, context, clip_file)
    assert read_prompt(monkeypatch, model, turn([str(clip_file)], context)) == expected


def test_a_prompt_with_earlier_turns_is_that_of_the_stock_model(
    monkeypatch: pytest.MonkeyPatch, model: Any, small_model: Llava, clip_file: Path
) -> None:
    context = json.dumps([{"value": f"<image>\n{TURNS[0]}"}, {"value": TURNS[1]}, {"value": TURNS[2]}])
    expected = native_prompt(monkeypatch, small_model.tokenizer, context, clip_file)
    assert read_prompt(monkeypatch, model, conversation(clip_file)) == expected


def in_pieces(video: Path) -> list[dict[str, Any]]:
    first, later = ({"type": "text", "text": text} for text in ("Look. ", " what moves?\n"))
    return [{"role": "user", "content": [first, {"type": "video", "url": str(video)}, later]}]


@pytest.mark.parametrize("context", [*CONTEXTS, conversation, in_pieces])
def test_prompts_by_the_hubs_template_are_those_of_the_stock_model(
    monkeypatch: pytest.MonkeyPatch, small_folder: Path, small_model: Llava, clip_file: Path, context: Any
) -> None:
    model = AOTModel(pretrained=str(small_folder), frames=2, template="hf")
    messages = turn([str(clip_file)], context) if isinstance(context, str) else context(clip_file)
    template = small_folder / "chat_template.json"
    assert read_prompt(monkeypatch, model, messages) == hub_prompt(small_model.tokenizer, messages, template)


def test_errors_name_the_document_and_end_the_other_processes(model: Any, tmp_path: Path, clip_file: Path) -> None:
    def about(file: Path | str) -> Callable[[Any], Any]:
        return lambda document: turn([str(file)], "what?")

    with pytest.raises(ConfigError, match=r"^drawn, document 0: .*num_beams=4 is not supported"):
        asked(model, about(clip_file), {"num_beams": 4})
    with pytest.raises(VideoError, match=r"there is no missing\.mp4"):
        asked(model, about("missing.mp4"))
    (tmp_path / "cut.mp4").write_bytes(clip_file.read_bytes()[:900])
    with pytest.raises(VideoError, match=r"cut\.mp4 is not a video"):
        asked(model, about(tmp_path / "cut.mp4"))
    model._rank, model._world_size = 1, 2
    try:
        with pytest.raises(SystemExit, match=r"aot, process 1 of 2: .*cut\.mp4 is not a video"):
            asked(model, about(tmp_path / "cut.mp4"))
    finally:
        model._rank, model._world_size = 0, 1


def test_what_aot_cannot_do_is_refused(model: Any) -> None:
    for refused in (model.loglikelihood, model.generate_until_multi_round):
        with pytest.raises(UnsupportedError, match="generate_until"):
            refused([])
    with pytest.raises(ConfigError, match="batch_size is 8"):
        AOTModel(batch_size=8)
    with pytest.raises(ModelError):
        AOTModel(pretrained="no/such-model", offline=True)
