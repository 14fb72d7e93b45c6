"""Each error a user can meet: one line with a remedy, the right exit code, nothing left behind."""

from __future__ import annotations

import errno
import json
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.support import make_videos
from tests.support.cli_run import Aot
from tests.support.tiny_checkpoint import drop_weights, make_checkpoint, make_other_architecture

pytestmark = pytest.mark.smoke


def one_line(error: str) -> str:
    lines = error.strip().splitlines()
    assert len(lines) == 1, error
    assert lines[0].startswith("aot: ")
    assert "Traceback" not in error
    return lines[0]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("empty.mp4", b"", "empty"),
        ("junk.mp4", bytes(range(256)) * 40, "not a video"),
        ("text.mp4", b"hello", "not a video"),
    ],
)
def test_unreadable_files(run_aot: Aot, small: tuple[str, ...], name: str, content: bytes, says: str) -> None:
    Path(name).write_bytes(content)
    for command in (("ask", name, "hi", *small), ("inspect", name), ("compress", name, "-o", "t.pt", *small)):
        run = run_aot(*command)
        assert run.code == 3
        assert says in one_line(run.err)
        assert not run.out
    assert {path.name for path in Path().iterdir()} == {name}


def test_missing_file_directory_and_truncation(run_aot: Aot, small: tuple[str, ...], clip_file: Path) -> None:
    Path("folder.mp4").mkdir()
    Path("cut.mp4").write_bytes(clip_file.read_bytes()[:200])
    for name in ("nope.mp4", "folder.mp4", "cut.mp4"):
        run = run_aot("ask", name, "hi", *small)
        assert run.code == 3
        assert name in one_line(run.err)


def test_audio_only(run_aot: Aot, small: tuple[str, ...]) -> None:
    make_videos.write_sound(Path("sound.mp4"))
    run = run_aot("ask", "sound.mp4", "hi", *small)
    assert run.code == 3
    assert "picture" in one_line(run.err) or "video" in one_line(run.err)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("--start", "0.5", "--end", "0.5"), 2, "--end"),
        (("--start", "99"), 3, "lasts"),
        (("--ratio", "0"), 2, "(0, 1]"),
        (("--ratio", "1.01"), 2, "(0, 1]"),
        (("--ratio", "nan"), 2, "(0, 1]"),
        (("--ratio", "0.001"), 2, "clips"),
        (("--ratio", "0.001", "--method", "uniform"), 2, "leaves none of 200 tokens"),
        (("--frames", "0"), 2, "at least 1"),
        (("--method", "magic"), 2, "must be one of none, random"),
        (("--frames", "8", "--fps", "2"), 2, "give one"),
        (("--set", "aot.budget=: ["), 2, "not valid YAML"),
        (("--set", "aot=1", "--set", "aot.budget=paper"), 2, "aot already has a value, so aot.budget cannot be set"),
        (("--seed", "99999999999999999999"), 2, "--seed"),
        (("--clips", "sometimes"), 2, "fixed or dynamic"),
        (("--set", "aot.inter.nope=1"), 2, "unknown setting aot.inter.nope"),
        (("--set", "nonsense"), 2, "PATH=VALUE"),
        (("--preset", "nope"), 2, "valid: default"),
        (("--preset", "shape"), 2, "did you mean shapes?"),
        (("--model", "shape"), 4, "did you mean shapes?"),
        (("--device", "tpu"), 2, "auto, cpu"),
        (("--model", "./nope"), 4, "there is no folder"),
        (("--model", "someone/something", "--offline"), 4, "offline"),
    ],
)
def test_bad_settings(
    run_aot: Aot, small: tuple[str, ...], clip_file: Path, arguments: tuple[str, ...], code: int, says: str
) -> None:
    run = run_aot("ask", clip_file, "hi", *small, *arguments)
    assert run.code == code
    assert says in one_line(run.err)
    assert not run.out


def test_no_question(run_aot: Aot, clip_file: Path) -> None:
    run = run_aot("ask", clip_file, "  ")
    assert run.code == 2
    assert "question" in one_line(run.err)


def test_unusable_checkpoints(run_aot: Aot, clip_file: Path, tmp_path: Path) -> None:
    other = make_other_architecture(tmp_path / "other")
    run = run_aot("ask", clip_file, "hi", "--model", other)
    assert run.code == 4
    assert "qwen2" in one_line(run.err)
    assert "LLaVA-OneVision" in run.err
    broken = make_checkpoint(tmp_path / "broken", grid=5)
    drop_weights(broken, "multi_modal_projector")
    run = run_aot("ask", clip_file, "hi", "--model", broken)
    assert run.code == 4
    assert "lacks" in one_line(run.err)


