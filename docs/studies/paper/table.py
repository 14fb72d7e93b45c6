"""Print what run.sh measured, next to the paper's numbers: python docs/studies/paper/table.py RESULTS/onevision."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import fmean

# The metric of each benchmark, and the factor that makes it percent.
METRICS = {
    "mvbench": ("mvbench_accuracy", 1),
    "egoschema": ("submission", 1),
    "longvideobench_val_v": ("lvb_acc", 100),
    "videomme": ("videomme_perception_score", 1),
}
PUBLISHED = {  # arXiv 2603.01400, the same benchmarks
    "onevision": {
        "all": (58.3, 60.4, 56.4, 58.6), "25": (58.7, 61.3, 56.3, 57.5), "20": (58.1, 61.3, 56.2, 57.2),
        "15": (57.8, 61.3, 55.2, 56.6), "10": (57.0, 60.6, 54.2, 56.1),
    },
    "video": {
        "all": (60.4, 57.2, 58.9, 64.3), "25": (58.8, 55.4, 56.2, 62.4), "15": (57.8, 55.2, 55.0, 62.0),
    },
}  # fmt: skip


def measured(folder: Path, task: str) -> tuple[float | None, float | None]:
    """Return the accuracy in percent and the share of tokens kept, or None for what is missing.

    MVBench is the mean over its 20 tasks, which have equally many questions.
    """
    files = sorted((folder / task).rglob("*_results.json"))
    if not files:
        return None, None
    found = json.loads(files[-1].read_text(encoding="utf-8"))
    metric, factor = METRICS[task]
    values = [row[key] for row in found["results"].values() if isinstance(row.get(key := f"{metric},none"), float)]
    tokens = found.get("throughput", {})
    kept = tokens["avg_kept_tokens"] / tokens["avg_visual_tokens"] if "avg_kept_tokens" in tokens else None
    return (factor * fmean(values) if values else None), kept


def main(folder: Path) -> None:
    print("| tokens | MVBench | EgoSchema | LongVideoBench | VideoMME | kept |\n|---|---|---|---|---|---|")
    for row in ("all", "25", "20", "15", "10"):
        cells = [measured(folder / row, task) for task in METRICS]
        published = PUBLISHED[folder.name].get(row, (None,) * len(METRICS))
        shown = [f"{_number(value)} ({_number(paper)})" for (value, _), paper in zip(cells, published, strict=True)]
        shares = [100 * kept for _, kept in cells if kept is not None]
        kept = f"{min(shares):.1f} to {max(shares):.1f} %" if shares else "-"
        print(f"| {row}{'' if row == 'all' else ' %'} | {' | '.join(shown)} | {kept} |")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
