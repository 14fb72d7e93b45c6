"""`--model_args` of lmms-eval: all settings, a preset or a file, and one GPU for each process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from aot.config.schema import Config, build_config
from aot.config.setting import settings_in
from aot.config.strict import nested
from aot.errors import ConfigError
from aot.serving.lmms.settings import Rank, placed, read_arguments

NESTED = {"aot.inter.transport.epsilon": 0.2, "methods.fastvid.own_weight": 0.5, "inner.settings.fastv.layer": 3}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, {}),
        ({"pretrained": "shapes", "ratio": "25%"}, {"model.name": "shapes", "ratio": 0.25}),
        ({"model": "x", "revision": "main"}, {"model.name": "x", "model.revision": "main"}),
        ({"frames": 16, "start_s": "1:30"}, {"sampling.frames": 16, "sampling.start_s": 90.0}),
        ({"tower": "stc", "tower.stc.interval": 4}, {"tower.name": "stc", "tower.stc.interval": 4}),
        ({"inner": "fastv", "seed": 3}, {"inner.name": "fastv", "generation.seed": 3}),
        *[({path: value}, {path: value}) for path, value in NESTED.items()],
    ],
)
def test_arguments_are_settings(arguments: dict[str, Any], expected: dict[str, Any]) -> None:
    assert read_arguments(arguments) == build_config(nested(expected))


@pytest.mark.parametrize("path", [setting.path for setting in settings_in(Config)])
def test_every_setting_can_be_given(path: str) -> None:
    with pytest.raises(ConfigError, match=rf"^--model_args {path} must be "):
        read_arguments({path: []})


def test_arguments_override_a_preset_and_a_file(tmp_path: Path) -> None:
    found = read_arguments({"preset": "paper/video-r10", "frames": 8})
    assert (found.sampling.frames, found.sampling.fps, found.aot.inter.enabled) == (8, None, False)
    path = tmp_path / "own.yaml"
    path.write_text("ratio: 0.5\naot: {clips: {frames: 8}}\n")
    assert read_arguments({"preset": str(path), "ratio": 0.2}) == build_config(
        {"ratio": 0.2, "aot": {"clips": {"frames": 8}}}
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"ratio": 2}, "--model_args ratio must be in"),
        ({"pretrained": 7}, "--model_args pretrained must be text"),
        ({"max_frames_num": 32}, "unknown setting --model_args max_frames_num"),
        ({"preset": "paper/r10"}, "did you mean paper/"),
        ({"preset": "none.yaml"}, "preset .none.yaml. does not exist"),
        ({"frames": 8, "fps": 2}, "exclude each other"),
    ],
)
def test_what_is_wrong_is_named_as_it_was_given(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        read_arguments(arguments)


def test_the_file_of_settings_in_this_folder_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "aot.yaml").write_text("ratio: 0.5\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AOT_RATIO", "0.4")
    assert read_arguments({}).ratio == Config().ratio


def test_each_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "11", "WORLD_SIZE": "16", "LOCAL_RANK": "3"}.items():
        monkeypatch.setenv(name, value)
    rank = Rank.of_process()
    assert rank == Rank(11, 16, 3)
    assert placed(Config(), rank) == Config()  # there is no GPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for device, expected in (("auto", "cuda:3"), ("cuda", "cuda:3"), ("cpu", "cpu")):
        config = build_config({"model": {"device": device}})
        assert placed(config, rank).model.device == expected
        assert placed(config, Rank()) == config
    with pytest.raises(ConfigError, match="device=cuda:1 is one GPU for all 16 processes"):
        placed(build_config({"model": {"device": "cuda:1"}}), rank)
    with pytest.raises(ConfigError, match="device_map=auto takes all GPUs"):
        placed(build_config({"model": {"device_map": "auto"}}), rank)
