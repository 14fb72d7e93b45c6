"""Runs over real clips with a small random model: paired, resumable, the answers that `ask` gives."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aot.config.schema import Config, build_config
from aot.errors import ConfigError, OutputError, VideoError
from aot.evaluation import Condition, Item, Results, build_conditions, evaluate, load_dataset, locked
from aot.evaluation.dataset import by_video
from aot.models import VideoModel
from aot.reports.retention import versions
from aot.shapes.clips import write_questions
from aot.types import Needs, VideoFrames, VisualTokens
from tests.support.compressed import compress_video

BASE = build_config({"sampling": {"frames": 4}, "generation": {"max_new_tokens": 8}})
CONDITIONS = build_conditions(BASE, ["none", "random", "aot"], [0.5, 0.2])
NEAR = build_conditions(BASE, ["none", "random+fastv", "tome", "echoprune"], [0.4])
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


def answers(folder: Path) -> dict[tuple[str, str], str]:
    rows = [json.loads(line) for line in (folder / "answers.jsonl").read_text(encoding="utf-8").split("\n")[:-1]]
    assert len({(row["item"], row["condition"]) for row in rows}) == len(rows)
    return {(row["item"], row["condition"]): row["predicted"] for row in rows}


def test_every_condition_answers_every_question(items: tuple[Item, ...], whole: Path) -> None:
    assert set(answers(whole)) == {(item.fingerprint, condition.key) for item in items for condition in CONDITIONS}


def test_answers_are_those_of_the_pipeline(items: tuple[Item, ...], whole: Path, small_model: VideoModel) -> None:
    found = answers(whole)
    for condition in CONDITIONS:
        kept = compress_video(items[0].video, small_model, condition.config)
        for item in items[:3]:
            assert item.video == items[0].video
            alone = "".join(small_model.generate(kept.tokens, item.prompt, BASE.generation))
            assert found[item.fingerprint, condition.key] == alone


def test_a_method_that_reads_the_question_reads_each_alone(
    items: tuple[Item, ...], small_model: VideoModel, tmp_path: Path
) -> None:
    conditions = build_conditions(BASE, ["uniform", "echoprune"], [0.2])
    counts: list[tuple[int, int]] = []
    evaluate(items, small_model, conditions, tmp_path, on_progress=lambda done, total: counts.append((done, total)))
    found = answers(tmp_path)
    for item in items[:4]:
        kept = compress_video(item.video, small_model, conditions[1].config, [item.prompt])
        alone = "".join(small_model.generate(kept.tokens, item.prompt, BASE.generation))
        assert found[item.fingerprint, "echoprune@0.2"] == alone
    assert len(found) == 2 * len(items)
    assert counts == sorted(counts) and counts[-1] == (6, 6)


def test_a_video_is_decoded_and_encoded_once(
    items: tuple[Item, ...], small_model: VideoModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = []
    encode = type(small_model).encode

    def counted(self: VideoModel, frames: VideoFrames, *more: Any, **named: Any) -> VisualTokens:
        encoded.append(frames.source.path)
        return encode(self, frames, *more, **named)

    monkeypatch.setattr(type(small_model), "encode", counted)
    needy = {"dynamic": {"aot": {"clips": {"mode": "dynamic"}}}}
    evaluate(items, small_model, build_conditions(BASE, ["attention", "aot"], [0.5], needy), tmp_path)
    assert encoded == [str(video) for video in by_video(items)]


def test_methods_that_merge_in_the_tower_are_encoded_on_their_own(
    items: tuple[Item, ...], small_model: VideoModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merging = []
    encode = type(small_model).encode

    def counted(self: VideoModel, frames: VideoFrames, needs: Needs, *more: Any, **named: Any) -> VisualTokens:
        merging.append(needs.merging)
        return encode(self, frames, needs, *more, **named)

    monkeypatch.setattr(type(small_model), "encode", counted)
    same = {"again": {"method": "tome"}}
    conditions = build_conditions(BASE, ["tome", "aot", "tempme", "uniform"], [0.5, 0.2], same)
    one = [item for item in items if item.video == items[0].video]
    results = evaluate(one, small_model, conditions, tmp_path)
    assert len(merging) == 5 and len(set(merging)) == 5  # tome and tempme at two ratios, and all others together
    assert [result.kept_tokens for result in results.conditions] == [50, 20] * 5
    assert all(result.encode_ms > 0 for result in results.conditions)
    found = answers(tmp_path)
    for condition in conditions:
        kept = compress_video(one[0].video, small_model, condition.config)
        alone = "".join(small_model.generate(kept.tokens, one[0].prompt, BASE.generation))
        assert found[one[0].fingerprint, condition.key] == alone


def test_cut_off_and_resumed_is_uninterrupted(
    items: tuple[Item, ...], whole: Path, small_model: VideoModel, tmp_path: Path
) -> None:
    def stop(done: int, total: int) -> None:
        if done == len(CONDITIONS) + 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(items, small_model, CONDITIONS, tmp_path, on_progress=stop)
    journal = tmp_path / "answers.jsonl"
    some = journal.read_bytes()
    assert 0 < len(some) < len((whole / "answers.jsonl").read_bytes())
    journal.write_bytes(some[:-40])  # killed while writing: some questions of a condition are there, one is torn
    results = evaluate(items, small_model, CONDITIONS, tmp_path)
    assert answers(tmp_path) == answers(whole)
    uninterrupted = evaluate(items, small_model, CONDITIONS, whole)
    for one, other in zip(results.conditions, uninterrupted.conditions, strict=True):
        assert (one.micro, one.macro, one.families, one.against) == (
            other.micro, other.macro, other.families, other.against
        )  # fmt: skip
    assert [result.kept_tokens for result in results.conditions] == [100, 50, 20, 50, 20]
    assert [result.budget_tokens for result in results.conditions] == [100, 50, 20, 50, 20]


@pytest.fixture(scope="module")
def bare(items: tuple[Item, ...]) -> tuple[Item, ...]:
    """A few questions without answers."""
    return tuple(replace(item, answer=None) for item in items if int(item.id) % 12 == 0)


@pytest.fixture(scope="module")
def measured(bare: tuple[Item, ...], small_model: VideoModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("measured")
    evaluate(bare, small_model, NEAR, folder, with_reference=True)
    return folder


def test_without_answers_fidelity_is_measured(bare: tuple[Item, ...], measured: Path, small_model: VideoModel) -> None:
    results = evaluate(bare, small_model, NEAR, measured, with_reference=True)
    none, random, *others = results.conditions
    assert none.fidelity and none.fidelity.divergence.mean == 0
    assert none.fidelity.agreement.mean == none.fidelity.same_answer.mean == 1
    for each in (random, *others):
        assert each.fidelity and each.fidelity.divergence.mean > 1e-4
        assert each.fidelity.divergence.low and each.fidelity.divergence.high
        assert 0 <= each.fidelity.same_answer.mean <= each.fidelity.agreement.mean <= 1
        assert (each.micro, each.macro, each.families, each.against) == (None, None, {}, {})
    rows = list(csv.DictReader(results.to_csv().splitlines()))
    assert float(rows[1]["divergence"]) == pytest.approx(random.fidelity.divergence.mean, abs=1e-6)  # type: ignore[union-attr]
    assert "micro" not in rows[0]


def test_figures_are_those_of_the_two_answers(bare: tuple[Item, ...], measured: Path, small_model: VideoModel) -> None:
    """Also if tokens are dropped inside the language model, merged inside the tower, or kept by the question."""
    found = {(row["condition"], row["item"]): row for row in rows_of(measured)}
    for item in bare:
        full = found["none", item.fingerprint]
        assert full["fidelity"] == {"divergence": 0.0, "agreement": 1.0, "same_answer": True}
        for condition in NEAR[1:]:
            row = found[condition.key, item.fingerprint]
            assert row["fidelity"]["same_answer"] == (row["predicted"] == full["predicted"])
            assert row["fidelity"]["same_answer"] == (row["fidelity"]["agreement"] == 1)
            assert (row["answer"], row["score"]) == (None, None)


def test_resumed_figures_are_the_same(
    bare: tuple[Item, ...], measured: Path, small_model: VideoModel, tmp_path: Path
) -> None:
    first = [item for item in bare if item.video == bare[0].video][:1]
    evaluate(first, small_model, NEAR[1:], tmp_path, with_reference=True)
    journal = tmp_path / "answers.jsonl"
    journal.write_bytes(journal.read_bytes()[:-40])  # killed while writing
    evaluate(bare, small_model, NEAR, tmp_path, with_reference=True)
    figures = [
        {(row["condition"], row["item"]): row["fidelity"] for row in rows_of(each)} for each in (measured, tmp_path)
    ]
    assert figures[0] == figures[1] and len(figures[0]) == len(NEAR) * len(bare)
    with pytest.raises(ConfigError, match="different values of reference"):
        evaluate(bare, small_model, NEAR, tmp_path)


def test_the_reference_is_the_model_as_it_is(bare: tuple[Item, ...], small_model: VideoModel, tmp_path: Path) -> None:
    """With answers both are measured; `--tower stc` is compared with the full tower, at any temperature."""
    settings = {**BASE.to_dict(), "tower": {"name": "stc", "stc": {"interval": 4}}}
    config = build_config({**settings, "generation": {"max_new_tokens": 8, "temperature": 1.0}})
    known = [replace(item, answer="red") for item in bare if item.video == bare[0].video]
    conditions = build_conditions(config, ["none"], [0.5], {"full": {"method": "none", "tower": {"name": "full"}}})
    results = evaluate(known, small_model, conditions, tmp_path, with_reference=True)
    fast, full = results.conditions
    assert fast.micro and fast.fidelity and full.fidelity
    assert full.fidelity.divergence.mean == 0 < fast.fidelity.divergence.mean


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "answers.jsonl").read_text(encoding="utf-8").split("\n")[:-1]]


def test_the_data_may_be_elsewhere_by_now(
    items: tuple[Item, ...], whole: Path, small_model: VideoModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (whole / "answers.jsonl").read_bytes()
    monkeypatch.chdir(items[0].video.parent)
    evaluate([replace(item, video=Path(item.video.name)) for item in items], small_model, CONDITIONS, whole)
    assert (whole / "answers.jsonl").read_bytes() == before


def test_a_data_set_may_grow_and_change_its_order(
    items: tuple[Item, ...], whole: Path, small_model: VideoModel, tmp_path: Path
) -> None:
    conditions = build_conditions(BASE, ["uniform"], [0.5])
    some = [item for item in items if item.video != items[0].video]
    evaluate(some, small_model, conditions, tmp_path)
    before = (tmp_path / "answers.jsonl").read_bytes()
    grown = [replace(item, id=f"new {item.id}") for item in reversed(items)]
    assert evaluate(grown, small_model, conditions, tmp_path).questions == len(items)
    after = (tmp_path / "answers.jsonl").read_bytes()
    assert after.startswith(before)
    assert len(answers(tmp_path)) == len(items)
    assert evaluate(some, small_model, conditions, tmp_path).questions == len(some)
    assert (tmp_path / "answers.jsonl").read_bytes() == after


def test_another_answer_or_video_is_another_question(items: tuple[Item, ...]) -> None:
    one = items[0]
    changed = [
        replace(one, answer="other"), replace(one, question="other?"), replace(one, options=("a", "b")),
        replace(one, family="other"), replace(one, video=Path("other.mp4")), replace(one, video_bytes=1),
    ]  # fmt: skip
    assert one.video_bytes == one.video.stat().st_size
    assert len({item.fingerprint for item in [one, *changed]}) == 7
    assert replace(one, id="other", video=Path(one.video.name)).fingerprint == one.fingerprint


def test_what_is_no_video_is_told_before_the_first_answer(
    items: tuple[Item, ...], small_model: VideoModel, tmp_path: Path
) -> None:
    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "empty.mp4").touch()
    bad = [replace(items[0], id=name, video=tmp_path / name) for name in ("text.mp4", "empty.mp4")]
    with pytest.raises(VideoError, match=r"text\.mp4 .*; .*empty\.mp4 "):
        evaluate([*items, *bad], small_model, build_conditions(BASE, ["uniform"], [0.5]), tmp_path / "out")
    assert not (tmp_path / "out" / "answers.jsonl").exists()


def test_notices_of_a_video_are_passed_on(items: tuple[Item, ...], small_model: VideoModel, tmp_path: Path) -> None:
    told: list[str] = []
    many = build_config({**BASE.to_dict(), "sampling": {"frames": 70}})  # more than the clip has
    evaluate(items[:1], small_model, build_conditions(many, ["frames"], [0.1]), tmp_path, on_notice=told.append)
    assert len(told) == 1
    assert told[0].startswith(f"{items[0].video.name}: ")


def test_a_damaged_journal_is_one_error(items: tuple[Item, ...], small_model: VideoModel, tmp_path: Path) -> None:
    conditions = build_conditions(BASE, ["uniform"], [0.5])
    evaluate(items[:1], small_model, conditions, tmp_path)
    for name, content in (
        ("answers.jsonl", "{}\n"),
        ("answers.jsonl", "nonsense\n"),
        ("run.json", "{"),
        ("run.json", "[1]"),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(ConfigError, match=r"damaged .*pass --restart"):
            evaluate(items[:1], small_model, conditions, tmp_path)
    evaluate(items[:1], small_model, conditions, tmp_path, restart=True)


@pytest.mark.parametrize("fault", ["a video", "a condition"])
def test_restart_throws_nothing_away_before_it_can_answer(
    items: tuple[Item, ...], small_model: VideoModel, tmp_path: Path, fault: str
) -> None:
    conditions = build_conditions(BASE, ["uniform"], [0.5])
    evaluate(items[:1], small_model, conditions, tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in ("answers.jsonl", "run.json")}
    (tmp_path / "text.mp4").write_text("not a video")
    again, wanted = [items[0]], build_conditions(BASE, ["random"], [0.5])
    if fault == "a video":
        again.append(replace(items[0], video=tmp_path / "text.mp4"))
    else:
        clips = build_config({**BASE.to_dict(), "aot": {"clips": {"frames": 1}}})
        wanted = build_conditions(clips, ["aot"], [0.01])  # fewer tokens than keyframes
    with pytest.raises((VideoError, ConfigError), match=r"text\.mp4" if fault == "a video" else "ratio"):
        evaluate(again, small_model, wanted, tmp_path, restart=True)
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    evaluate(items[:1], small_model, build_conditions(BASE, ["random"], [0.5]), tmp_path, restart=True)
    assert [condition for _, condition in answers(tmp_path)] == ["random@0.5"]
    assert set(json.loads((tmp_path / "run.json").read_text())["conditions"]) == {"random@0.5"}


def test_one_run_at_a_time_writes_a_folder(items: tuple[Item, ...], small_model: VideoModel, tmp_path: Path) -> None:
    conditions = build_conditions(BASE, ["uniform"], [0.5])

    def meanwhile(done: int, total: int) -> None:
        with pytest.raises(OutputError, match=rf"another run \(process {os.getpid()}\) writes to .*another folder"):
            evaluate(items[:1], small_model, conditions, tmp_path, restart=True)

    evaluate(items[:1], small_model, conditions, tmp_path, on_progress=meanwhile)
    assert len(answers(tmp_path)) == 1
    evaluate(items[:1], small_model, conditions, tmp_path, restart=True)


def test_a_folder_is_free_when_its_process_is_dead(tmp_path: Path) -> None:
    hold = "import sys; from aot.runtime.folder_lock import locked; from pathlib import Path; import time\n"
    hold += "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", hold, str(tmp_path)], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline().strip() == b"held"
        with pytest.raises(OutputError, match=rf"process {other.pid}"), locked(tmp_path):
            pass
        other.kill()
        other.wait(60)
    with locked(tmp_path):
        assert (tmp_path / ".lock").read_text() == str(os.getpid())


def test_times_say_in_which_run_they_were_measured(
    items: tuple[Item, ...], small_model: VideoModel, tmp_path: Path
) -> None:
    """One condition is answered in the first run, one in the second, and one in both, for another video each."""
    videos = list(by_video(items))
    first = [item for item in items if item.video == videos[0]]
    both = [item for item in items if item.video in videos[:2]]
    evaluate(both, small_model, build_conditions(BASE, ["none"], [0.5]), tmp_path)
    evaluate(first, small_model, build_conditions(BASE, ["none", "uniform"], [0.5]), tmp_path)
    results = evaluate(both, small_model, build_conditions(BASE, ["none", "uniform", "random"], [0.5]), tmp_path)
    assert [result.timed_in_runs for result in results.conditions] == [(1,), (2, 3), (3,)]
    rows = csv.DictReader(results.to_csv().splitlines())
    assert [row["timed_in_runs"] for row in rows] == ["1", "2 3", "3"]


def test_times_are_those_of_one_question(items: tuple[Item, ...], whole: Path, small_model: VideoModel) -> None:
    results = evaluate(items, small_model, CONDITIONS, whole)
    assert results.decode_ms > 0 and results.encode_ms > 0 and results.visual_tokens == 100
    for result in results.conditions:
        assert 0 < result.first_token_ms < result.answer_ms
        assert result.compress_ms > 0


def test_what_is_there_is_not_done_again(items: tuple[Item, ...], whole: Path, small_model: VideoModel) -> None:
    class Locked:
        identity = small_model.identity

    before = (whole / "answers.jsonl").read_bytes()
    evaluate(items, Locked(), CONDITIONS, whole)  # type: ignore[arg-type]
    elsewhere = replace(BASE, sampling=replace(BASE.sampling, max_input_mb=9))  # which no answer depends on
    conditions = build_conditions(elsewhere, ["none", "random", "aot"], [0.5, 0.2])
    evaluate(items, Locked(), conditions, whole)  # type: ignore[arg-type]
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
        ({"sampling": {"frames": 3}}, "different values of sampling.frames;"),
        ({"aot": {"clips": {"frames": 2}}}, "different values of aot.clips.frames;"),
        (
            {"sampling": {"frames": 3}, "aot": {"clips": {"frames": 2}}},
            "different values of aot.clips.frames, sampling.frames;",
        ),
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


def test_other_versions_need_another_folder(
    items: tuple[Item, ...], small_model: VideoModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conditions = build_conditions(BASE, ["uniform"], [0.5])
    evaluate(items[:1], small_model, conditions, tmp_path)
    monkeypatch.setattr("aot.evaluation.run.versions", lambda: {**versions(), "torch": "0"})
    with pytest.raises(ConfigError, match=r"versions\.torch"):
        evaluate(items[:1], small_model, conditions, tmp_path)


def test_results_are_paired(items: tuple[Item, ...], whole: Path, small_model: VideoModel) -> None:
    results = evaluate(items, small_model, CONDITIONS, whole)
    by_key = {(result.name, result.ratio): result for result in results.conditions}
    full = by_key["none", 1.0]
    assert full.against == {}
    for ratio in (0.5, 0.2):
        difference = by_key["aot", ratio].against
        assert set(difference) == {"none", "random"}
        for mean in ("micro", "macro"):
            one, other = getattr(by_key["aot", ratio], mean).mean, getattr(full, mean).mean
            assert getattr(difference["none"], mean).mean == pytest.approx(one - other)
    assert sum(results.families.values()) == results.questions == len(items)


def test_csv_has_a_row_per_condition(items: tuple[Item, ...], whole: Path, small_model: VideoModel) -> None:
    results = evaluate(items, small_model, CONDITIONS, whole)
    rows = list(csv.DictReader(results.to_csv().splitlines()))
    assert [(row["name"], float(row["ratio"])) for row in rows] == [(c.name, c.ratio) for c in results.conditions]
    assert float(rows[2]["micro"]) == pytest.approx(results.conditions[2].micro.mean, abs=1e-4)
    assert rows[0]["micro_against_none"] == ""
    assert rows[1]["macro_against_none_low"] != ""
    assert all(re.fullmatch(r"[a-z0-9_]+", column) for column in rows[0])


def test_one_video_has_no_intervals(items: tuple[Item, ...], whole: Path, small_model: VideoModel) -> None:
    results = evaluate([item for item in items if item.video == items[0].video], small_model, CONDITIONS, whole)
    measured = [each for row in results.to_dict()["conditions"] for each in (row["micro"], *row["families"].values())]
    assert all(each["low"] is each["high"] is None and each["mean"] >= 0 for each in measured)
    for row in csv.DictReader(results.to_csv().splitlines()):
        bounds = {value for name, value in row.items() if name.endswith(("_low", "_high"))}
        assert row["micro"] and bounds == {""}


def names(conditions: tuple[Condition, ...]) -> list[str]:
    return [condition.key for condition in conditions]


def test_conditions_are_methods_by_ratios() -> None:
    variant = {"x": {"aot": {"intra": {"enabled": False}}}}
    made = build_conditions(Config(), ["aot", "none", "uniform"], [0.25, 0.1], variant)
    assert names(made) == ["aot@0.25", "aot@0.1", "none", "uniform@0.25", "uniform@0.1", "x@0.25", "x@0.1"]
    assert not made[-1].config.aot.intra.enabled
    assert made[-1].config.method == "aot"


def test_variants_are_of_aot_unless_they_say_so() -> None:
    variants = {
        "plain": {"aot": {"intra": {"enabled": False}}},
        "lot": {"method": "random", "methods": {"random": {"seed": 1}}},
    }
    made = build_conditions(Config(method="uniform"), [], [0.1], variants)
    assert [(condition.name, condition.config.method) for condition in made] == [("plain", "aot"), ("lot", "random")]


def test_ratio_one_is_none_by_another_name() -> None:
    assert names(build_conditions(Config(), ["aot"], [1.0])) == ["aot"]


@pytest.mark.parametrize(
    ("methods", "ratios", "variants", "says"),
    [
        (["nope"], [0.1], {}, "--methods must be"),
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


def test_a_variant_is_of_the_method_whose_settings_it_sets() -> None:
    variants = {
        "plain": {"aot": {"inter": {"enabled": False}}},
        "even": {"methods": {"fastvid": {"own_weight": 0.5}}},
        "named": {"method": "evs", "methods": {"evs": {"paper_exact": True}}},
    }
    built = {each.name: each.config for each in build_conditions(Config(), ["aot"], [0.5], variants)}
    assert [built[name].method for name in ("plain", "even", "named")] == ["aot", "fastvid", "evs"]
    assert [built[name].has_budget for name in ("plain", "even", "named")] == [True, True, False]
