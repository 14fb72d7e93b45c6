"""`aot compare` and `aot methods` through the real entry point."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from aot.compression.in_llm import divide
from aot.compression.methods import build_method
from aot.plugins import INNER, METHODS
from tests.support.cli_run import Aot


def test_methods_side_by_side(run_aot: Aot, clip_file: Path, small: tuple[str, ...]) -> None:
    line = ("compare", clip_file, "what happens?", *small, "--max-new-tokens", "3")
    done = run_aot(*line, "--methods", "none,uniform,standout,tome,uniform+fastv", "--ratio", "0.4", "--json")
    assert done.code == 0, done.err
    rows = {row["condition"]: row for row in done.json["methods"]}
    assert set(rows) == {"none", "uniform@0.4", "standout@0.4", "tome@0.4", "uniform+fastv@0.4"}
    total = done.json["visual_tokens"]
    assert rows["none"]["kept_tokens"] == total
    assert rows["uniform@0.4"]["kept_tokens"] == rows["tome@0.4"]["kept_tokens"] == round(0.4 * total)
    assert rows["uniform+fastv@0.4"]["language_model_load"] == pytest.approx(0.4, abs=0.02)
    assert rows["uniform@0.4"]["encode_ms"] == rows["none"]["encode_ms"] != rows["tome@0.4"]["encode_ms"]
    assert all(row["answer_bytes"] is None or row["answer_bytes"] >= 0 for row in rows.values())
    assert rows["none"]["fidelity"] == {"divergence": 0.0, "agreement": 1.0, "same_answer": True}
    for row in rows.values():
        assert row["fidelity"]["same_answer"] == (row["answer"] == rows["none"]["answer"])
        assert (row["fidelity"]["divergence"] > 0) == (row is not rows["none"])
    shown = run_aot(*line, "--methods", "none,uniform", "--ratio", "0.4").out
    assert "uniform@0.4" in shown
    assert f"{total}" in shown and "what happens?" in shown
    near = rows["uniform@0.4"]["fidelity"]
    assert re.search(
        rf"^ uniform +40% +{near['divergence']:.4f} +{near['agreement']:.1%} +(yes|no)$", shown, re.MULTILINE
    )
    assert "KL nats: divergence" in shown


def test_without_the_reference(run_aot: Aot, clip_file: Path, small: tuple[str, ...]) -> None:
    line = (
        "compare",
        clip_file,
        "what?",
        *small,
        "--methods",
        "uniform",
        "--max-new-tokens",
        "1",
        "--reference",
        "off",
    )
    assert run_aot(*line, "--json").json["methods"][0]["fidelity"] is None
    assert "KL" not in run_aot(*line).out


def test_what_cannot_be_met_is_left_out(run_aot: Aot, clip_file: Path, small: tuple[str, ...]) -> None:
    line = ("compare", clip_file, "what?", *small, "--max-new-tokens", "1", "--ratio", "0.1")
    done = run_aot(*line, "--methods", "dycoke,uniform")
    assert done.code == 0
    assert "dycoke@0.1 is left out" in done.err
    assert "uniform@0.1" in done.out
    alone = run_aot(*line, "--methods", "dycoke")
    assert alone.code == 2
    assert "all methods failed" in alone.err


@pytest.mark.parametrize(
    ("source", "ratio"),
    [(("--set", "ratio=0.3"), 0.3), (("--preset", "paper/onevision-r25"), 0.25), ((), 0.1), (("-r", "0.5"), 0.5)],
)
def test_the_ratio_comes_from_wherever_it_is_set(
    run_aot: Aot, clip_file: Path, small: tuple[str, ...], source: tuple[str, ...], ratio: float
) -> None:
    line = ("compare", clip_file, "what?", *small, "--methods", "uniform", "--max-new-tokens", "1", "--json", *source)
    (row,) = run_aot(*line).json["methods"]
    assert row["ratio"] == ratio
    assert row["kept_tokens"] == round(ratio * 200)


def test_notes_on_settings_that_do_nothing_or_replace_the_ratio(
    run_aot: Aot, clip_file: Path, small: tuple[str, ...]
) -> None:
    settings = ("methods.vidcom2.paper_exact=true", "methods.fastvid.own_weight=0.5", "aot.clips.frames=2")
    given = [word for setting in settings for word in ("--set", setting)]
    line = ("compare", clip_file, "what?", *small, "--methods", "vidcom2,uniform", "--max-new-tokens", "1", *given)
    done = run_aot(*line, "--json")
    assert "vidcom2 keeps what its settings define, independent of the ratio" in done.json["notices"]
    assert "the settings of fastvid have no effect on vidcom2, uniform" in done.err
    assert "the settings of aot have no effect on" in done.err
    assert "settings of vidcom2" not in done.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--methods", "magic"), "must be one of"),
        (("--methods", "aot,holitm"), "got 'holitm'; did you mean holitom?"),
        (("--methods", "fastv"), "got 'fastv'; fastv acts inside the language model: --inner fastv, or none+fastv"),
        (("--ratio", "some"), "is not a list of comma-separated numbers"),
        (("--ratio", "2"), "must be in (0, 1]"),
        (("--methods", ""), "nothing to compare"),
    ],
)
def test_wrong_options(run_aot: Aot, clip_file: Path, options: tuple[str, ...], said: str) -> None:
    done = run_aot("compare", clip_file, "what?", *options)
    assert done.code == 2
    assert said in done.err


def test_every_method_is_listed(run_aot: Aot) -> None:
    found = run_aot("methods", "--json").json
    assert [row["name"] for row in found["methods"]][: len(METHODS)] == list(METHODS)
    assert [row["name"] for row in found["inner"]][: len(INNER)] == list(INNER)
    rows = {row["name"]: row for row in found["methods"]}
    assert rows["aot"]["needs"] == ["attention in block 5, -2"]
    assert rows["standout"]["needs"] == []
    text = run_aot("methods").out
    assert all(name in text for name in (*METHODS, *INNER))
    assert rows["fastvid"]["needs"] == ["frame embeddings", "SigLIP's pooling head (optional)"]
    assert all(row["remark"] and row["acts"] for row in (*found["methods"], *found["inner"]))
    assert (rows["dycoke"]["least"][:4], rows["uniform"]["least"]) == ("0.25", "")
    least = {row["name"]: row["least"].partition(" ")[0] for row in found["inner"]}
    assert least["holitom"] == "0.643" and least["framefusion"] == ""


@pytest.mark.parametrize("width", [80, 160])
def test_the_list_is_readable_at_any_width(width: int) -> None:
    """No word is broken, and no name."""
    from rich.console import Console

    from aot_cli.output.method_details import describe
    from aot_cli.output.method_tables import CardTable

    cards = [describe(name, "methods") for name in METHODS]
    with (console := Console(width=width, color_system=None)).capture() as shown:
        console.print(CardTable("--method", cards))
    lines = shown.get().splitlines()
    assert max(map(len, lines)) <= width
    assert ("SigLIP" in shown.get()) == (width == 160)
    words = {word for line in lines for word in line.split()}
    for card in cards:
        assert {card.name, *card.acts.split(), *card.remark.split(), *card.paper.split()} <= words


def test_a_method_is_shown_with_its_settings(run_aot: Aot) -> None:
    (found,) = run_aot("methods", "fastvid", "--json").json["methods"]
    settings = {row["path"]: row for row in found["settings"]}
    assert settings["methods.fastvid.own_weight"] == {
        "path": "methods.fastvid.own_weight", "type": "a number", "rule": "in [0, 1]", "default": 0.6,
        "default_text": "0.6", "flag": None,
        "meaning": "Least weight of the anchor itself in a context token; the rest is the mean of what it absorbs.",
    }  # fmt: skip
    assert found["presets"] == ["methods/fastvid"]
    assert found["example"] == "--set methods.fastvid.segments=8"
    assert found["description"][0].startswith("Keep salient tokens")
    text = run_aot("methods", "fastvid").out
    assert all(part in text for part in ("own_weight", "in [0, 1]", "methods/fastvid", "arXiv 2503.11187"))


def test_a_name_of_both_kinds_shows_both(run_aot: Aot) -> None:
    found = run_aot("methods", "holitom", "--json").json
    assert [row["path"] for row in found["inner"][0]["settings"]] == [
        "inner.settings.holitom.layer", "inner.settings.holitom.keep",
    ]  # fmt: skip
    assert found["inner"][0]["presets"] == ["methods/holitom-full"]
    assert found["methods"][0]["settings"][0]["type"] == "a number or null"


@pytest.mark.parametrize("name", [*METHODS, *INNER])
def test_every_example_is_a_setting(run_aot: Aot, name: str) -> None:
    """What is shown can be given: each setting at its default builds the same configuration."""
    from aot.config.sources import resolve_config
    from aot.config.strict import Settings
    from aot_cli.given_settings import assigned_layer

    told = run_aot("methods", name, "--json").json
    for kind in (kind for kind in ("methods", "inner") if kind in told):
        (found,) = told[kind]
        lines = [f"{row['path']}={row['default_text']}" for row in found["settings"]]
        chosen: Settings = {"method": name} if kind == "methods" else {"inner": {"name": name}}
        config = resolve_config(assigned_layer(lines, "--set").settings, base=chosen)
        build_method(config) if kind == "methods" else divide(config, 28)[1]
        for preset in found["presets"]:
            assert name in (resolve_config({}, preset).method, resolve_config({}, preset).inner.name)


def test_an_unknown_method_brings_a_suggestion(run_aot: Aot) -> None:
    done = run_aot("methods", "holitm")
    assert (done.code, done.out) == (2, "")
    assert done.err == "aot: there is no method 'holitm'; did you mean holitom?\n"


@pytest.mark.parametrize("value", ["emphasys=3", "emphasis=-99"])
def test_settings_of_unused_methods_are_checked(
    run_aot: Aot, clip_file: Path, small: tuple[str, ...], value: str
) -> None:
    run = run_aot("ask", clip_file, "hi?", "--set", f"methods.standout.{value}", *small)
    assert run.code == 2
    assert f"methods.standout.{value.partition('=')[0]}" in run.err.splitlines()[-1]
