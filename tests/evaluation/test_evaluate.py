"""Runs over real clips with a small random model: paired, resumable, the answers that `ask` gives."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from aot.config import Config, build_config
from aot.errors import ConfigError
from aot.evaluation import Condition, Item, Results, build_conditions, evaluate, load_dataset
from aot.models import VideoModel
from aot.pipeline import compress_video
from aot.shapes.clips import write_questions

BASE = build_config({"sampling": {"frames": 4}, "generation": {"max_new_tokens": 8}})
CONDITIONS = build_conditions(BASE, ["none", "random", "aot"], [0.5, 0.2])
Run = Callable[..., Results]


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> tuple[Item, ...]:
    every = load_dataset(write_questions(tmp_path_factory.mktemp("world"), [3, 4, 5]))
    return tuple(item for item in every if int(item.id) % 6 == 0)


@pytest.fixture(scope="module")
def whole(items: tuple[Item, ...], small_model: VideoModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    evaluate(items, small_model, CONDITIONS, folder)
    return folder


def answers(folder: Path) -> dict[tuple[str, str], list[str]]:
    rows = [json.loads(line) for line in (folder / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len({(row["video"], row["condition"]) for row in rows}) == len(rows)
    return {(row["video"], row["condition"]): row["predicted"] for row in rows}


def test_every_condition_answers_every_question(items: tuple[Item, ...], whole: Path) -> None:
    found = answers(whole)
    videos = {str(item.video) for item in items}
    assert set(found) == {(video, condition.key) for video in videos for condition in CONDITIONS}
    assert sum(map(len, found.values())) == len(items) * len(CONDITIONS)


def test_answers_are_those_of_the_pipeline(items: tuple[Item, ...], whole: Path, small_model: VideoModel) -> None:
    found = answers(whole)
    for condition in CONDITIONS:
        kept = compress_video(items[0].video, small_model, condition.config)
        alone = "".join(small_model.generate(kept.tokens, items[0].prompt, BASE.generation))
        assert found[str(items[0].video), condition.key][0] == alone


def test_cut_off_and_resumed_is_uninterrupted(
    items: tuple[Item, ...], whole: Path, small_model: VideoModel, tmp_path: Path
) -> None:
    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(items, small_model, CONDITIONS, tmp_path, on_progress=stop)
    with (tmp_path / "answers.jsonl").open("a", encoding="utf-8") as torn:
        torn.write('{"video": "shapes-5.mp4", "cond')
    results = evaluate(items, small_model, CONDITIONS, tmp_path)
    assert answers(tmp_path) == answers(whole)
    assert [result.kept_tokens for result in results.conditions] == [100, 50, 20, 50, 20]


def test_what_is_there_is_not_done_again(items: tuple[Item, ...], whole: Path, small_model: VideoModel) -> None:
    class Locked:
        identity, tokens_per_frame = small_model.identity, small_model.tokens_per_frame

    before = (whole / "answers.jsonl").read_bytes()
    evaluate(items, Locked(), CONDITIONS, whole)  # type: ignore[arg-type]
    assert (whole / "answers.jsonl").read_bytes() == before


def test_conditions_may_be_added(items: tuple[Item, ...], small_model: VideoModel, tmp_path: Path) -> None:
    evaluate(items, small_model, build_conditions(BASE, ["none"], [0.5]), tmp_path)
    more = build_conditions(BASE, ["none", "aot"], [0.5], {"no-inter": {"aot": {"inter": {"enabled": False}}}})
    results = evaluate(items, small_model, more, tmp_path)
    assert [result.name for result in results.conditions] == ["none", "aot", "no-inter"]
    assert set(json.loads((tmp_path / "run.json").read_text())["conditions"]) == {"none", "aot@0.5", "no-inter@0.5"}


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"sampling": {"frames": 3}}, "config.sampling.frames"),
        ({"aot": {"clips": {"frames": 2}}}, "conditions.aot@0.5"),
    ],
)
def test_other_settings_need_another_folder(
    items: tuple[Item, ...], small_model: VideoModel, tmp_path: Path, settings: dict[str, object], named: str
) -> None:
    evaluate(items, small_model, build_conditions(BASE, ["aot"], [0.5]), tmp_path)
    changed = build_conditions(build_config({**BASE.to_dict(), **settings}), ["aot"], [0.5])
    with pytest.raises(ConfigError, match=named.replace(".", r"\.")):
        evaluate(items, small_model, changed, tmp_path)
    assert evaluate(items, small_model, changed, tmp_path, restart=True).questions == len(items)


def test_results_are_paired(items: tuple[Item, ...], whole: Path, small_model: VideoModel) -> None:
    results = evaluate(items, small_model, CONDITIONS, whole)
    by_key = {(result.name, result.ratio): result for result in results.conditions}
    full = by_key["none", 1.0]
    assert full.against == {}
    for ratio in (0.5, 0.2):
        difference = by_key["aot", ratio].against
        assert set(difference) == {"none", "random"}
        assert difference["none"].mean == pytest.approx(by_key["aot", ratio].micro.mean - full.micro.mean)
    assert sum(results.families.values()) == results.questions == len(items)


def test_csv_has_a_row_per_condition(items: tuple[Item, ...], whole: Path, small_model: VideoModel) -> None:
    import csv

    results = evaluate(items, small_model, CONDITIONS, whole)
    rows = list(csv.DictReader(results.to_csv().splitlines()))
    assert [(row["name"], float(row["ratio"])) for row in rows] == [(c.name, c.ratio) for c in results.conditions]
    assert float(rows[2]["micro"]) == pytest.approx(results.conditions[2].micro.mean, abs=1e-4)
    assert rows[0]["against none"] == ""


def test_plots_are_written_whole(
    items: tuple[Item, ...], whole: Path, small_model: VideoModel, tmp_path: Path
) -> None:
    from aot.evaluation.plot import plot_accuracy

    results = evaluate(items, small_model, CONDITIONS, whole)
    for name in ("one.svg", "two.svg", "one.png"):
        plot_accuracy(results, tmp_path / name)
    text = (tmp_path / "one.svg").read_text()
    assert "<svg" in text
    assert (tmp_path / "one.png").read_bytes()[:4] == b"\x89PNG"


def names(conditions: tuple[Condition, ...]) -> list[str]:
    return [condition.key for condition in conditions]


def test_conditions_are_methods_by_ratios() -> None:
    variant = {"x": {"aot": {"intra": {"enabled": False}}}}
    made = build_conditions(Config(), ["aot", "none", "uniform"], [0.25, 0.1], variant)
    assert names(made) == ["aot@0.25", "aot@0.1", "none", "uniform@0.25", "uniform@0.1", "x@0.25", "x@0.1"]
    assert not made[-1].config.aot.intra.enabled
    assert made[-1].config.method == "aot"


def test_ratio_one_is_none_by_another_name() -> None:
    assert names(build_conditions(Config(), ["aot"], [1.0])) == ["aot"]


@pytest.mark.parametrize(
    ("methods", "ratios", "variants", "says"),
    [
        (["nope"], [0.1], {}, "method must be"),
        (["aot"], [0.0], {}, "ratio"),
        ([], [0.1], {}, "nothing to compare"),
        (["aot"], [0.1], {"random": {}}, "name of a method"),
        (["aot"], [0.1], {"x": {"sampling": {"frames": 2}}}, "same for all conditions"),
        (["aot"], [0.1], {"x": {"aot": {"nope": 2}}}, "unknown setting aot.nope"),
    ],
)
def test_conditions_that_make_no_sense(
    methods: list[str], ratios: list[float], variants: dict[str, dict[str, object]], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        build_conditions(Config(), methods, ratios, variants)
