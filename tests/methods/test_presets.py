from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import numpy as np
import oracle
import pytest
import synthetic_tokens as synthetic

from aot.config import Config
from aot.methods import build_method
from aot.settings import preset_names, preset_text, resolve_config
from aot.types import CompressedTokens

FRAMES, PER_FRAME = 32, 196
# Anchors before pooling: asked for (supplement of the paper) and what rounding makes of them.
PUBLISHED = {
    "paper/onevision-r10-long": (108, 108),
    "paper/onevision-r10": (126, 126),
    "paper/onevision-r15": (144, 144),
    "paper/onevision-r20": (196, 188),
    "paper/onevision-r25": (205, 202),
}


def config_of(name: str) -> Config:
    """The preset and nothing else: no aot.yaml lies in a folder that is not there."""
    return resolve_config({}, name, folder=Path("nowhere"))


@cache
def compressed(name: str) -> CompressedTokens:
    shallow, deep, features = synthetic.golden_like(FRAMES)
    tokens = synthetic.visual_tokens(shallow, deep, features, embeddings=features.mean(1))
    config = config_of(name)
    return build_method(config).compress(tokens, config.token_budget(FRAMES, PER_FRAME))


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_resolves_and_begins_with_its_command(name: str) -> None:
    first = preset_text(name).splitlines()[0]
    assert first.startswith("# aot ")
    assert first.endswith(f"--preset {name}")
    assert config_of(name).sampling.frames == (8 if name == "shapes" else FRAMES)


def test_every_published_setting_has_its_preset() -> None:
    assert {name for name in preset_names() if name.startswith("paper/")} == set(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_paper_presets_pick_the_published_anchors(name: str) -> None:
    asked, anchors = PUBLISHED[name]
    facts = compressed(name).facts
    assert (facts["anchors_asked"], facts["anchors_per_frame"]) == (asked, anchors)


@pytest.mark.parametrize("name", PUBLISHED)
def test_paper_presets_keep_what_their_header_says(name: str) -> None:
    low, high = map(int, re.findall(r"about (\d+) to (\d+) % of the tokens", preset_text(name))[0])
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


@pytest.mark.parametrize("name", ["default", "dynamic"])
def test_other_presets_keep_a_tenth_to_the_token(name: str) -> None:
    assert len(compressed(name).features) == round(0.1 * FRAMES * PER_FRAME)


def test_the_dynamic_preset_cuts_where_the_oracle_does() -> None:
    means = np.mean(synthetic.golden_like(FRAMES)[2], axis=1)
    clips = [(clip.first, clip.stop) for clip in compressed("dynamic").clips]
    assert clips == oracle.dynamic_clips(means, 8, 0.8)
