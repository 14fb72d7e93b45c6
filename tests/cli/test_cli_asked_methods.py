"""`--method echoprune`, which reads the question, through the real entry point."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.support.cli_run import Aot

METHOD = ("--method", "echoprune", "--ratio", "0.2")


def kept_in(tokens: Path) -> list[int]:
    found = torch.load(tokens, weights_only=True)
    return [found[name].tolist() for name in ("frame", "row", "col")]  # type: ignore[return-value]


def test_a_file_is_kept_by_its_question(run_aot: Aot, small: tuple[str, ...], clip_file: Path, tmp_path: Path) -> None:
    for name, question in (("one", "a red ox?"), ("other", "blue"), ("again", "a red ox?")):
        run = run_aot("compress", clip_file, "-o", tmp_path / f"{name}.pt", *small, *METHOD, "-q", question, "--json")
        assert run.code == 0, run.err
        assert run.json["kept_tokens"] == run.json["budget_tokens"]
        shares = [value for name, value in run.json["facts"].items() if name.endswith("_variance_share")]
        assert sum(shares) == pytest.approx(1, abs=1e-3)
    one, other, again = (kept_in(tmp_path / f"{name}.pt") for name in ("one", "other", "again"))
    assert one == again != other


@pytest.mark.parametrize("command", [("compress", "{clip}"), ("inspect", "{clip}"), ("chat", "{clip}")])
def test_without_a_question_it_is_refused(
    run_aot: Aot, small: tuple[str, ...], clip_file: Path, command: tuple[str, ...]
) -> None:
    run = run_aot(*(part.format(clip=clip_file) for part in command), *small, *METHOD)
    assert (run.code, run.out) == (2, "")
    assert "echoprune keeps tokens by the question, and there is none here; use it with aot ask" in run.err
    assert not list(Path().iterdir())


def test_compare_has_it_among_others(run_aot: Aot, small: tuple[str, ...], clip_file: Path) -> None:
    line = ("compare", clip_file, "a red ox?", *small, "--max-new-tokens", "1", "--ratio", "0.2", "--json")
    run = run_aot(*line, "--methods", "uniform,echoprune")
    assert run.code == 0, run.err
    assert [row["method"] for row in run.json["methods"]] == ["uniform", "echoprune"]
    assert len({row["kept_tokens"] for row in run.json["methods"]}) == 1


def test_the_list_of_methods_says_so(run_aot: Aot) -> None:
    needs = {row["name"]: row["needs"] for row in run_aot("methods", "--json").json["methods"]}
    assert [name for name, of_method in needs.items() if "the question" in of_method] == ["echoprune"]


def test_the_benchmark_has_a_question(run_aot: Aot, small: tuple[str, ...], clip_file: Path) -> None:
    run = run_aot("bench", "video", clip_file, *small, *METHOD, "--rounds", "1", "--max-new-tokens", "1", "--json")
    assert run.code == 0, run.err
