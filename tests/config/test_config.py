"""Settings check themselves; building from YAML is strict and reports everything at once."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from aot.compression.methods import build_method
from aot.config.schema import (
    AOT_METHODS,
    AnchorConfig,
    ClipConfig,
    Config,
    GenerationConfig,
    InterConfig,
    IntraConfig,
    ModelConfig,
    SamplingConfig,
    TransportConfig,
    build_config,
)
from aot.config.strict import merge_settings
from aot.errors import ConfigError

NAN = float("nan")


def message(settings: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        build_config(settings)
    return str(caught.value)


# --- Values


@pytest.mark.parametrize(
    ("cls", "name", "values"),
    [
        (Config, "ratio", [0, -0.1, 1.01, NAN]),
        (SamplingConfig, "frames", [0, -1]),
        (SamplingConfig, "fps", [0.0, -1.0, NAN, 1e308]),
        (SamplingConfig, "start_s", [-0.1, NAN]),
        (SamplingConfig, "end_s", [0.0, -1.0, NAN]),
        (SamplingConfig, "max_frames", [0]),
        (ModelConfig, "device", ["gpu", "", "cudax", "tpu:0"]),
        (ModelConfig, "encode_batch_frames", [0]),
        (ModelConfig, "frame_pixels", [0, -784]),
        (TransportConfig, "epsilon", [0.0, 9e-4, NAN]),
        (TransportConfig, "max_iterations", [0]),
        (TransportConfig, "tolerance", [0.0, NAN]),
        (AnchorConfig, "count", [0, -3]),
        (AnchorConfig, "local_ratio", [-0.1, 1.1, NAN]),
        (AnchorConfig, "windows_per_side", [0]),
        (IntraConfig, "spatial_weight", [-0.1, NAN]),
        (IntraConfig, "nearest_blend", [-0.1, 1.1]),
        (IntraConfig, "lambda_intra", [-0.1]),
        (InterConfig, "sigma_frames", [0.0, NAN]),
        (InterConfig, "lambda_inter", [-0.1]),
        (InterConfig, "keep_ratio", [-0.1, 1.1]),
        (InterConfig, "tau", [-0.1, 1.1]),
        (ClipConfig, "frames", [0]),
        (ClipConfig, "segments", [0]),
        (ClipConfig, "threshold", [-1.1, 1.1, NAN]),
        (GenerationConfig, "max_new_tokens", [0]),
        (GenerationConfig, "temperature", [-0.1, NAN, 1e-40]),
    ],
)
def test_values_out_of_range_are_refused_by_name(cls: Any, name: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(ConfigError, match=rf"^{name} must"):
            cls(**{name: value})


@pytest.mark.parametrize(
    ("cls", "values"),
    [
        (Config, {"ratio": 1.0}),
        (SamplingConfig, {"frames": 1, "max_frames": 1, "start_s": 0.0, "end_s": 0.1}),
        (ModelConfig, {"device": "cuda:3"}),
        (TransportConfig, {"epsilon": 1e-3}),
        (AnchorConfig, {"count": None, "local_ratio": 0.0}),
        (AnchorConfig, {"count": 1, "local_ratio": 1.0}),
        (ClipConfig, {"threshold": -1.0}),
        (GenerationConfig, {"temperature": 0.0, "max_new_tokens": 1}),
    ],
)
def test_the_ends_of_ranges_are_in(cls: Any, values: dict[str, Any]) -> None:
    assert cls(**values)


def test_an_end_before_the_start() -> None:
    assert "sampling.end_s must be after the start (5 s), got 3" in message({"sampling": {"start_s": 5, "end_s": 3}})


def test_settings_do_not_change() -> None:
    with pytest.raises(AttributeError):
        Config().ratio = 0.5  # type: ignore[misc]


@given(st.floats(0.001, 1), st.integers(1, 256), st.integers(1, 729))
def test_token_budget(ratio: float, frames: int, per_frame: int) -> None:
    budget = Config(ratio=ratio).token_budget(frames, per_frame)
    assert 0 <= budget <= frames * per_frame
    assert abs(budget - ratio * frames * per_frame) <= 0.5


# --- Building


def test_nothing_given_is_the_defaults() -> None:
    assert build_config({}) == Config()


def test_a_value_with_a_semicolon_does_not_split_its_message() -> None:
    assert message({"model": {"device": "a; b"}}).count("model.") == 1


def test_a_whole_config_survives_the_way_through_yaml() -> None:
    settings = {"ratio": 0.25, "sampling": {"fps": 2}, "aot": {"intra": {"transport": {"epsilon": 0.05}}}}
    config = build_config(settings)
    assert (config.ratio, config.sampling.fps, config.aot.intra.transport.epsilon) == (0.25, 2.0, 0.05)
    assert config.aot.inter.transport.epsilon == 0.1
    assert build_config(yaml.safe_load(yaml.safe_dump(config.to_dict()))) == config
    assert build_config(json.loads(json.dumps(config.to_dict()))) == config


def test_every_problem_is_reported_with_its_path() -> None:
    said = message(
        {
            "ratio": 2,
            "color": "red",
            "sampling": {"frames": "many", "fps": -1, "every": 3},
            "model": {"dtype": "int8"},
            "aot": {"anchors": {"count": 0, "local_ratio": 7}, "intra": {"transport": {"epsilon": 0}}, "clips": 4},
            "generation": {"temperature": True},
        }
    )
    expected = [
        "ratio must be in (0, 1], got 2",
        "unknown setting color (valid: ratio, method, sampling, model, aot, methods, inner, tower, generation)",
        "sampling.frames must be a whole number, got 'many'",
        "sampling.fps must be in (0, 1000000], got -1",
        "unknown setting sampling.every "
        "(valid: frames, fps, start_s, end_s, max_frames, segment_frames, spacing, seek, decoder, "
        "select_frames, duplicate_similarity, strict, max_input_mb)",
        "model.dtype must be auto or float32 or bfloat16 or float16, got 'int8'",
        "aot.anchors.count must be at least 1, got 0",
        "aot.anchors.local_ratio must be in [0, 1], got 7",
        "aot.intra.transport.epsilon must be at least 0.001, got 0",
        "aot.clips must be a group of settings such as clips: {mode: ...}, got 4",
        "generation.temperature must be a number, got True",
    ]
    assert [part for part in expected if part not in said] == []
    assert said.count("; ") == len(expected) - 1


@pytest.mark.parametrize(
    ("path", "value", "kept"),
    [
        ("generation.temperature", 1, 1.0),
        ("sampling.fps", 2, 2.0),
        ("sampling.fps", None, None),
        ("aot.anchors.count", None, None),
        ("model.name", None, None),
        ("model.offline", False, False),
        ("aot.inter.enabled", False, False),
    ],
)
def test_types_that_pass(path: str, value: Any, kept: Any) -> None:
    found = at(build_config(nested(path, value)), path)
    assert (found, type(found)) == (kept, type(kept))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("sampling.frames", True),
        ("sampling.frames", 8.0),
        ("sampling.frames", "8"),
        ("sampling.frames", None),
        ("sampling.fps", False),
        ("sampling.fps", "2"),
        ("ratio", "0.1"),
        ("ratio", True),
        pytest.param("ratio", 10**400, id="too large for a float"),
        ("method", 1),
        ("model.offline", 1),
        ("model.offline", "yes"),
        ("model.name", ["a"]),
        ("model.dtype", None),
        ("model.dtype", ["float32"]),
        ("aot.inter.enabled", 0),
        ("aot.budget", "Exact"),
        ("sampling", None),
        ("sampling", [8]),
        ("aot.intra.transport", "fast"),
    ],
)
def test_types_that_do_not_pass(path: str, value: Any) -> None:
    assert message(nested(path, value)).startswith(f"{path} must be ")


@pytest.mark.parametrize("key", [1, None, True, ("a", "b")])
def test_keys_that_are_no_text(key: Any) -> None:
    assert "unknown setting" in message({key: 1})


def nested(path: str, value: Any) -> dict[str, Any]:
    for name in reversed(path.split(".")):
        value = {name: value}
    return value


def at(config: Any, path: str) -> Any:
    for name in path.split("."):
        config = getattr(config, name)
    return config


# --- Merging

KEYS = st.sampled_from("abc")
LEAVES = st.integers() | st.none() | st.text(max_size=2)
GROUPS = st.dictionaries(KEYS, LEAVES)
SETTINGS = st.dictionaries(KEYS, LEAVES | GROUPS | st.dictionaries(KEYS, LEAVES | GROUPS))


@given(SETTINGS)
def test_merging_with_nothing_or_itself_changes_nothing(settings: dict[str, Any]) -> None:
    assert merge_settings({}, settings) == merge_settings(settings, {}) == settings
    assert merge_settings(settings, settings) == settings


@given(SETTINGS, SETTINGS)
def test_the_later_layer_wins(first: dict[str, Any], second: dict[str, Any]) -> None:
    before = json.dumps([first, second])
    merged = merge_settings(first, second)
    assert merged.keys() == first.keys() | second.keys()
    for key, value in merged.items():
        if isinstance(first.get(key), dict) and isinstance(second.get(key), dict):
            assert value == merge_settings(first[key], second[key])
        else:
            assert value == (second if key in second else first)[key]
    assert json.dumps([first, second]) == before


@given(st.lists(st.dictionaries(KEYS, GROUPS), min_size=3, max_size=3))
def test_merging_groups_is_associative(layers: list[dict[str, Any]]) -> None:
    first, second, third = layers
    together = merge_settings(first, second, third)
    assert merge_settings(merge_settings(first, second), third) == together
    assert merge_settings(first, merge_settings(second, third)) == together


def test_settings_of_methods_are_groups_by_name() -> None:
    assert build_config({"methods": {"random": {"seed": 1}}}).methods == {"random": {"seed": 1}}
    assert "methods.random must be a group of settings" in message({"methods": {"random": 3}})
    assert "methods must be a group of settings" in message({"methods": 3})
    assert "methods has no method magic" in message({"methods": {"magic": {}}})
    config = build_config({"method": "random", "methods": {"random": {"seed": -1, "sead": 2}}})
    told = r"unknown setting methods\.random\.sead \(did you mean seed\? valid: seed\).*seed must be in \[0, 2"
    with pytest.raises(ConfigError, match=told):
        build_method(config)


@pytest.mark.parametrize(("old", "new"), [("neighbours", "neighbors"), ("centre_share", "center_share")])
def test_british_spelling_is_answered_with_the_american_name(old: str, new: str) -> None:
    with pytest.raises(ConfigError, match=rf"unknown setting methods\.holitom\.{old} \(did you mean {new}\?"):
        build_method(build_config({"method": "holitom", "methods": {"holitom": {old: 1}}}))


def test_which_methods_the_settings_of_aot_are_for() -> None:
    from aot.compression.aot.method import AnchorTransport
    from aot.plugins import METHODS, find

    assert {name for name in METHODS if issubclass(find(name), AnchorTransport)} == set(AOT_METHODS)
    assert [Config(method=name).uses_aot for name in ("aot", "aot-dyn", "uniform")] == [True, True, False]
    assert [Config(method=name).resolved_aot.clips.mode for name in AOT_METHODS] == ["fixed", "dynamic"]


def test_a_setting_of_a_group_is_suggested_where_the_group_is_missing() -> None:
    assert "unknown setting frames (did you mean sampling.frames or aot.clips.frames?" in message({"frames": 4})
    assert "model must be a group of settings such as model: {name: ...}, got 'shapes'" in message({"model": "shapes"})
