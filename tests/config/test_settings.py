"""Where settings come from, and which wins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from aot.config.presets import preset_names, preset_text
from aot.config.schema import Config, build_config
from aot.config.sources import SETTINGS_FILE, resolve_config
from aot.errors import ConfigError

# (source, frames it asks for), weakest first; the paper preset for a quarter of the tokens sets the ratio.
PRESET = "paper/onevision-r25"
BOMB = "\n".join(["a0: &a0 [x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30))])


def write(folder: Path, text: str | bytes) -> Path:
    (folder / SETTINGS_FILE).write_bytes(text.encode() if isinstance(text, str) else text)
    return folder


def test_nothing_anywhere_is_the_defaults(tmp_path: Path) -> None:
    assert resolve_config({}, folder=tmp_path) == Config()


@pytest.mark.parametrize("base", [True, False])
@pytest.mark.parametrize("preset", [True, False])
@pytest.mark.parametrize("file", [True, False])
@pytest.mark.parametrize("flag", [True, False])
def test_precedence(tmp_path: Path, base: bool, preset: bool, file: bool, flag: bool) -> None:
    if file:
        write(tmp_path, "ratio: 0.03\n")
    config = resolve_config(
        {"ratio": 0.04} if flag else {},
        PRESET if preset else None,
        folder=tmp_path,
        base={"ratio": 0.01} if base else None,
    )
    given = [0.04] * flag + [0.03] * file + [0.25] * preset + [0.01] * base + [Config().ratio]
    assert config.ratio == given[0]


def test_layers_mix_key_by_key(tmp_path: Path) -> None:
    write(tmp_path, "sampling: {frames: 8}\ngeneration: {seed: 3}\n")
    config = resolve_config({"sampling": {"start_s": 1.0}}, folder=tmp_path, base={"sampling": {"max_frames": 99}})
    sampling = config.sampling
    assert (sampling.frames, sampling.start_s, sampling.max_frames, config.generation.seed) == (8, 1.0, 99, 3)


def test_the_working_folder_is_looked_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(write(tmp_path, "ratio: 0.5"))
    assert resolve_config({}).ratio == 0.5


def test_a_preset_named_in_the_file(tmp_path: Path) -> None:
    write(tmp_path, f"preset: {PRESET}\n")
    assert resolve_config({}, folder=tmp_path) == resolve_config({}, PRESET, folder=tmp_path / "none")
    assert resolve_config({}, "default", folder=tmp_path).ratio == 0.1


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "{}"])
def test_an_empty_file_says_nothing(tmp_path: Path, text: str) -> None:
    assert resolve_config({}, folder=write(tmp_path, text)) == Config()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ratio: [0.1", "not valid YAML"),
        ("a: b: c", "not valid YAML"),
        ("\tratio: 1", "not valid YAML"),
        ("ratio: !!python/object/apply:os.mkdir [ran]", "not valid YAML"),
        (b"ratio: \xff\xfe0.1", "not valid YAML|not UTF-8"),
        (b"ratio: 0.1\x00", "not valid YAML"),
        ("- ratio", "key: value"),
        ("0.1", "key: value"),
        ("ration: 0.1", "aot.yaml: unknown setting ration .did you mean ratio. valid: ratio, "),
        ("preset: nonsense", "aot.yaml: preset 'nonsense' does not exist; valid: default, "),
        ("preset: [default]", "aot.yaml: preset .*does not exist"),
        ("ratio: .nan", "ratio must be"),
        ("ratio: 2024-13-01", "aot.yaml is not valid YAML"),
        ("ratio: !!int abc", "aot.yaml is not valid YAML"),
        ("ratio: " + "9" * 5000, "not valid YAML|must be a number"),
        pytest.param("[" * 2000, "not valid YAML", id="deep"),
        ("ratio: 0.1\nratio: 0.2", "ratio is given twice"),
        ("sampling: {frames: 1, fps: 2, frames: 3}", "frames is given twice"),
        pytest.param(BOMB, "holds an alias", id="bomb"),
        ("preset: &p [*p]", "holds an alias"),
        ("methods: &m {aot: *m}", "holds an alias"),
        ("preset: {preset: {preset: default}}", "preset .* does not exist"),
        pytest.param("# " + "x" * 300_000, "aot.yaml is longer than 256 KiB", id="long"),
    ],
)
def test_files_that_do_not_read(tmp_path: Path, text: str | bytes, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(write(tmp_path, text))
    with pytest.raises(ConfigError, match=says):
        resolve_config({})
    assert not Path("ran").exists()


@pytest.mark.parametrize("text", ["1e-3", "1.0e-3", "0.001"])
def test_numbers_as_people_write_them(tmp_path: Path, text: str) -> None:
    write(tmp_path, f"aot: {{inter: {{transport: {{tolerance: {text}}}}}}}")
    assert resolve_config({}, folder=tmp_path).aot.inter.transport.tolerance == 1e-3


# --- Presets


def test_a_misspelt_preset_brings_a_suggestion() -> None:
    with pytest.raises(ConfigError, match=r"preset 'shape' does not exist; did you mean shapes\?$"):
        preset_text("shape")


def test_presets_are_found() -> None:
    assert {"default", "dynamic", PRESET} <= set(preset_names())


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_valid_and_says_how_to_use_it(name: str) -> None:
    text = preset_text(name)
    settings: dict[str, Any] = yaml.safe_load(text)
    config = build_config(settings)
    assert config.method == "aot" or name.startswith("methods/")
    assert text.startswith("# aot ") and f"--preset {name}" in text.partition("\n\n")[0]


def test_the_default_preset_is_what_runs_without_one(tmp_path: Path) -> None:
    assert resolve_config({}, "default", folder=tmp_path) == Config()


@pytest.mark.parametrize("name", ["nope", "", "../pyproject", "/etc/passwd", "paper", "default.yaml"])
def test_a_preset_that_is_not_there(name: str) -> None:
    with pytest.raises(ConfigError, match=r"preset .* does not exist; (valid: default, |did you mean default)"):
        preset_text(name)


def test_a_preset_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("# a comment\nratio: 0.07\nmethod: standout\n")
    assert preset_text("mine.yaml").startswith("# a comment")
    config = resolve_config({"sampling": {"frames": 4}}, "mine.yaml")
    assert (config.ratio, config.method, config.sampling.frames) == (0.07, "standout", 4)
    Path("mine.yaml").write_text("ratio: 7\n")
    with pytest.raises(ConfigError, match=r"preset mine.yaml: ratio must"):
        resolve_config({}, "mine.yaml")
