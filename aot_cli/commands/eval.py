"""`aot eval`: measure methods on drawn clips or on the user's data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from aot.config.schema import BUNDLED_MODEL, Config
from aot.errors import ConfigError
from aot.reports.retention import versions
from aot.runtime.atomic_writes import check_writable, make_folder, write_text
from aot_cli.given_settings import assigned_layer
from aot_cli.options import GENERATION, INSIDE, JSON, METHODS, MODEL, SAMPLING, Given, command, named_methods, shares
from aot_cli.output.console import StageBars, json_object, json_text, notify
from aot_cli.output.screen import print_text
from aot_cli.output.tables import FEW_VIDEOS, FIDELITY, accuracy_tables, family_tables, print_result, several_runs
from aot_cli.steps import choose_model, load_with_progress, refuse_selection, unknown_words

if TYPE_CHECKING:
    from rich.console import RenderableType

    from aot.config.strict import Settings
    from aot.evaluation import Results

__all__ = ["evaluate_command"]

_METHODS = "none,random,uniform,attention,frames,aot"
_RATIOS = "0.5,0.25,0.1,0.05"
_FIRST_SEED = 10_000_000  # training uses seeds from 20,000,000, development used 0 to 2000
_ANSWERS, _RESULTS, _PLOTS = "answers.jsonl", ("results.json", "results.csv"), ("accuracy.svg", "accuracy.png")
_FIDELITY_PLOTS = ("divergence.svg", "divergence.png")
_RUNS = "run: number of the run in which a row's times were measured; the machine may differ between runs"
_DIFFERENCES = "vs: difference of micro on the same questions, in points; * its 95 % interval does not contain 0"


@command(SAMPLING, MODEL, INSIDE, GENERATION)
def evaluate_command(
    given: Given,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for answers, results and plots.")],
    data: Annotated[
        Path | None,
        typer.Argument(help="JSONL file of questions: video, question [, answer, options, family, id]."),
    ] = None,
    shapes: Annotated[int | None, typer.Option("--shapes", min=1, help="Use N drawn clips instead of a file.")] = None,
    world: Annotated[
        Literal["shapes", "films"] | None,
        typer.Option(
            "--world", help="What --shapes draws: plain shapes, or films with camera and occlusion, for --frames 16."
        ),
    ] = None,
    first_seed: Annotated[
        int, typer.Option("--first-seed", help="Seed of the first drawn clip; 2001 to 19,999,999 are not in training.")
    ] = _FIRST_SEED,
    methods: METHODS = _METHODS,
    ratios: Annotated[
        str, typer.Option("--ratios", "--ratio", "-r", help="Comma-separated ratios, e.g. 0.5,10%.")
    ] = _RATIOS,
    variant: Annotated[
        list[str] | None,
        typer.Option(
            "--variant",
            metavar="NAME:PATH=VALUE,...",
            help="Add a method with other settings, at every ratio: lone:aot.inter.enabled=false, or "
            "even:methods.fastvid.own_weight=0.5. Repeatable.",
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Use only the first N videos.")] = None,
    reference: Annotated[
        Literal["full", "off"],
        typer.Option("--reference", help="full: also compare with all tokens, which needs no answers in the file."),
    ] = "off",
    restart: Annotated[
        bool, typer.Option("--restart", help="Discard the answers in the folder and start again.")
    ] = False,
    as_json: JSON = False,
) -> None:
    """Evaluate the accuracy of methods at several ratios on a set of questions.

    All methods answer the same questions; the same command continues an interrupted run.

    aot eval --shapes 50 -o results --model shapes

    aot eval questions.jsonl -o results --reference full
    """
    refuse_selection(given)
    if (data is None) == (shapes is None):
        raise ConfigError("give one data set: a JSONL file, or --shapes N for N drawn clips")
    if world and not shapes:
        raise ConfigError("--world chooses what --shapes N draws; add --shapes N, or leave out --world")
    from aot.evaluation import build_conditions, evaluate, load_dataset, locked, off_budget

    with_reference = reference == "full"
    items = load_dataset(data, limit, needs_answers=not with_reference) if data else ()
    chosen = choose_model(given)
    config = chosen.config
    conditions = build_conditions(config, named_methods(methods), shares("--ratios", ratios), _variants(variant or []))
    notify(off_budget(conditions))
    make_folder(output)
    for name in (_ANSWERS, *_RESULTS, *_PLOTS, *_FIDELITY_PLOTS):
        check_writable(output / name, overwrite=True, source=data)
    with locked(output):  # fails now, not after the model was loaded
        pass
    model = load_with_progress(chosen)
    items = items or load_dataset(_draw(shapes or 0, world or "shapes", first_seed, output), limit)
    notify(unknown_words(model, [item.prompt for item in items]))
    try:
        with StageBars() as bars:
            results = evaluate(
                items, model, conditions, output, with_reference=with_reference, restart=restart,
                on_notice=lambda notice: notify([notice]),
                on_progress=lambda done, total: bars("evaluate", done, total),
            )  # fmt: skip
    except KeyboardInterrupt:
        if (output / _ANSWERS).is_file():
            notify([f"the answers so far are in {output}; the same command continues from there"])
        raise
    if results.videos < FEW_VIDEOS:
        few = f"{results.videos} video{'s' * (results.videos > 1)}"
        notify([f"intervals and differences from {few} are not reliable; use at least {FEW_VIDEOS}"])
    written = _write(results, output, config)
    if as_json:
        print_text((output / "results.json").read_text(encoding="utf-8"), end="")
    else:
        _show(results, output, written)
        if shapes:
            data = output / "clips" / "questions.jsonl"
            print_text(
                f"{data}: the drawn clips and their questions, which `aot eval` reads with other models or settings"
            )


def _draw(shapes: int, world: str, first_seed: int, output: Path) -> Path:
    from aot.shapes.clips import write_questions

    with StageBars() as bars:
        seeds = range(first_seed, first_seed + shapes)
        return write_questions(output / "clips", seeds, lambda done: bars("draw clips", done, shapes), world=world)


def _variants(texts: list[str]) -> dict[str, Settings]:
    found: dict[str, Settings] = {}
    for text in texts:
        name, colon, assignments = (part.strip() for part in text.partition(":"))
        if not colon or not name:
            raise ConfigError(f"--variant {text} is not NAME:PATH=VALUE, for example no-inter:aot.inter.enabled=false")
        if name in found:
            raise ConfigError(f"two variants are called {name}; rename one")
        parts = [part.strip() for part in assignments.split(",") if part.strip()]
        found[name] = assigned_layer(parts, f"--variant {name}").settings
    return found


def _write(results: Results, output: Path, config: Config) -> list[str]:
    """Write the results in all formats and return the names of the files."""
    from aot.evaluation.scoring import SCORING

    if not _has_matplotlib():
        notify(["no plot, because matplotlib is not installed; pip install matplotlib and repeat the command"])
    toy = {"toy_model": config.model.name == BUNDLED_MODEL}
    plain = {**results.to_dict(), **toy, "scoring": SCORING, "config": config.to_dict(), "versions": versions()}
    whole = json_text(json_object("aot.eval/1", plain)) + "\n"
    texts = dict(zip(_RESULTS, (whole, results.to_csv()), strict=True))
    for name, text in texts.items():
        write_text(output / name, text, overwrite=True)
    return [_ANSWERS, *texts, *(_plot(results, output) if _has_matplotlib() else [])]


def _plot(results: Results, output: Path) -> list[str]:
    """Plot what was measured and return the names of the files."""
    from aot.evaluation.plot import plot_accuracy, plot_divergence

    first = results.conditions[0]
    plots = {name: plot_accuracy for name in _PLOTS if first.micro}
    plots |= {name: plot_divergence for name in _FIDELITY_PLOTS if first.fidelity}
    for name, plot in plots.items():
        plot(results, output / name)
    return list(plots)


def _has_matplotlib() -> bool:
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        return False
    return True


def _show(results: Results, output: Path, written: list[str]) -> None:
    from aot.evaluation.scoring import SCORING

    first = results.conditions[0]
    shown: list[RenderableType] = ["accuracy by family, %", *family_tables(results)] if first.micro else []
    notes = [*([SCORING, _DIFFERENCES] if first.micro else []), *([FIDELITY] if first.fidelity else [])]
    print_result(*accuracy_tables(results), *shown, *notes, *([_RUNS] if several_runs(results) else []))
    videos = f"{results.videos} video{'s' * (results.videos > 1)}"
    print_text(
        f"{results.questions} questions about {videos} of {results.visual_tokens:.0f} visual tokens; "
        f"decode {results.decode_ms:.0f} ms, encode {results.encode_ms:.0f} ms"
    )
    print_text(f"{output}: {', '.join(written)}")
