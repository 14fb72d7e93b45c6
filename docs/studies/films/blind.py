"""How far models can answer, against the best constant answer: accuracy by family with all tokens, in Markdown.

python docs/studies/films/blind.py QUESTIONS.jsonl FOLDER...

Each folder is one of `aot eval`, of one model, with `none` among its conditions. The constant answer sees no video: to
every wording it gives the answer that is most often right in these very questions, and so is a little too good; "the
first thing named" is an answer too. Intervals: 95 %, bootstrap over videos. Only questions that all folders answered
count.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from aot.evaluation.bootstrap import Floats, Interval, Resampling
from aot.evaluation.dataset import Item, load_dataset
from aot.shapes.world import COLORS, SHAPES

NAME = re.compile(rf"\b(?:(?:{'|'.join(COLORS)}) )?(?:{'|'.join(SHAPES)})\b|\b(?:{'|'.join(COLORS)})\b")


def template(item: Item) -> tuple[str, str]:
    """The wording without names, and the answer, as the position of the name in the question if it is one."""
    names = NAME.findall(item.question)
    answer = item.answer or ""
    return NAME.sub("{}", item.question), f"name {names.index(answer)}" if answer in names else answer


def scores_of(folder: Path) -> Mapping[str, float]:
    rows = map(json.loads, (folder / "answers.jsonl").read_text(encoding="utf-8").splitlines())
    return {row["item"]: row["score"] for row in rows if row["condition"] == "none"}


def constant(items: list[Item]) -> Floats:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for wording, answer in map(template, items):
        counts[wording][answer] += 1
    best = {wording: each.most_common(1)[0][0] for wording, each in counts.items()}
    return np.array([best[wording] == answer for wording, answer in map(template, items)], float)


def main(data: Path, folders: list[Path]) -> None:
    answered = {folder.name: scores_of(folder) for folder in folders}
    items = [item for item in load_dataset(data) if all(item.fingerprint in scores for scores in answered.values())]
    videos = sorted({item.video for item in items})
    families = sorted({item.family for item in items})
    kinds = [families.index(item.family) for item in items]
    resampling = Resampling([videos.index(item.video) for item in items], kinds)
    print(f"{len(items)} questions about {len(videos)} videos\n")
    print("| | micro | macro | " + " | ".join(f"{name} ({kinds.count(k)})" for k, name in enumerate(families)) + " |")
    print("|---" * (len(families) + 3) + "|")
    rows = {"constant answer": constant(items)}
    rows |= {name: np.array([scores[item.fingerprint] for item in items], float) for name, scores in answered.items()}
    for name, scores in rows.items():
        whole = [resampling.micro(scores), resampling.macro(scores)]
        cells = [*whole, *(resampling.family(scores, family) for family in range(len(families)))]
        print(f"| {name} | " + " | ".join(map(cell, cells)) + " |")


def cell(interval: Interval) -> str:
    half = 50 * ((interval.high or 0) - (interval.low or 0))
    return f"{100 * interval.mean:.0f} ± {half:.0f}"


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
