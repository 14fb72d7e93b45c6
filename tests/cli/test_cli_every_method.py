"""Every method and every reduction inside the language model, from a real mp4 to an answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from aot.plugins import INNER, METHODS, find
from tests.support.cli_run import Aot

SHORT = ("--ratio", "0.5", "--max-new-tokens", "1", "--json")


@pytest.mark.parametrize("name", METHODS)
def test_a_methods_tokens_answer(
    run_aot: Aot, clip_file: Path, small: tuple[str, ...], tmp_path: Path, name: str
) -> None:
    tokens = tmp_path / "tokens.pt"
    line = ("compress", clip_file, "-o", tokens, *small, "--ratio", "0.5", "--method", name)
    compressed = run_aot(*line, "--question", "what happens?", "--json")
    assert compressed.code == 0, compressed.err
    total, kept = compressed.json["visual_tokens"], compressed.json["kept_tokens"]
    assert kept == (round(0.5 * total) if find(name).card.exact else total)
    answered = run_aot("ask", tokens, "what happens?", *small[:2], "--max-new-tokens", "1", "--json")
    assert answered.code == 0, answered.err
    assert answered.json["answers"][0]["output_tokens"] == 1


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