@pytest.mark.parametrize("late", [False, True])
def test_nan_features(
    run_aot: Aot, clip_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    """On a device that queues its work they are found when an answer has begun, and no word of it is printed."""
    monkeypatch.setattr("aot.models.vision.encoding._is_queued", lambda device: late)
    folder = make_checkpoint(tmp_path / "nan", grid=5)
    file = folder / "model.safetensors"
    weights = load_file(file)
    name = next(key for key in weights if key.endswith("linear_2.bias"))
    weights[name] = torch.full_like(weights[name], torch.nan)
    save_file(weights, file, metadata={"format": "pt"})
    rest = ("--model", folder, "--frames", "2", "--method", "uniform")
    for command in (
        ("compress", clip_file, "-o", "t.pt"),
        ("ask", clip_file, "what?"),
        ("ask", clip_file, "a", "-q", "b"),
    ):
        run = run_aot(*command, *rest)
        assert (run.code, run.out) == (1, "")
        assert "NaN" in one_line(run.err)
    assert not list(Path().iterdir())


class _Malice:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("pwned"),)


@pytest.mark.parametrize("content", ["pickle", "random", "empty", "foreign"])
def test_tokens_files_that_are_not(run_aot: Aot, content: str) -> None:
    match content:
        case "pickle":
            Path("t.pt").write_bytes(pickle.dumps(_Malice()))
        case "random":
            Path("t.pt").write_bytes(bytes(range(256)))
        case "empty":
            Path("t.pt").touch()
        case "foreign":
            torch.save({"weights": torch.zeros(2)}, "t.pt")
    for command in (("ask", "t.pt", "hi"), ("inspect", "t.pt")):
        run = run_aot(*command)
        assert run.code == 1
        assert "t.pt" in one_line(run.err)
    assert not Path("pwned").exists()


