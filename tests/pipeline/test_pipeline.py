"""From a file to kept tokens to an answer, and the report on the way."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from aot.config.schema import (
    AOTConfig,
    ClipConfig,
    Config,
    GenerationConfig,
    InterConfig,
    ModelConfig,
    SamplingConfig,
    build_config,
)
from aot.errors import ConfigError, MemoryLimitError, TokensFileError, VideoError
from aot.models.families.llava import Llava
from aot.pipeline.checks import check_same_model
from aot.pipeline.run import Compression, Pipeline
from aot.runtime.memory import explained_memory
from aot.storage.tokens_file import SUFFIXES, load_tokens, save_tokens
from aot.types import Role
from tests.support.compressed import compress_video

FRAMES = 8
CONFIG = Config(ratio=0.1, sampling=SamplingConfig(frames=FRAMES), generation=GenerationConfig(max_new_tokens=12))


def with_ratio(ratio: float, frames: int = FRAMES, **aot: Any) -> Config:
    return replace(CONFIG, ratio=ratio, sampling=SamplingConfig(frames=frames), aot=AOTConfig(**aot))


@pytest.fixture(scope="module")
def compression(clip_file: Path, small_model: Llava) -> Compression:
    return compress_video(clip_file, small_model, CONFIG)


# --- Budgets


@pytest.mark.parametrize("ratio", [0.03, 0.1, 0.25, 0.5, 0.99])
@pytest.mark.parametrize("frames", [1, 5, 8])
def test_the_ratio_is_met_to_the_token(clip_file: Path, small_model: Llava, ratio: float, frames: int) -> None:
    if round(ratio * frames * 25) < -(-frames // 4):
        with pytest.raises(ConfigError, match=r"--ratio .*--clip-frames"):
            compress_video(clip_file, small_model, with_ratio(ratio, frames))
        return
    result = compress_video(clip_file, small_model, with_ratio(ratio, frames))
    assert len(result.tokens.features) == round(ratio * frames * 25) == result.report.kept_tokens


def test_the_ratio_is_met_on_the_real_grid(clip_file: Path, tiny_model: Llava) -> None:
    result = compress_video(clip_file, tiny_model, with_ratio(0.1, 4))
    assert len(result.tokens.features) == round(0.1 * 4 * 196)


@pytest.mark.parametrize("method", ["none", "aot"])
def test_ratio_one_keeps_everything(clip_file: Path, small_model: Llava, method: str) -> None:
    result = compress_video(clip_file, small_model, replace(with_ratio(1.0), method=method))
    assert len(result.tokens.features) == FRAMES * 25
    assert set(result.tokens.role.tolist()) == {Role.KEPT}


# --- Report


@pytest.mark.parametrize(
    "aot",
    [
        {},
        {"clips": ClipConfig(mode="dynamic", segments=3)},
        {"inter": InterConfig(enabled=False)},
        {"inter": InterConfig(keyframe="merged")},
        {"budget": "paper"},
    ],
    ids=str,
)
def test_the_report_adds_up(clip_file: Path, small_model: Llava, aot: dict[str, Any]) -> None:
    config = with_ratio(0.2, **aot)
    result = compress_video(clip_file, small_model, config)
    report, tokens = result.report, result.tokens
    assert report.visual_tokens == FRAMES * 25
    assert report.budget_tokens == (round(0.2 * FRAMES * 25) if config.has_budget else None)
    assert report.kept_tokens == len(tokens.features) == sum(frame.kept for frame in report.frames)
    assert report.retention == report.kept_tokens / report.visual_tokens
    for frame in report.frames:
        assert frame.kept == frame.own + frame.distinct + frame.merged == int((tokens.frame == frame.frame).sum())
        assert frame.retention == frame.kept / 25
    assert [frame.frame for frame in report.frames] == list(range(FRAMES))
    assert [frame.timestamp_s for frame in report.frames] == list(tokens.timestamps_s)
    assert [k for clip in tokens.clips for k in range(clip.first, clip.stop)] == list(range(FRAMES))
    assert [frame.frame for frame in report.frames if frame.is_keyframe] == [clip.first for clip in tokens.clips]
    assert report.config == config
    assert report.facts == tokens.facts
    assert report.stage_ms.keys() == {"decode", "encode", "compress"} and min(report.stage_ms.values()) > 0


PAPER, EXACT = {"budget": "paper"}, {"paper_exact": True}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"aot": {"budget": "paper"}},
            "with budget paper the anchors (as many as suit the ratio) and the content decide",
        ),
        (
            {"aot": {"budget": "paper", "anchors": {"count": 20}}},
            "with budget paper the anchors and the content decide",
        ),
        ({"method": "aot-dyn", "aot": PAPER}, "with budget paper the anchors (as many"),
        (
            {"method": "evs", "methods": {"evs": {"paper_exact": True}}},
            "with paper_exact, evs keeps what its settings say",
        ),
        ({}, None),
        ({"method": "uniform"}, None),
    ],
)
def test_what_decides_how_much_is_kept_is_told(
    clip_file: Path, small_model: Llava, changes: dict[str, Any], told: str | None
) -> None:
    config = build_config({"ratio": 0.25, "sampling": {"frames": FRAMES}, **changes})
    report = compress_video(clip_file, small_model, config).report
    notices = [notice for notice in report.notices if "decide" in notice or "keeps" in notice]
    if told is None:
        assert not notices
    else:
        (notice,) = notices
        assert notice.startswith(told)
        assert notice.endswith(f": {report.retention:.2%}, not 25%")


def test_the_report_names_video_and_model(compression: Compression, clip_file: Path, small_model: Llava) -> None:
    report = compression.report
    assert report.video.path == str(clip_file)
    assert (report.video.width, report.video.height, report.video.frames) == (160, 120, 24)
    assert report.model.fingerprint == small_model.identity.fingerprint
    assert (report.model.placement["dtype"], report.model.width) == ("float32", 32)
    assert report.peak_bytes["host"] > 10_000_000
    assert report.frames[0].similarity is None
    assert all(-1 <= frame.similarity <= 1.000001 for frame in report.frames[1:] if frame.similarity is not None)
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False)) == report.to_dict()


def test_progress_only_goes_forward(clip_file: Path, small_model: Llava) -> None:
    calls: list[tuple[str, int, int]] = []
    compress_video(clip_file, small_model, CONFIG, on_progress=lambda *call: calls.append(call))
    stages = list(dict.fromkeys(stage for stage, _, _ in calls))
    assert stages == ["decode", "encode", "compress"]
    for name in stages:
        steps = [(done, total) for stage, done, total in calls if stage == name]
        assert len({total for _, total in steps}) == 1
        assert all(before < after for (before, _), (after, _) in pairwise(steps))
        assert steps[-1][0] == steps[-1][1]
    assert [stage for stage, _, _ in calls] == sorted((stage for stage, _, _ in calls), key=stages.index)


# --- What does not change the result


@pytest.mark.parametrize("batch", [1, 3])
def test_micro_batches_keep_the_same_tokens(
    clip_file: Path, small_model: Llava, compression: Compression, batch: int
) -> None:
    config = replace(small_model.config, encode_batch_frames=batch)
    model = Llava(small_model.network, small_model.tokenizer, config, small_model.identity)
    tokens = compress_video(clip_file, model, CONFIG).tokens
    for name in ("frame", "row", "col", "role"):
        assert torch.equal(getattr(tokens, name), getattr(compression.tokens, name)), name
    torch.testing.assert_close(tokens.features, compression.tokens.features, rtol=0, atol=1e-4)


def test_twice_is_the_same(clip_file: Path, small_model: Llava, compression: Compression) -> None:
    again = compress_video(clip_file, small_model, CONFIG).tokens
    assert torch.equal(again.features, compression.tokens.features)
    assert torch.equal(again.mass, compression.tokens.mass)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_saved_tokens_give_the_same_answer(
    clip_file: Path, small_folder: Path, tmp_path: Path, suffix: str, dtype: Any
) -> None:
    model = Llava.load(ModelConfig(name=str(small_folder), device="cpu", dtype=dtype), {})
    fresh = compress_video(clip_file, model, CONFIG)
    path = tmp_path / f"tokens{suffix}"
    save_tokens(path, fresh.tokens, fresh.report)
    file = load_tokens(path)
    check_same_model(file.report.model, model.identity)
    texts = ["".join(Pipeline(model, CONFIG).answer(tokens, "What moves?")) for tokens in (fresh.tokens, file.tokens)]
    assert texts[0] == texts[1] != ""


def test_the_answer_depends_on_the_kept_tokens(small_model: Llava, compression: Compression) -> None:
    other = replace(compression.tokens, features=-compression.tokens.features)
    texts = [
        "".join(Pipeline(small_model, CONFIG).answer(tokens, "What moves?")) for tokens in (compression.tokens, other)
    ]
    assert texts[0] != texts[1]


# --- What goes wrong


def test_a_missing_video(small_model: Llava, tmp_path: Path) -> None:
    with pytest.raises(VideoError):
        compress_video(tmp_path / "nowhere.mp4", small_model, CONFIG)


def test_tokens_of_another_model(compression: Compression, small_model: Llava) -> None:
    made_by = compression.report.model
    check_same_model(made_by, small_model.identity)
    with pytest.raises(TokensFileError, match="compress the video again"):
        check_same_model(replace(made_by, fingerprint="another"), small_model.identity)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
    ],
    ids=repr,
)
def test_running_out_of_memory_is_explained(error: Exception) -> None:
    with pytest.raises(MemoryLimitError, match=r"--frames.*--encode-batch") as caught, explained_memory():
        raise error
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [RuntimeError("shapes do not match"), ValueError("x"), KeyboardInterrupt()], ids=repr)
def test_other_failures_stay_what_they_are(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, explained_memory():
        raise error
    assert caught.value is error


def test_really_running_out_of_memory() -> None:
    with pytest.raises(MemoryLimitError), explained_memory():
        torch.empty(1 << 60, dtype=torch.uint8)


def no_memory(*_: Any, **__: Any) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory")


def test_running_out_of_memory_while_encoding(clip_file: Path, small_model: Llava) -> None:
    hook = small_model.network.model.vision_tower.register_forward_pre_hook(no_memory)
    try:
        with pytest.raises(MemoryLimitError):
            compress_video(clip_file, small_model, CONFIG)
    finally:
        hook.remove()


def test_running_out_of_memory_while_answering(
    small_model: Llava, compression: Compression, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(small_model.network.lm_head, "forward", no_memory)
    reply = Pipeline(small_model, CONFIG).answer(compression.tokens, "What moves?")
    with pytest.raises(MemoryLimitError):
        list(reply)
