"""The tables of docs/studies/projector.md: accuracy after each training, and paired differences.

python docs/studies/projector/compare.py QUESTIONS.jsonl BUNDLED TRAINED...

Folders of `aot eval` on the same questions, named after their trainings. Only questions that all of them have answered
count.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).parents[1] / "methods"))
from table import Answers, paired, read, resampled, signed

Row = Mapping[str, Any]


def chosen(found: Mapping[str, Answers], wanted: Callable[[Row], bool]) -> dict[str, Answers]:
    """Return only the answers to the questions that `wanted` is true for."""
    return {
        name: {key: [row for row in rows if wanted(row)] for key, rows in answers.items()}
        for name, answers in found.items()
    }


def accuracy(answers: Answers, condition: str) -> str:
    if condition not in answers:
        return "-"
    rows = answers[condition]
    found = resampled(rows).micro(np.array([row["score"] for row in rows]))
    return f"{100 * found.mean:.1f} ± {50 * (found.high - found.low):.1f}"


def difference(more: Answers, less: Answers, condition: str) -> str:
    known = condition in more and condition in less
    return signed(paired(more[condition], less[condition])) if known else "-"


def markdown(heads: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *body]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def main() -> None:
    questions, *folders = (Path(name) for name in sys.argv[1:])
    found = {folder.name: read([folder]) for folder in folders}
    asked = [{(row["video"], row["item"]) for row in next(iter(answers.values()))} for answers in found.values()]
    common = set.intersection(*asked)
    found = chosen(found, lambda row: (row["video"], row["item"]) in common)
    bundled, trained, *others = found
    conditions = list(found[bundled])
    print(f"{len(common)} questions about {len({video for video, _ in common})} clips\n")
    # 1. Every training.
    body = [[name, *(accuracy(answers, each) for each in conditions)] for name, answers in found.items()]
    print(markdown(["trained", *conditions], body))
    # 2. Paired: each training less none, and the first less the others.
    pairs = [(name, bundled) for name in (trained, *others)] + [(trained, name) for name in others]
    body = [
        [f"{more} less {less}", *(difference(found[more], found[less], each) for each in conditions)]
        for more, less in pairs
    ]
    print(markdown(["difference", *conditions], body))
    # 3. By family of questions.
    lines = map(json.loads, questions.read_text(encoding="utf-8").splitlines())
    family_of = {(line["video"], line["question"]): line["family"] for line in lines}
    families = {family: {family} for family in sorted(set(family_of.values()))}
    families["all but count"] = families.keys() - {"count"}
    shown = [each for each in conditions if each == "none" or each.endswith("@0.1")]
    body = []
    for title, wanted in families.items():
        some = chosen(found, lambda row, wanted=wanted: family_of[row["video"], row["question"]] in wanted)
        body += [[title, name, *(accuracy(some[name], each) for each in shown)] for name in some]
        cells = [difference(some[trained], some[bundled], each) for each in shown]
        body.append([title, f"{trained} less {bundled}", *cells])
    print(markdown(["family", "trained", *shown], body))


if __name__ == "__main__":
    main()