@pytest.fixture
def nothing_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever reads all weights of a model fails."""

    def fail(*given: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("aot.models.families.llava.load_network", fail)
    monkeypatch.setattr("aot.models.families.qwen_vl.load_network", fail)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("--start", "99"), 3, "lasts"),
        (("--start", "1.01", "--end", "1.02"), 3, "choose another --start and --end"),
        (("--ratio", "0.001"), 2, "leaves 0 tokens for 2 clips; use --ratio"),
        (("--ratio", "0.001", "--frames", "24", "--segment-frames", "8"), 2, "for 2 clips"),
        (("--ratio", "0.001", "--method", "vidcom2"), 2, "leaves none of 200 tokens"),
        (("--ratio", "0.001", "--method", "aot-dyn"), 2, "leaves 0 tokens for 1 clips"),
        (("--ratio", "0.001", "--method", "none", "--inner", "fastv"), 2, "--inner fastv"),
        (("--method", "fastvid", "--set", "methods.fastvid.nope=1"), 2, "unknown setting methods.fastvid.nope"),
    ],
)
@pytest.mark.usefixtures("nothing_loads")
def test_what_is_known_beforehand_is_checked_before_loading(
    run_aot: Aot, small: tuple[str, ...], clip_file: Path, arguments: tuple[str, ...], code: int, says: str
) -> None:
    for command in (("ask", clip_file, "hi"), ("compress", clip_file, "-o", "t.pt")):
        run = run_aot(*command, *small, *arguments)
        assert run.code == code
        assert says in one_line(run.err)


@pytest.mark.usefixtures("nothing_loads")
def test_what_a_family_lacks_is_said_before_loading(run_aot: Aot, clip_file: Path, qwen25_folder: Path) -> None:
    run = run_aot("ask", clip_file, "hi", "--model", qwen25_folder, "--method", "tome")
    assert run.code == 2
    assert "use another --method" in one_line(run.err)


def test_tokens_of_another_model(
    run_aot: Aot, small: tuple[str, ...], clip_file: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    assert run_aot("compress", clip_file, "-o", "t.pt", *small).code == 0
    other = make_checkpoint(tmp_path / "other", seed=7, grid=9)
    request.getfixturevalue("nothing_loads")
    run = run_aot("ask", "t.pt", "hi", "--model", other)
    assert run.code == 1
    assert "made by" in one_line(run.err)


def test_existing_output_is_kept(run_aot: Aot, small: tuple[str, ...], clip_file: Path) -> None:
    Path("t.pt").write_text("mine")
    run = run_aot("compress", clip_file, "-o", "t.pt", *small)
    assert run.code == 1
    assert "--force" in one_line(run.err)
    assert Path("t.pt").read_text() == "mine"
    run = run_aot("compress", clip_file, "-o", "new.pt", "--report", "t.pt", *small)
    assert run.code == 2
    assert ".json or .csv" in one_line(run.err)


def test_outputs_are_checked_before_the_work(run_aot: Aot, clip_file: Path) -> None:
    """No model is named, so loading would fail first if the output were looked at last."""
    for output, says in (("t.bin", ".safetensors"), ("nowhere/t.pt", "does not exist"), ("../here", ".pt")):
        run = run_aot("compress", clip_file, "-o", output)
        assert says in one_line(run.err)


def test_full_disk(run_aot: Aot, small: tuple[str, ...], clip_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(*args: Any, **kwargs: Any) -> None:
        Path(args[1]).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", no_space)
    run = run_aot("compress", clip_file, "-o", "t.pt", *small)
    assert run.code == 1
    assert "no space left" in run.err
    assert not list(Path().iterdir())


def test_out_of_memory(run_aot: Aot, small: tuple[str, ...], clip_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import aot.models.families.llava as family

    def exhausted(*args: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(family.Llava, "_tower_features", exhausted)
    run = run_aot("ask", clip_file, "hi", *small)
    assert run.code == 5
    assert "--encode-batch" in one_line(run.err)


def test_debug_shows_the_traceback_too(run_aot: Aot) -> None:
    run = run_aot("inspect", "nope.mp4", "--debug")
    assert run.code == 3
    assert "Traceback" in run.err
    assert run.err.splitlines()[-1].startswith("aot: nope.mp4 does not exist")


def test_a_bug_is_one_line_too(run_aot: Aot, monkeypatch: pytest.MonkeyPatch, clip_file: Path) -> None:
    import aot.video

    monkeypatch.setattr(aot.video, "plan_frames", lambda *_: 1 / 0)
    run = run_aot("inspect", clip_file)
    assert run.code == 1
    assert "--debug" in one_line(run.err)


def test_misspelt_files_and_forgotten_commands(run_aot: Aot, clip_file: Path) -> None:
    Path("holiday.mp4").write_bytes(clip_file.read_bytes())
    assert "did you mean holiday.mp4?" in one_line(run_aot("ask", "holidya.mp4", "hi").err)
    assert "check the spelling" in one_line(run_aot("ask", "/no/such/folder/a.mp4", "hi").err)
    for name in ("holiday.mp4", "https://example.org/a.mp4"):
        run = run_aot(name, "what happens?")
        assert run.code == 2
        assert f"Did you mean: aot ask {name}" in " ".join(run.err.replace("│", " ").split())


def test_a_list_of_methods_is_named_as_it_was_typed(run_aot: Aot, small: tuple[str, ...], clip_file: Path) -> None:
    run = run_aot("compare", clip_file, "hi", "--methods", "aot,nothing", *small)
    assert run.code == 2
    assert one_line(run.err).startswith("aot: --methods must be one of ")


def test_arguments_in_the_wrong_place(run_aot: Aot, small: tuple[str, ...], clip_file: Path) -> None:
    run = run_aot("ask", clip_file, clip_file, *small)
    assert run.code == 2
    assert "is a file" in one_line(run.err)
    run_aot("compress", clip_file, "-o", "t.pt", *small)
    run = run_aot("compress", "t.pt", "-o", "u.pt", *small)
    assert run.code == 3
    assert "already a tokens file" in one_line(run.err)


NO_FILE_NAMES = ["what happens? " * 30 + "say it. briefly", "a\0b.mp4", "x/" * 3000 + "clip.mp4"]


@pytest.mark.parametrize("question", NO_FILE_NAMES[::2])
def test_a_question_may_be_longer_than_a_file_name(
    run_aot: Aot, small: tuple[str, ...], clip_file: Path, question: str
) -> None:
    run = run_aot("ask", clip_file, question, *small, "--max-new-tokens", "2")
    assert run.code == 0, run.err


@pytest.mark.parametrize("name", NO_FILE_NAMES)
def test_a_name_that_no_file_can_have_is_a_file_that_is_not_there(
    run_aot: Aot, small: tuple[str, ...], clip_file: Path, name: str
) -> None:
    for code, says, command in (
        (3, "does not exist", ("ask", name, "hi", *small)),
        (3, "does not exist", ("inspect", name, "--model", "shapes", "--overlay", "o.mp4")),
        (1, "there is no tokens file", ("ask", name + ".pt", "hi")),
        (4, "", ("ask", clip_file, "hi", "--model", name)),
    ):
        run = run_aot(*command)
        assert run.code == code, run.err
        assert says in one_line(run.err)
        assert "internal error" not in run.err


def test_a_bad_video_is_noticed_before_a_model_is_loaded(run_aot: Aot) -> None:
    run = run_aot("ask", "nope.mp4", "hi", "--model", "no/such-model")
    assert run.code == 3


def test_python_without_docstrings(clip_file: Path) -> None:
    """What needs no model works; for the rest transformers cannot be imported."""
    line = [sys.executable, "-OO", "-m", "aot_cli"]
    seen = subprocess.run([*line, "inspect", clip_file, "--json"], capture_output=True, check=True)
    assert json.loads(seen.stdout)["video"]["frames"]
    run = subprocess.run([*line, "ask", clip_file, "what?", "--model", "shapes"], capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (4, "")
    *progress, said = run.stderr.splitlines()  # a busy machine gets lines of progress first
    assert "python -OO (PYTHONOPTIMIZE=2) drops the docstrings" in said
    assert all(re.fullmatch(r"aot: \d+ s: .*", each) for each in progress)
