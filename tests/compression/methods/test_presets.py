from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from aot.compression.methods import build_method
from aot.config.presets import preset_names, preset_text
from aot.config.schema import Config
from aot.config.sources import resolve_config
from aot.types import CompressedTokens, Role
from tests.support import oracle
from tests.support import synthetic_tokens as synthetic

FRAMES, PER_FRAME = 32, 196
VIDEO_FRAMES, VIDEO_PER_FRAME = 64, 169  # LLaVA-Video's
# Anchors before pooling: asked for (supplement of the paper) and what rounding makes of them.
PUBLISHED = {
    "paper/onevision-r10-long": (108, 108),
    "paper/onevision-r10": (126, 126),
    "paper/onevision-r15": (144, 144),
    "paper/onevision-r20": (196, 188),
    "paper/onevision-r25": (205, 202),
}
PUBLISHED_FOR_VIDEO = {
    "paper/video-r10": (108, 108),
    "paper/video-r15": (144, 144),
    "paper/video-r20": (176, 169),
    "paper/video-r25": (198, 198),
    "paper/video-r25-script": (180, 180),
}
OTHER_FRAMES = {"shapes": 8, "llava-video": VIDEO_FRAMES}


def config_of(name: str) -> Config:
    """The preset and nothing else: no aot.yaml lies in a folder that is not there."""
    return resolve_config({}, name, folder=Path("nowhere"))


@cache
def compressed(name: str) -> CompressedTokens:
    """By a preset for LLaVA-OneVision, or for LLaVA-Video."""
    is_video = "video" in name
    frames, per_frame = (VIDEO_FRAMES, VIDEO_PER_FRAME) if is_video else (FRAMES, PER_FRAME)
    shallow, deep, features = synthetic.golden_like(frames)
    kind: oracle.PoolKind = "average" if is_video else "bilinear"
    tokens = synthetic.visual_tokens(shallow, deep, features, kind=kind, embeddings=features.mean(1))
    config = config_of(name)
    return build_method(config).compress(tokens, config.token_budget(frames, per_frame))


def spans(name: str) -> tuple[int, int]:
    """Percent of the tokens that a preset's header says are kept."""
    text = preset_text(name).replace("\n#", "")
    low, high = map(int, re.findall(r"about (\d+) to (\d+) % of the tokens", text)[0])
    return low, high


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_resolves_and_begins_with_its_command(name: str) -> None:
    first = preset_text(name).splitlines()[0]
    assert first.startswith("# aot ")
    assert first.endswith(f"--preset {name}")
    sampling = config_of(name).sampling
    if name in PUBLISHED_FOR_VIDEO or (name.startswith("methods/") and name.endswith("-video")):
        assert (sampling.fps, sampling.max_frames) == (1.0, VIDEO_FRAMES)
    else:
        assert (sampling.fps, sampling.frames) == (None, OTHER_FRAMES.get(name, FRAMES))


LAID_OUT = {
    "methods/fastvid": ("auto", "auto", "original"),
    "methods/evs": ("auto", "auto", "original"),
    "methods/vidcom2-video": ("frame_rows", "auto", "auto"),
    "methods/flashvid-video": ("frame", "auto", "auto"),
    "llava-video": ("auto", "method", "auto"),
    **dict.fromkeys(PUBLISHED_FOR_VIDEO, ("every_row", "auto", "auto")),
}


@pytest.mark.parametrize("name", preset_names())
def test_published_layouts_are_in_their_presets(name: str) -> None:
    model = config_of(name).model
    assert (model.newline, model.token_order, model.positions) == LAID_OUT.get(name, ("auto", "auto", "auto"))


def test_every_published_setting_has_its_preset() -> None:
    published = {name for name in preset_names() if name.startswith("paper/")}
    assert published == {*PUBLISHED, *PUBLISHED_FOR_VIDEO}


@pytest.mark.parametrize("name", [*PUBLISHED, *PUBLISHED_FOR_VIDEO])
def test_paper_presets_pick_the_published_anchors(name: str) -> None:
    asked, anchors = (PUBLISHED | PUBLISHED_FOR_VIDEO)[name]
    facts = compressed(name).facts
    assert (facts["anchors_asked"], facts["anchors_per_frame"]) == (asked, anchors)


@pytest.mark.parametrize("name", PUBLISHED)
def test_paper_presets_keep_what_their_header_says(name: str) -> None:
    low, high = spans(name)
    retention = 100 * len(compressed(name).features) / (FRAMES * PER_FRAME)
    assert low <= retention <= high
    assert low - 1 <= 100 * config_of(name).ratio <= high + 1


@pytest.mark.parametrize("name", PUBLISHED)
def test_paper_presets_emit_what_the_oracle_emits(name: str) -> None:
    config = config_of(name).aot
    assert config.anchors.count is not None
    expected = oracle.aot_paper(
        *synthetic.golden_like(8), oracle.GOLDEN_GRID, config.anchors.count, config.inter.keep_ratio, 4, "bilinear"
    )
    kept = build_method(config_of(name)).compress(synthetic.visual_tokens(*synthetic.golden_like(8)), 0)
    assert synthetic.labels(kept) == [emitted[:4] for emitted in expected]


@pytest.mark.parametrize("name", PUBLISHED_FOR_VIDEO)
def test_paper_presets_for_llava_video_do_what_their_header_says(name: str) -> None:
    """Without transport across frames more is kept than the ratio they are published under."""
    low, high = spans(name)
    kept, config = compressed(name), config_of(name)
    assert low <= 100 * len(kept.features) / (VIDEO_FRAMES * VIDEO_PER_FRAME) <= high
    assert 100 * config.ratio <= low
    assert (config.model.newline, config.model.pool, config.model.time_instruction) == ("every_row", "auto", False)
    assert kept.facts["clip_mode"] == "off"
    assert set(kept.role.tolist()) == {Role.KEPT}
    assert f"%, with both phases: --preset llava-video --ratio {config.ratio:g}." in preset_text(name)


@pytest.mark.parametrize("name", PUBLISHED_FOR_VIDEO)
def test_paper_presets_for_llava_video_emit_what_the_oracle_emits(name: str) -> None:
    """Clips of one frame have no second phase."""
    config = config_of(name)
    assert config.aot.anchors.count is not None
    videos = synthetic.golden_like(8)
    expected = oracle.aot_paper(*videos, oracle.GOLDEN_GRID, config.aot.anchors.count, 0.5, 1, "average")
    kept = build_method(config).compress(synthetic.visual_tokens(*videos, kind="average"), 0)
    assert synthetic.labels(kept) == [emitted[:4] for emitted in expected]


def test_the_preset_for_llava_video_meets_its_ratio_in_clips_of_eight() -> None:
    kept, config = compressed("llava-video"), config_of("llava-video")
    assert len(kept.features) == round(0.1 * VIDEO_FRAMES * VIDEO_PER_FRAME)
    assert [len(clip) for clip in kept.clips] == [8] * 8
    assert config.model.newline == "auto"


@pytest.mark.parametrize("name", ["default", "dynamic"])
def test_other_presets_keep_a_tenth_to_the_token(name: str) -> None:
    assert len(compressed(name).features) == round(0.1 * FRAMES * PER_FRAME)


def test_the_dynamic_preset_cuts_where_the_oracle_does() -> None:
    means = np.mean(synthetic.golden_like(FRAMES)[2], axis=1)
    clips = [(clip.first, clip.stop) for clip in compressed("dynamic").clips]
    assert clips == oracle.dynamic_clips(means, 8, 0.8)
