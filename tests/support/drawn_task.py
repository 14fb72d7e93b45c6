"""Write questions about drawn clips as a task of lmms-eval, and read what the harness answered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["read_samples", "write_task"]

TASK = """task: drawn
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/documents.jsonl}}
test_split: test
output_type: generate_until
doc_to_visual: !function drawn.visual
doc_to_text: !function drawn.question
doc_to_target: answer
process_results: !function drawn.score
metric_list: [{metric: share, aggregation: mean, higher_is_better: true}]
generation_kwargs: {max_new_tokens: 64, do_sample: false, temperature: 0}
"""
FUNCTIONS = """
from pathlib import Path

from aot.evaluation.dataset import Item
from aot.evaluation.scoring import score as scored


def visual(document):
    return [document["video"]]


def question(document):
    return document["question"]


def score(document, answers):
    item = Item("", Path(document["video"]), document["question"], document["answer"], family=document["family"])
    return {"share": scored(item, answers[0])}
"""


def write_task(folder: Path, questions: Path, count: int) -> Path:
    """Write the first `count` of `questions` as the task "drawn" and as a data set; return the latter."""
    rows = [json.loads(line) for line in questions.read_text(encoding="utf-8").splitlines()][:count]
    assert len(rows) == count
    found = [{**row, "video": str(questions.parent / row["video"])} for row in rows]
    lines = "".join(json.dumps(row) + "\n" for row in found)
    for name, text in {
        "documents.jsonl": lines, "drawn.yaml": TASK.replace("FOLDER", str(folder)), "drawn.py": FUNCTIONS
    }.items():  # fmt: skip
        (folder / name).write_text(text, encoding="utf-8")
    return folder / "documents.jsonl"


def read_samples(output: Path) -> tuple[dict[str, Any], dict[int, str]]:
    """Return the results that the harness wrote, and the answer to each document."""
    (results,) = output.rglob("*_results.json")
    (samples,) = output.rglob("*_samples_drawn.jsonl")
    rows = [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines()]
    answers = {row["doc_id"]: row["filtered_resps"] for row in rows}
    found = {number: text if isinstance(text, str) else text[0] for number, text in answers.items()}
    return json.loads(results.read_text(encoding="utf-8")), found
