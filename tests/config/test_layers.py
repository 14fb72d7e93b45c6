"""Every value knows where it came from, and an error says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aot.config.layers import Layer, build_layers, explained, source_of
from aot.config.sources import resolve_config, resolve_layers
from aot.errors import BudgetError, ConfigError, Problem

FILE = Layer({"ratio": 5, "sampling": {"frames": 0, "frams": 3}}, "aot.yaml")
FLAGS = Layer({"sampling": {"frames": -1}}, names={"sampling.frames": "--frames"})


def told(*layers: Layer) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        build_layers(layers)
    return [str(problem) for problem in caught.value.problems]


def test_the_strongest_layer_that_sets_a_value_is_named_for_it() -> None:
    assert told(FILE, FLAGS) == [
        "aot.yaml: unknown setting sampling.frams (did you mean frames? valid: frames, fps, start_s, end_s, "
        "max_frames, segment_frames, spacing, seek, decoder, select_frames, duplicate_similarity, strict, "
        "max_input_mb)",
        "--frames must be at least 1, got -1",
        "aot.yaml: ratio must be in (0, 1], got 5",
    ]
    assert told(FLAGS, FILE)[1] == "aot.yaml: sampling.frames must be at least 1, got 0"


def test_values_from_python_have_no_source() -> None:
    assert told(Layer({"ratio": 5})) == ["ratio must be in (0, 1], got 5"]


@pytest.mark.parametrize(
    ("settings", "path"),
    [
        ({"aot": 4}, "aot"),
        ({"sampling.frames": 8}, "sampling.frames"),
        ({3: 4}, "3"),
        ({"methods": {"random": 3}}, "methods.random"),
        ({"aot": {"intra": {"transport": {"epsilon": 0}}}}, "aot.intra.transport.epsilon"),
    ],
)
def test_every_kind_of_problem_has_its_source(settings: dict[Any, Any], path: str) -> None:
    layer = Layer(settings, "FILE")
    assert layer.has(path)
    (problem,) = told(layer)
    assert problem.startswith("FILE: ")
    assert path in problem


def test_two_ways_to_sample() -> None:
    both = {"sampling": {"frames": 3, "fps": 2}}
    assert told(Layer(both, "aot.yaml")) == ["aot.yaml: sampling.frames and sampling.fps exclude each other; give one"]
    names = {"sampling.frames": "AOT_FRAMES", "sampling.fps": "AOT_FPS"}
    assert told(Layer(both, names=names)) == ["AOT_FRAMES and AOT_FPS exclude each other; give one"]
    assert build_layers([Layer({"sampling": {"fps": 2}}), Layer({"sampling": {"frames": 3}})]).sampling.fps is None


def test_an_error_raised_later_is_explained_once_and_keeps_its_kind() -> None:
    late = BudgetError("too few", Problem("ratio", "must be more"))
    once = explained(late, [FILE])
    assert isinstance(once, BudgetError)
    assert str(once) == "too few; aot.yaml: ratio must be more"
    assert str(explained(once, [FLAGS, FILE])) == str(once)


def test_files_and_presets_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "aot.yaml").write_text("preset: paper/onevision-r25\nratio: 5\n")
    with pytest.raises(ConfigError, match=r"aot\.yaml: ratio must be in \(0, 1\], got 5"):
        resolve_config({}, folder=tmp_path)
    monkeypatch.setattr("aot.config.sources.preset_settings", lambda name: {"ratio": 7})
    with pytest.raises(ConfigError, match=r"^preset some/name: ratio must be in \(0, 1\], got 7$"):
        resolve_config({}, "some/name", folder=tmp_path / "none")


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("ratio", "aot.yaml"),
        ("sampling.frames", "--frames"),
        ("sampling.max_frames", "default"),
        ("methods.random.seed", "--set"),
        ("methods.random", "--set"),
        ("methods.fastvid.blend", "default"),
    ],
)
def test_the_source_of_a_value(path: str, source: str) -> None:
    file = Layer({"ratio": 0.2, "sampling": {"frames": 3}}, "aot.yaml")
    assigned = Layer({"methods": {"random": {"seed": 1}}}, "--set")
    assert source_of(path, [file, FLAGS, assigned]) == source


def test_frames_are_the_source_of_an_fps_that_they_undo() -> None:
    layers = [Layer({"sampling": {"fps": 2}}, "aot.yaml"), FLAGS]
    assert source_of("sampling.fps", layers) == "--frames"
    assert source_of("sampling.fps", layers[:1]) == "aot.yaml"
    assert source_of("sampling.fps", layers[1:]) == "default"
    assert source_of("sampling.fps", layers[::-1]) == "aot.yaml"


def test_what_the_name_of_a_model_settles_has_it_as_its_source(tmp_path: Path) -> None:
    layers = resolve_layers([Layer({"model": {"name": "shapes"}}, "--set")], folder=tmp_path)
    assert source_of("sampling.frames", layers) == "model shapes"
    assert source_of("model.name", layers) == "--set"
