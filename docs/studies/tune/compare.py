"""Compare what `aot tune` found with the full grid, for the folders of run.sh; or write the lines of one draw.

python docs/studies/tune/compare.py RESULTS
python docs/studies/tune/compare.py --draw N QUESTIONS.jsonl
"""

from __future__ import annotations

import argparse
import json
import re
from collections import defaultdict
from pathlib import Path
from statistics import fmean, median

from aot.tuning.losses import Losses

DRAWS, VIDEOS, LIMIT = 10, 20, 1.0


def lines_of_draw(questions: Path, draw: int) -> list[str]:
    """The lines about the draw's 20 videos; their paths are made absolute."""
    rows = [json.loads(line) for line in questions.read_text().splitlines()]
    videos = list(dict.fromkeys(row["video"] for row in rows))[VIDEOS * draw : VIDEOS * (draw + 1)]
    folder = questions.parent.resolve()
    return [json.dumps({**row, "video": str(folder / row["video"])}) for row in rows if row["video"] in videos]


def losses_of_grid(folder: Path) -> Losses:
    """The losses of every condition of the grid on all videos, in points."""
    scores: dict[str, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for line in (folder / "answers.jsonl").read_text().splitlines():
        row = json.loads(line)
        scores[row["condition"]][row["video"]][row["item"]] = row["score"]
    losses, full = Losses(LIMIT), scores.pop("none")
    for condition, videos in scores.items():
        for video, items in full.items():
            losses.add(condition, [100 * (score - videos[video][item]) for item, score in items.items()])
    return losses


def cpu_seconds(path: Path) -> float:
    """The children's user and system time in the last line of `times`."""
    minutes_seconds = re.findall(r"(\d+)m([\d.]+)s", path.read_text().splitlines()[-1])
    return sum(60 * int(minutes) + float(seconds) for minutes, seconds in minutes_seconds)


def row_of(results: Path, draw: int) -> tuple[str, bool, float, float]:
    """A line of the table; whether both agree; the shares of CPU time and of measurements."""
    losses = losses_of_grid(results / f"{draw}.grid")
    tuned = json.loads((results / f"{draw}.tune" / "tune.json").read_text())
    conditions = {(each["method"], each["ratio"]) for each in tuned["measured"]}
    keys = {(method, ratio): f"{method}@{ratio:g}" for method, ratio in conditions}
    passing = [cell for cell, key in keys.items() if losses.estimate(key).meets(LIMIT)]
    smallest = min((ratio for _, ratio in passing), default=None)
    at_smallest = [cell for cell in passing if cell[1] == smallest]
    best = min(at_smallest, key=lambda cell: losses.estimate(keys[cell]).mean, default=None)
    choice = tuned["choice"] and (tuned["choice"]["measured"]["method"], tuned["choice"]["measured"]["ratio"])
    same = choice == best
    if choice and best and choice[1] == best[1]:
        same = same or not losses.difference(keys[choice], keys[best]).is_above(0)
    shares = cpu_seconds(results / f"{draw}.tune.s") / cpu_seconds(results / f"{draw}.grid.s")
    cells = sum((each["loss"] or {"videos": 0})["videos"] for each in tuned["measured"]) / (len(conditions) * VIDEOS)
    names = [f"{cell[0]} at {100 * cell[1]:g} %" if cell else "none" for cell in (best, choice)]
    loss = losses.estimate(keys[best]).mean if best else float("nan")
    loss_of_choice = tuned["choice"]["measured"]["loss"] if choice else {"within": float("nan")}
    within = f"{loss_of_choice['within']:.0%}"
    line = f"| {draw + 1} | {names[0]} ({loss:.1f}) | {names[1]} | {within} | {cells:.0%} | {shares:.0%} |"
    return line, same, shares, cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("--draw", type=int)
    given = parser.parse_args()
    if given.draw is not None:
        print("\n".join(lines_of_draw(given.path, given.draw)))
        return
    rows = [row_of(given.path, draw) for draw in range(DRAWS) if (given.path / f"{draw}.tune.s").exists()]
    print("| draw | grid (loss, points) | `aot tune` | sure | measurements | CPU time |")
    print("|---|---|---|---|---|---|")
    print("\n".join(line for line, *_ in rows))
    print(f"\nthe same in {sum(same for _, same, *_ in rows)} of {len(rows)}; of the grid's measurements "
          f"{fmean(cells for *_, cells in rows):.1%}, of its CPU time {fmean(share for _, _, share, _ in rows):.1%} "
          f"(median {median(share for _, _, share, _ in rows):.1%})")  # fmt: skip


if __name__ == "__main__":
    main()
