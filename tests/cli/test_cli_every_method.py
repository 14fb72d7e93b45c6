"""Every method and every reduction inside the language model, from a real mp4 to an answer."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_run import Aot

from aot.registry import INNER, METHODS, find

SHORT = ("--ratio", "0.5", "--max-new-tokens", "1", "--json")


@pytest.mark.parametrize("name", METHODS)
def test_a_method_answers(run_aot: Aot, clip_file: Path, small: tuple[str, ...], name: str) -> None:
    done = run_aot("ask", clip_file, "what happens?", *small, *SHORT, "--method", name)
    assert done.code == 0, done.err
    total, kept = done.json["visual_tokens"], done.json["kept_tokens"]
    assert kept == (round(0.5 * total) if find(name).card.exact else total)
    assert done.json["answers"][0]["output_tokens"] == 1


@pytest.mark.parametrize("name", INNER)
def test_a_reduction_inside_answers(run_aot: Aot, clip_file: Path, small: tuple[str, ...], name: str) -> None:
    extra = ("--inner", name, "--method", "uniform", "--set", "inner.budget=extra")
    done = run_aot("ask", clip_file, "what happens?", *small, *SHORT, *extra)
    assert done.code == 0, done.err
    assert done.json["kept_tokens"] == round(0.5 * done.json["visual_tokens"])
    assert 0 < done.json["language_model_load"] < 0.5


def test_the_tower_merges_to_what_the_reduction_inside_leaves(
    run_aot: Aot, clip_file: Path, small: tuple[str, ...]
) -> None:
    """Half of the load with a reduction inside is more than half of the tokens before it."""
    line = ("ask", clip_file, "what happens?", *small, *SHORT, "--inner", "flashvid", "--method")
    merged, chosen = (run_aot(*line, name) for name in ("tome", "uniform"))
    assert merged.code == chosen.code == 0, merged.err
    assert merged.json["kept_tokens"] == chosen.json["kept_tokens"] > round(0.5 * merged.json["visual_tokens"])
