"""The tables of docs/studies/projector.md: accuracy with each projector, and paired differences.

python docs/studies/projector/compare.py BUNDLED TRAINED...

The arguments are folders of `aot eval` on the same clips, named after their projectors. Only questions that all of them
have answered count.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).parents[1] / "methods"))
from table import Answers, paired, read, resampled, signed


def common(found: Sequence[Answers]) -> list[Answers]:
    """Return the answers to the questions that are in all of `found`."""
    asked = [{(row["video"], row["item"]) for row in next(iter(answers.values()))} for answers in found]
    every = set.intersection(*asked)
    return [
        {key: [row for row in rows if (row["video"], row["item"]) in every] for key, rows in answers.items()}
        for answers in found
    ]


def accuracy(answers: Answers, condition: str) -> str:
    rows = answers[condition]
    found = resampled(rows).micro(np.array([row["score"] for row in rows]))
    return f"{100 * found.mean:.1f} ± {50 * (found.high - found.low):.1f}"


def markdown(heads: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *body]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def main() -> None:
    folders = [Path(name) for name in sys.argv[1:]]
    found = dict(zip([folder.name for folder in folders], common([read([folder]) for folder in folders]), strict=True))
    bundled, trained, *others = found
    rows = found[bundled]["none"]
    print(f"{len(rows)} questions about {len({row['video'] for row in rows})} clips\n")
    conditions = list(found[bundled])
    body = [[name, *(accuracy(answers, each) for each in conditions)] for name, answers in found.items()]
    print(markdown(["trained", *conditions], body))
    pairs = [(name, bundled) for name in (trained, *others)] + [(trained, name) for name in others]
    body = []
    for more, less in pairs:
        cells = [signed(paired(found[more][each], found[less][each])) for each in conditions]
        body.append([f"{more} less {less}", *cells])
    print(markdown(["difference", *conditions], body))


if __name__ == "__main__":
    main()
